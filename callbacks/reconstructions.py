"""What the autoencoder keeps of a motion, as moving skeletons in TensorBoard."""

from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image

from callbacks.writers import add_picture, curve_step, writers
from skeleton_llm.plotting import blank, draw_frames, join_gif

_MOST_FRAMES = 64  # of a GIF; longer clips are thinned


class Reconstructions(L.Callback):
    """After each validation: the same validation clips beside what their action sentences give back, as a GIF.

    None before the codebook stands: there are no sentences yet.

    Args:
        num_clips: how many, spread evenly over the validation split.
    """

    def __init__(self, num_clips: int = 4) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        self.num_clips = num_clips

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (found_writers := writers(trainer)) or not pl_module.vqvae.quantizer.ready:
            return
        data: Any = trainer.datamodule
        clips = data.batches("val")
        if len(clips) == 0:
            return
        rows = np.unique(np.linspace(0, len(clips) - 1, self.num_clips).astype(int))
        found = clips.__getitems__([(-1, int(row)) for row in rows])
        batch = {name: tensor.to(pl_module.device) for name, tensor in found.items()}
        vqvae: Any = pl_module.vqvae
        joints, persons = (batch[name] for name in ("joints", "persons"))
        again, there = vqvae.decode(*vqvae.encode(joints, persons, batch.get("lengths")))
        again = (again * there[:, None, :, None, None])[:, : joints.shape[1]]
        lengths = batch["lengths"].tolist() if "lengths" in batch else [joints.shape[1]] * len(rows)
        for row, both, length, label in zip(
            rows, torch.stack([joints, again.to(joints)], 1), lengths, batch["labels"].tolist(), strict=True
        ):
            name = data.class_names[label] if label >= 0 else ""
            before, after = both[:, : length : -(-length // _MOST_FRAMES)].float().cpu().numpy()
            gif = _side_by_side(before, after, data.layout, name)
            for writer in found_writers:
                add_picture(writer, f"reconstructions/clip_{row}", gif[0], join_gif(gif), curve_step(trainer))


def _side_by_side(before: np.ndarray, after: np.ndarray, layout: str, name: str) -> list[Image.Image]:
    left = draw_frames(before, layout, name, beside=after)
    right = draw_frames(after, layout, "from its action sentence", beside=before)
    frames = []
    for a, b in zip(left, right, strict=True):
        frame = blank(a.width + b.width, a.height)
        frame.paste(a, (0, 0))
        frame.paste(b, (a.width, 0))
        frames.append(frame)
    return frames

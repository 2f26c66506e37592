"""What a token looks like: poses of real clips where their sentences use it."""

import io
from typing import Any

import lightning as L
import numpy as np

from callbacks.usage_watcher import UsageWatcher
from callbacks.writers import add_picture, curve_step, writers
from skeleton_llm.plotting import Pose, draw_poses

_EVERYONE = -1


class Places:
    """Up to ``most`` clips for each token with a place in each, chosen as if by lot, in memory that does not grow.

    A place is a row (token, clip, frame, person). Of all clips that use a token those with the lowest lot stay, so that
    they do not all come from the first subject; a clip's lot depends on its number alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows = np.empty((0, 4), dtype=np.int64)

    def add(self, rows: np.ndarray) -> None:
        """Take places [K, 4] in; of a clip's places of one token the first counts."""
        first = np.unique(rows[:, :2], axis=0, return_index=True)[1]
        rows = np.concatenate([self.rows, rows[first]])
        rows = rows[np.lexsort((_lot(rows[:, 1]), rows[:, 0]))]
        new = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))  # where another token begins
        rank = np.arange(len(rows)) - np.repeat(new, np.diff(new, append=len(rows)))
        self.rows = rows[rank < self.most]

    def of(self, token: int) -> np.ndarray:
        """The places of one token."""
        return self.rows[self.rows[:, 0] == token]


def _lot(clips: np.ndarray) -> np.ndarray:
    """A number without pattern for each clip (Knuth's multiplicative hash)."""
    return (clips + 1) * 2654435761 % 2**32


class TokenSheets(UsageWatcher):
    """After each validation: for each of the most used tokens a sheet of poses of validation clips that it stands for.

    A pose is the middle frame of those that the token's step covers. Reads ``indices`` and ``mask`` [B, L] of the
    validation step's output and the batch's ``index`` [B]; clips are those of rank zero.

    Args:
        num_tokens: how many sheets.
        num_clips: the most poses on a sheet.
    """

    def __init__(self, num_tokens: int = 6, num_clips: int = 6) -> None:
        if min(num_tokens, num_clips) < 1:
            raise ValueError(f"num_tokens and num_clips must be at least 1, got {num_tokens} and {num_clips}")
        self.num_tokens, self.num_clips = num_tokens, num_clips

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.places = Places(self.num_clips)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self.places = Places(self.num_clips)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)
        indices, mask = outputs["indices"], outputs["mask"]
        if not writers(trainer) or not len(indices):
            return
        vqvae: Any = pl_module.vqvae
        tokens, mask = indices.cpu().numpy(), mask.cpu().numpy()
        clip, position = np.nonzero(mask)
        person, position = np.divmod(position, tokens.shape[1] // (vqvae.num_persons if vqvae.apart else 1))
        frame = position // vqvae.config.tokens_per_step * vqvae.frames_per_step + vqvae.frames_per_step // 2
        if not vqvae.apart:
            person = np.full_like(person, _EVERYONE)
        rows = batch["index"].cpu().numpy()[clip]
        self.places.add(np.stack([tokens[mask], rows, frame, person], axis=1))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts = self.usage.compute().cpu()
        if not (found := writers(trainer)) or not pl_module.vqvae.quantizer.ready:
            return
        tokens = counts.topk(min(self.num_tokens, int((counts > 0).sum()))).indices.tolist()
        sheets = {token: places for token in tokens if len(places := self.places.of(token))}
        if not sheets:
            return
        data: Any = trainer.datamodule
        poses = iter(_poses(data, np.concatenate(list(sheets.values()))))
        for token, places in sheets.items():
            sheet = draw_poses([next(poses) for _ in places], data.layout)
            file = io.BytesIO()
            sheet.save(file, "PNG")
            for writer in found:
                add_picture(writer, f"tokens/token_{token}", sheet, file.getvalue(), curve_step(trainer))


def _poses(data: Any, places: np.ndarray) -> list[Pose]:
    """One for each place, with the class and where it was found; the clips are read anew."""
    clips = data.batches("val")
    number = {int(row): at for at, row in enumerate(clips.rows)}
    batch = clips.__getitems__([(-1, number[row]) for row in places[:, 1].tolist()])
    last = batch["lengths"] - 1 if "lengths" in batch else [batch["joints"].shape[1] - 1] * len(places)
    poses = []
    for joints, label, end, place in zip(batch["joints"], batch["labels"].tolist(), last, places.tolist(), strict=True):
        _, row, frame, person = place
        frame = min(frame, int(end))  # behind a clip's end its last frame is held
        pose = joints[frame].numpy().copy()
        if person != _EVERYONE:
            pose[np.arange(len(pose)) != person] = 0
        poses.append(Pose(pose, f"{data.class_names[label] if label >= 0 else ''}\nclip {row}, frame {frame}"))
    return poses

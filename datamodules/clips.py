"""Clips of a prepared dataset as whole batches, augmented."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from datamodules.stream import Key
from skeleton_llm.skeletons import Augmentation, PreparedDataset, Preprocess, find_layout
from skeleton_llm.skeletons.transforms import interpolate, place

Batch = dict[str, Tensor]
_NO_CHANGE = Augmentation(rotation=0.0, tilt=0.0, scale=0.0, crop=1.0)


class ClipBatches(Dataset[Batch]):
    """Rows of a prepared dataset; asked for a list of keys (pass, index) it gives the whole batch at once."""

    def __init__(
        self,
        data: PreparedDataset,
        rows: np.ndarray,
        preprocess: Preprocess,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        labels: np.ndarray | None = None,
        clean: bool = False,
    ) -> None:
        self.data, self.rows, self.preprocess, self.clean = data, rows, preprocess, clean
        self.augmentation, self.seed = augmentation, seed
        self.labels = data.table["label"] if labels is None else labels
        self.layout = find_layout(data.info["layout"])
        self._known = np.zeros(len(data), dtype=bool)
        self._shift = np.zeros((len(data), 3), dtype=np.float32)
        self._rotation = np.zeros((len(data), 3, 3), dtype=np.float32)
        self._seen = np.zeros(data.frames.shape[:2], dtype=bool)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch:
        rows = self.rows[[index for _, index in keys]]
        self._learn(rows)
        offset, length = (torch.from_numpy(self.data.table[column][rows]) for column in ("offset", "length"))
        training = bool(keys) and keys[0][0] >= 0
        changes = self.augmentation
        if changes is None and training and self.preprocess.length == "window":
            changes = _NO_CHANGE  # windows are random in any case
        draws = changes.draw(self.seed, keys) if changes is not None and keys else None
        position, lengths = self.preprocess.positions(length, draws, training=training)
        frames, seen = torch.from_numpy(self.data.frames), torch.from_numpy(self._seen)
        raw, present = interpolate(frames, seen, offset, length, position)
        shift, rotation = torch.from_numpy(self._shift[rows]), torch.from_numpy(self._rotation[rows])
        turned = rotation
        if draws is not None:
            if len(mirrored := draws.mirrored.nonzero()[:, 0]):
                raw[mirrored] = raw[mirrored][..., list(self.layout.mirror), :]
                rotation[mirrored] *= torch.tensor([-1.0, 1.0, 1.0])
            turned = rotation @ self._flat(draws.change)
        joints = place(raw, present, shift, turned)
        batch = {
            "joints": joints,
            "persons": present.any(1),
            "labels": torch.from_numpy(self.labels[rows]),
            "index": torch.from_numpy(rows),
        }
        if lengths is not None:
            batch["lengths"] = lengths
        if self.clean:
            batch["clean"] = joints if draws is None else place(raw, present, shift, rotation)
        if self.augmentation is not None and draws is not None and self.augmentation.noise > 0:
            noisy = self.augmentation.add_noise(joints, draws) * present[..., None, None]
            if self.layout.planar:
                noisy[..., 2] = joints[..., 2]
            batch["joints"] = noisy
        return batch

    def _flat(self, change: Tensor) -> Tensor:
        """The drawn change, without effect on the third channel of a planar layout, a confidence."""
        if not self.layout.planar:
            return change
        change = F.pad(change[:, :2, :2], (0, 1, 0, 1))
        change[:, 2, 2] = 1
        return change

    def _learn(self, rows: np.ndarray) -> None:
        """Each clip's canonical frame and who is seen when, from the whole clip the first time it is asked for."""
        for row in rows[~self._known[rows]].tolist():
            first = self.data.table["offset"][row]
            clip = self.data.frames[first : first + self.data.table["length"][row]]
            self._shift[row], self._rotation[row] = self.preprocess.canonical(clip, self.layout)
            self._seen[first : first + len(clip)] = clip.any(axis=(2, 3))
            self._known[row] = True

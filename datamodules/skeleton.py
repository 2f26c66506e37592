"""The prepared clips of one protocol as batches, for every stage."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.stream import Key, Shard, Stream
from skeleton_llm.skeletons import (
    Augmentation,
    PreparedDataset,
    Preprocess,
    carve_validation,
    check_published,
    find_layout,
    find_protocol,
    unseen_classes,
)
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
            turned = rotation @ self._flat(draws.rotation)
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

    def _flat(self, rotation: Tensor) -> Tensor:
        """The drawn rotation and size, without effect on the third channel of a planar layout, a confidence."""
        if not self.layout.planar:
            return rotation
        return rotation * torch.tensor([1.0, 1.0, 0.0]) + torch.diag(torch.tensor([0.0, 0.0, 1.0]))

    def _learn(self, rows: np.ndarray) -> None:
        """Each clip's canonical frame and who is seen when, from the whole clip the first time it is asked for."""
        for row in rows[~self._known[rows]].tolist():
            first = self.data.table["offset"][row]
            clip = self.data.frames[first : first + self.data.table["length"][row]]
            self._shift[row], self._rotation[row] = self.preprocess.canonical(clip, self.layout)
            self._seen[first : first + len(clip)] = clip.any(axis=(2, 3))
            self._known[row] = True


class SkeletonDataModule(L.LightningDataModule):
    """Batches of prepared clips.

    Each is a dict: ``joints`` [B, T, M, V, 3] in metres, augmented in training, ``persons`` [B, M], ``labels`` [B],
    ``index`` [B] (row of the prepared dataset), and unless clips are resized to one length ``lengths`` [B], the frames
    that count; the others hold a clip's last one. A rank without validation clips gets one batch of none.

    With the attribute ``clean`` set there is also ``clean`` [B, T, M, V, 3]: the same part of the clip without
    rotation, tilt, scale and noise, which a denoising autoencoder shall give back; outside training it equals
    ``joints``.

    Args:
        folder: the prepared dataset, made by ``skeleton-llm prepare``.
        protocol: who trains and who tests, e.g. ``ntu60_xsub`` or ``nw_ucla_xview``.
        preprocess: the deterministic part (length, view alignment); stage 2 takes it from the tokenizer.
        augmentation: random changes of training clips; null for none.
        batch_size: clips a rank takes per step.
        val_fraction: share of the training clips held out for validation, whole subjects at a time.
        seed: of the order and the augmentation (the validation subjects are always the same).
        num_workers: loader processes; 0 reads in the training process, which small datasets do fastest.
        partial: accept a dataset whose splits are smaller than the published ones.
        unseen: zero-shot: these classes are kept out of training and validation and are the only ones tested
            (``draw0`` to ``draw4``: LLM-AR's 3 drawn classes; ``55/5``, ``48/12``, ``110/10``, ``96/24``: SynSE's).
    """

    def __init__(
        self,
        folder: str,
        protocol: str,
        preprocess: Preprocess | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        seed: int = 0,
        num_workers: int = 0,
        *,
        partial: bool = False,
        unseen: str | None = None,
    ) -> None:
        """Open the dataset and split it, so that a wrong folder ends the run before anything else is built."""
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.init_args.batch_size must be at least 1, got {batch_size}")
        self.data = PreparedDataset.open(folder)
        self.info: dict[str, Any] = self.data.info
        self.layout: str = self.info["layout"]
        self.num_persons: int = self.info["num_persons"]
        self.protocol = find_protocol(protocol, self.info["name"])
        self.preprocess = preprocess or Preprocess()
        self.augmentation = augmentation
        if find_layout(self.layout).planar:
            _check_planar(self.layout, self.preprocess, augmentation)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.clean = False
        names: list[str] = self.info["class_names"]
        kept = range(len(names)) if self.protocol.classes is None else self.protocol.classes
        self.class_names = [names[label] for label in kept]
        self.labels = np.full(len(names) + 1, -1)  # the last for unknown classes
        self.labels[list(kept)] = range(len(kept))
        self.labels = self.labels[self.data.table["label"]]
        train, test = self.protocol.split(self.data.table)
        if not partial:
            check_published(self.protocol, len(train), len(test), left_out=self.info.get("accepted", {}))
        self.unseen: tuple[int, ...] = ()
        if unseen is not None:
            self.unseen = unseen_classes(unseen, self.info["name"], len(self.class_names))
            train = train[~np.isin(self.labels[train], self.unseen)]
            test = test[np.isin(self.labels[test], self.unseen)]
        train, val = carve_validation(self.data.table, train, val_fraction, seed=0)
        self.rows = {"train": train, "val": val, "test": test}

    def batches(self, split: str, augmentation: Augmentation | None = None) -> ClipBatches:
        """The clips of ``train``, ``val`` or ``test``."""
        rows = self.rows[split]
        return ClipBatches(
            self.data,
            rows,
            self.preprocess,
            augmentation=augmentation,
            seed=self.seed,
            labels=self.labels,
            clean=self.clean,
        )

    def candidates(self, split: str) -> tuple[int, ...] | None:
        """The only classes that an answer may name in ``split``: the unseen ones in a zero-shot test; None for all."""
        return self.unseen if split == "test" and self.unseen else None

    def training_sample(self, num_clips: int) -> Batch:
        """Training clips without augmentation, spread evenly and the same on every rank, as one batch."""
        size = len(self.rows["train"])
        index = np.linspace(0, size - 1, min(num_clips, size)).astype(int)
        return self.batches("train").__getitems__([(-1, int(i)) for i in index])

    def train_dataloader(self) -> DataLoader[Batch]:
        """The stream of training batches from the step the trainer stands at (counters are restored before this)."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.max_steps < 1:
            raise ValueError(f"trainer.max_steps must say how many steps the run has, got {trainer.max_steps}")
        stream = Stream(
            len(self.rows["train"]),
            self.batch_size,
            seed=self.seed,
            start=trainer.fit_loop.epoch_loop.batch_progress.total.processed,
            horizon=trainer.max_steps * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return self._loader(self.batches("train", self.augmentation), stream)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation clip once over all ranks."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every test clip once over all ranks."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(self.batches(split), Shard(len(self.rows[split]), self.batch_size, rank=rank, world=world))

    def _loader(self, clips: ClipBatches, keys: Stream | Shard) -> DataLoader[Batch]:
        return DataLoader(
            clips,
            batch_sampler=keys,
            collate_fn=_whole_batch,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator),
            generator=torch.Generator().manual_seed(0),  # its own, else iter() draws from the global one
            persistent_workers=False,
        )


def _check_planar(layout: str, preprocess: Preprocess, augmentation: Augmentation | None) -> None:
    """2D poses cannot be turned in space."""
    if preprocess.align != "none":
        raise ValueError(
            f"{layout} is a 2D layout, which cannot be aligned: set data.init_args.preprocess.align to none"
        )
    if augmentation is not None and (augmentation.rotation > 0 or augmentation.tilt > 0):
        raise ValueError(
            f"{layout} is a 2D layout, which cannot be turned: set rotation and tilt of data.augmentation to 0"
        )


def _whole_batch(batch: Batch) -> Batch:
    return batch

"""The prepared clips of one protocol as batches, for every stage."""

import atexit
import multiprocessing
import multiprocessing.util
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader

from datamodules.clips import Batch, ClipBatches
from datamodules.sentences import SentenceBatches
from datamodules.stream import Shard, Stream
from skeleton_llm import signals
from skeleton_llm.networks import ActionTokenizer
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
        group_by_length: batches of clips of like length (a pass is still shuffled, see Stream).
        draws: of every training clip, the augmented draws that stage 2 reads as action sentences from disk; null has
            the tokenizer read augmented skeletons at every step.
        sentence_folder: where those are kept; null for ``sentences`` inside ``folder``.
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
        draws: int | None = None,
        sentence_folder: str | None = None,
        *,
        group_by_length: bool = False,
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
        if draws is not None and draws < 1:
            raise ValueError(f"data.init_args.draws is a number of draws, at least 1, or null; got {draws}")
        self.draws, self.group_by_length = draws, group_by_length
        self.sentence_folder = Path(sentence_folder or Path(folder) / "sentences")
        self.clean = False
        self.reader: ActionTokenizer | None = None  # stage 2 gives its tokenizer
        names: list[str] = self.info["class_names"]
        kept = range(len(names)) if self.protocol.classes is None else self.protocol.classes
        self.class_names = [names[label] for label in kept]
        self.labels = np.full(len(names) + 1, -1)  # the last for unknown classes
        self.labels[list(kept)] = range(len(kept))
        self.labels = self.labels[self.data.table["label"]]
        train, test = self.protocol.split(self.data.table)
        if not partial:
            check_published(self.protocol, len(train), len(test), left_out=self.info.get("accepted", {}))
        self.unseen: list[int] = []
        if unseen is not None:
            self.unseen = list(unseen_classes(unseen, self.info["name"], len(self.class_names)))
            train = train[~np.isin(self.labels[train], self.unseen)]
            test = test[np.isin(self.labels[test], self.unseen)]
        train, val = carve_validation(self.data.table, train, val_fraction, seed=0)
        self.rows = {"train": train, "val": val, "test": test}
        for split, rows in self.rows.items():
            if len(rows) == 0 and (split != "val" or val_fraction > 0):
                raise ValueError(
                    f"{folder}: the protocol {self.protocol.name} leaves no {split} clips of its {len(self.data)};"
                    " prepare the whole dataset, or give the data's own protocol (data.init_args.protocol)"
                )
        self.lengths: np.ndarray = self.data.table["length"]  # of every row, what batches are grouped by

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
            lengths=self.lengths[self.rows["train"]] if self.group_by_length else None,
        )
        return self._loader(self._read(self.batches("train", self.augmentation), self.draws or 0), stream)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation clip once over all ranks."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every test clip once over all ranks."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        clips = self._read(self.batches(split), 0)
        return self._loader(clips, Shard(len(self.rows[split]), self.batch_size, rank=rank, world=world))

    def _read(self, clips: ClipBatches, draws: int) -> ClipBatches | SentenceBatches:
        """The clips, or with ``draws`` set their sentences, which the first rank writes where they are not on disk."""
        trainer = self.trainer
        if self.draws is None or self.reader is None or trainer is None:
            return clips
        sentences = SentenceBatches(clips, self.reader, self.sentence_folder, draws)
        if trainer.is_global_zero:
            try:
                sentences.write()
            except OSError as error:
                raise OSError(
                    f"{self.sentence_folder}: the action sentences cannot be kept there ({error.strerror or error});"
                    " name another folder with data.init_args.sentence_folder, or set data.init_args.draws to null"
                ) from error
        trainer.strategy.barrier()
        return sentences

    def _loader(self, clips: ClipBatches | SentenceBatches, keys: Stream | Shard) -> DataLoader[Batch]:
        return DataLoader(
            clips,
            batch_sampler=keys,
            collate_fn=_whole_batch,
            num_workers=self.num_workers,
            worker_init_fn=_left_to_the_run,
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
    if preprocess.turns:
        raise ValueError(f"{layout} is a 2D layout, which cannot be turned: set data.init_args.preprocess.turns to []")
    if augmentation is not None and (augmentation.rotation > 0 or augmentation.tilt > 0):
        raise ValueError(
            f"{layout} is a 2D layout, which cannot be turned: set rotation and tilt of data.augmentation to 0"
        )


def _left_to_the_run(worker: int) -> None:
    """A signal to all processes of a job is the run's to answer: it still needs its workers then."""
    signals.ignore()


def _end_workers() -> None:
    """Of a loader that an exception keeps alive to the end: Python would ask them by a signal and wait for ever."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error for each
    for process in workers:
        process.kill()


atexit.register(_end_workers)  # behind multiprocessing's own, and so called before it


def _whole_batch(batch: Batch) -> Batch:
    return batch

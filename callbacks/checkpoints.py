"""Which checkpoints a run writes and keeps."""

import re
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint

from callbacks.settled import settle
from callbacks.writers import writers
from skeleton_llm import shards

_NAME = re.compile(r"step=(\d+)\.ckpt")
_UNFINISHED = re.compile(r"\..*\.ckpt\..*tmp")


def save(trainer: L.Trainer) -> Path:
    """Write ``checkpoints/step=N.ckpt`` of the run's folder, and remove what is one too many; all ranks together.

    What TensorBoard was told so far is on disk before it: curves go on from a checkpoint without a gap.
    """
    for writer in writers(trainer):
        writer.flush()
    path = _folder(trainer) / f"step={trainer.global_step}.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoints) and trainer.is_global_zero:
            callback.tidy(_folder(trainer))
    return path


class Checkpoints(Checkpoint):
    """Save every so many optimiser steps and at the last one, never in the middle of an accumulation.

    Names are ``checkpoints/step=N.ckpt`` under the run's folder; no links. A step is saved when it is settled, with its
    validation behind it.

    Args:
        every: optimiser steps from one checkpoint to the next.
        newest: how many are kept.
        best: the measure of validation whose best is kept as ``best.ckpt``, for evaluation; null for none.
        mode: whether ``max`` or ``min`` of it is best.
    """

    def __init__(
        self, every: int, newest: int = 2, best: str | None = None, mode: Literal["max", "min"] = "max"
    ) -> None:
        if every < 1 or newest < 1:
            raise ValueError(f"callbacks.Checkpoints: every and newest are at least 1, got {every} and {newest}")
        self.every, self.newest, self.best = every, newest, best
        self.sign = 1.0 if mode == "max" else -1.0
        self.highest = float("-inf")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            settle(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.highest = state_dict["highest"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        found = trainer.callback_metrics
        if self.best not in found:
            known = ", ".join(sorted(name for name in found if name.startswith("val/")))
            raise MisconfigurationException(
                f"callbacks.Checkpoints: best is {self.best}, which no validation measures; it measures {known}"
            )
        value = self.sign * float(found[self.best])
        if trainer.strategy.reduce_boolean_decision(value > self.highest, all=False):
            self.highest = value
            trainer.save_checkpoint(_folder(trainer) / "best.ckpt", weights_only=False)

    def on_step_settled(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        if step % self.every == 0 or 0 <= trainer.max_steps <= step:
            save(trainer)

    def tidy(self, folder: Path) -> None:
        """Remove older checkpoints, and what was not finished when a process was killed."""
        steps = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
        old = [steps[step] for step in sorted(steps)[: -self.newest]]
        for path in (*old, *(path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name))):
            shards.remove(path)


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"

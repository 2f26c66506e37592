"""Where a run stands, as a small file that whoever watches can read without starting anything."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from skeleton_llm import signals
from skeleton_llm.whole import write_whole


class Progress(L.Callback):
    """Keep ``progress.json`` in the run folder: state, step, loss and how often the run was started.

    ``skeleton-llm runs`` reads it. Only rank 0 writes, and a reader never sees half of it. The state is ``running``
    (validation and test too), ``preempted``, ``failed`` or ``finished``; a run that was killed outright leaves
    ``running`` behind, with the job, the host and the process by which a reader tells.

    Args:
        every_seconds: between two records; each reads the loss and so waits for the device once.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self.record: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            before = _read(self._path(trainer))
            self.record = {
                "state": "running",
                "step": before.get("step", 0),
                "max_steps": trainer.max_steps if trainer.max_steps >= 0 else None,
                "loss": before.get("loss"),
                "started": time.time(),
                "started_at_step": None,  # until everything is loaded
                "updated": 0.0,
                "starts": before.get("starts", 0) + 1,
                "job": os.environ.get("SLURM_JOB_ID"),
                "world_size": trainer.world_size,
                "host": socket.gethostname(),
                "process": os.getpid(),
            }
        self._write(trainer, "running")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loaded(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.record is not None and self.record["started_at_step"] is None:  # only the test is left
            self._loaded(trainer)

    def _loaded(self, trainer: L.Trainer) -> None:
        """What was needed to load everything says nothing of the steps to come."""
        if self.record is not None:
            self.record |= {"started": time.time(), "started_at_step": trainer.global_step}
        self._write(trainer, "running", step=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.record is None:
            return
        if self._is_due() or self.record["loss"] is None or trainer.global_step == trainer.max_steps:
            loss = trainer.callback_metrics.get("train/loss")
            self.record["loss"] = None if loss is None else float(loss)
            self._write(trainer, "running", step=trainer.global_step)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._is_due():
            self._write(trainer, "running")

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._is_due():
            self._write(trainer, "running")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        step = {"step": trainer.global_step} if trainer.state.fn == "fit" else {}
        self._write(trainer, "preempted" if getattr(exception, "code", None) == signals.EXIT_CODE else "failed", **step)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """After the fit, and again after the test that follows it, which is ``running`` in between."""
        self._write(trainer, "finished")

    def _is_due(self) -> bool:
        return self.record is not None and time.time() - self.record["updated"] >= self.every_seconds

    def _write(self, trainer: L.Trainer, state: str, **known: int) -> None:
        """Nothing where no training was started: a test of an old run does not change where it stands."""
        if self.record is None:
            return
        self.record |= {"state": state, "updated": time.time(), **known}
        path = self._path(trainer)
        try:
            write_whole(path, json.dumps(self.record, indent=1))
        except OSError as error:  # what matters are the checkpoints, and they tell of a full disk themselves
            rank_zero_warn(f"{path}: cannot be written ({error.strerror}); the run goes on without it")

    @staticmethod
    def _path(trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "progress.json"


def _read(path: Path) -> dict[str, Any]:
    """What the start before left; nothing where there was none."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}

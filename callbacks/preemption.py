"""A signal asks the run to stop: it saves at the next optimiser step and leaves with an exit code of its own."""

import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import distributed

EXIT_CODE = 85
"""Checkpointed; start the same command again."""


class Preempted(SystemExit):
    """Leave with ``EXIT_CODE``."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Preemption(L.Callback):
    """SIGUSR1 and SIGTERM only raise a flag; all ranks agree on it at an optimiser step, save together and leave.

    Lightning's own handlers save inside the signal handler, which deadlocks when ranks are signalled at different
    moments, and end with exit code 0 without a checkpoint on SIGTERM.
    """

    def __init__(self) -> None:
        self.raised = False
        self.ranks: distributed.ProcessGroup | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            # hosts agree among themselves: a flag on the device would make each step wait for all that is queued there
            self.ranks = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR1, signal.SIGTERM):
                signal.signal(number, self._raise)

    def _raise(self, number: int, frame: Any) -> None:
        self.raised = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        raised = self.raised
        if self.ranks is not None:
            flag = torch.tensor(float(raised), device="cpu")
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self.ranks)
            raised = bool(flag)
        if raised:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(folder / f"step={trainer.global_step}.ckpt")
            raise Preempted

"""A signal or the clock asks the run to stop: it saves at the next optimiser step and leaves with a code of its own."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

from callbacks.checkpoints import save
from callbacks.settled import settle
from skeleton_llm import signals


class Preempted(SystemExit):
    """Leave; the same command goes on."""

    def __init__(self) -> None:
        super().__init__(signals.EXIT_CODE)


class Preemption(L.Callback):
    """SIGUSR1, SIGTERM and SIGINT only raise a flag; all ranks agree on it at an optimiser step, save and leave.

    Lightning's own handlers save inside the signal handler, which deadlocks when ranks are signalled at different
    moments, and end with exit code 0 without a checkpoint on SIGTERM. In the test after training, where nothing is left
    to save, the run leaves at once.

    Args:
        lead: seconds before SLURM's time limit at which the run stops by itself; more, where its own steps, validations
            and checkpoints take longer.
    """

    def __init__(self, lead: float = 120.0) -> None:
        self.lead = lead
        self.ranks: distributed.ProcessGroup | None = None
        self.end: float | None = None
        self.last, self.longest = 0.0, 0.0
        self.took = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        settle(trainer)
        self.took = signals.install()
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = lambda: None  # they would take the signals over

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if self.took:
            signals.restore()
            self.took = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._meet(trainer)
        if self.ranks is not None:
            steps: list[int] = [0] * trainer.world_size
            distributed.all_gather_object(steps, trainer.global_step, group=self.ranks)
            if len({*steps}) > 1:
                raise ValueError(
                    f"{trainer.default_root_dir}: ranks found different checkpoints, of the steps {steps}, to go on"
                    " from; start again when all nodes see the same files"
                )
        self._look_at_the_clock(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._meet(trainer)
        self._look_at_the_clock(trainer)  # of a start with only the test left, too

    def on_step_settled(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.time()
        self.last, self.longest = now, max(self.longest, now - self.last)
        late = self.end is not None and now > self.end - max(self.lead, 2 * self.longest)
        if self._agreed(late):
            path = save(trainer)
            self._leave(trainer, f"saved {path}; the same command goes on from there")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if self._agreed(self.end is not None and time.time() > self.end - 10):
            self._leave(trainer, "left the test; the same command begins it anew")

    def _look_at_the_clock(self, trainer: L.Trainer) -> None:
        self.end = time_limit() if trainer.is_global_zero else None
        self.last, self.longest = time.time(), 0.0

    def _meet(self, trainer: L.Trainer) -> None:
        if self.ranks is None and trainer.world_size > 1:
            # hosts agree among themselves: a flag on the device would make each step wait for all that is queued there
            self.ranks = distributed.new_group(backend="gloo")

    def _agreed(self, late: bool) -> bool:
        raised = late or signals.raised() is not None
        if self.ranks is None:
            return raised
        flag = torch.tensor(float(raised), device="cpu")
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self.ranks)
        return bool(flag)

    def _leave(self, trainer: L.Trainer, said: str) -> None:
        number = signals.raised()
        if trainer.is_global_zero:
            print(f"{number.name if number else 'asked to stop'}: {said}", file=sys.stderr)  # noqa: T201
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            # its observer would kill this process when another one ends with such a code
            started = [*launcher.procs]
            launcher.procs.clear()
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
        raise Preempted


def time_limit() -> float | None:
    """When SLURM ends this job, in seconds of the epoch; None without a limit."""
    job, told = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_END_TIME")
    try:
        if told:
            return float(told)
        if job is None or shutil.which("squeue") is None:
            return None
        asked = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
        return time.mktime(time.strptime(answer.stdout.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OSError, subprocess.SubprocessError):  # "NONE", no such job, no answer
        return None

"""A rank that is dead or hangs ends the run within a minute, by name; collectives alone would wait half an hour."""

import json
import math
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import TCPStore

_TICK = 2.0  # seconds from one sign of life to the next
_LEFT, _FAILED = "left", "failed"
_FIRST = "a first step"
_NOTHING = "what comes before its first sign"
UNSTEADY = ("start", "train_start", _FIRST, "validation_end", "test_end", "save", "train_end")
"""What one rank may do for long while others wait: load, compile, draw, write."""


class Watchdog(L.Callback):
    """Every rank signs its life and how far it is to rank 0, which tells all when one is lost.

    A thread beside the run signs every two seconds over a connection of its own to the store that the ranks met at.
    A rank is dead when it has not signed for ``dead_after``; it hangs when it has not moved on for ``patience`` while
    others wait further along. Ranks count the hooks they pass, which are the same on all. Where all wait at the same
    place, in a backward pass that sums over ranks, say, the one hangs whose main thread is not within PyTorch; they
    then have ``patience`` (ten times that where they read clips), or ten times the longest that the place has taken so
    far. The first two steps, all that is done for the first time by all, and what one rank does for all (writing,
    drawing), may take ``long_patience``.

    Args:
        patience: seconds a rank may stay behind the others, or all at one place, within a step.
        dead_after: seconds without a sign of life.
        long_patience: seconds for loading, compiling, drawing and writing.
    """

    def __init__(self, patience: float = 40.0, dead_after: float = 30.0, long_patience: float = 1800.0) -> None:
        self.patience, self.dead_after, self.long_patience = patience, dead_after, long_patience
        self.passed, self.at, self.since = 0, "start", time.monotonic()
        self.took: dict[str, float] = {}
        self.thread: _Watch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._pass("start")
        if trainer.world_size > 1 and self.thread is None and "MASTER_ADDR" in os.environ:
            self.thread = _Watch(self, trainer)
            self.thread.start()

    def _pass(self, at: str) -> None:
        now = time.monotonic()
        self.took[self.at] = max(self.took.get(self.at, 0.0), now - self.since)
        self.passed, self.at, self.since = self.passed + 1, at, now

    def longest(self) -> float:
        """Seconds that this place, or a first step, has taken at most; without end where it is the first time here."""
        return max(self.took.get(self.at, math.inf), self.took.get(_FIRST, 0.0))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first = trainer.global_step
        self._pass("train_start")

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._pass(_FIRST if trainer.global_step < self.first + 2 else "the forward pass of a step")

    def on_before_backward(self, trainer: L.Trainer, *args: Any) -> None:
        self._pass(_FIRST if trainer.global_step < self.first + 2 else "the backward pass of a step")

    def on_after_backward(self, *args: Any) -> None:
        self._pass("the end of a step")

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._pass("reading a training batch")

    def on_validation_batch_start(self, *args: Any) -> None:
        self._pass("a batch of validation")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        # behind the last one come the other callbacks' figures, which rank 0 draws alone
        last = batch_idx + 1 >= sum(trainer.num_val_batches)
        self._pass("validation_end" if last else "reading a batch of validation")

    def on_validation_epoch_end(self, *args: Any) -> None:
        self._pass("validation_end")

    def on_test_batch_start(self, *args: Any) -> None:
        self._pass("a batch of the test")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        last = batch_idx + 1 >= sum(trainer.num_test_batches)
        self._pass("test_end" if last else "reading a batch of the test")

    def on_test_epoch_end(self, *args: Any) -> None:
        self._pass("test_end")

    def on_save_checkpoint(self, *args: Any) -> None:
        self._pass("save")

    def on_train_end(self, *args: Any) -> None:
        self._pass("train_end")

    def on_test_end(self, *args: Any) -> None:
        self._pass("test_end")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" and self.thread is not None:
            self.thread.leave(_LEFT)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.thread is None:
            return
        if isinstance(exception, SystemExit):
            self.thread.leave(_LEFT)
            return
        if _lost_touch(exception):
            self.thread.join(self.dead_after + 3 * _TICK)  # the watch knows whom
        self.thread.leave(f"{_FAILED}: {' '.join(str(exception).split())[:300]}")


class _Sign(NamedTuple):
    """What a rank tells of itself."""

    said: str = ""  # a count that goes on while it lives, or how it ended
    passed: int = 0
    longest: float = 0.0
    line: str = ""
    place: str = _NOTHING


class _Watch(threading.Thread):
    """One rank's signs of life, and on rank 0 the watch over all."""

    def __init__(self, run: Watchdog, trainer: L.Trainer) -> None:
        super().__init__(daemon=True, name="watchdog")
        self.of, self.rank, self.world = run, trainer.global_rank, trainer.world_size
        self.main = threading.main_thread().ident
        launcher = trainer.strategy.launcher
        self.launcher = launcher if isinstance(launcher, _SubprocessScriptLauncher) else None
        if self.launcher is not None:
            # Lightning's own observer would kill this process when another one ends, before it has said which
            observed, self.launcher.procs = self.launcher.procs, [*self.launcher.procs]
            observed.clear()
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = TCPStore(*address, None, False, timeout=timedelta(seconds=run.dead_after), wait_for_workers=False)
        self.last = ""
        self.seen: dict[int, tuple[str, float]] = {}
        self.moved: dict[int, tuple[int, float]] = {}
        self.lock = threading.Lock()

    def run(self) -> None:
        count = 0
        while not self.last:
            count += 1
            try:
                with self.lock:
                    if not self.last:
                        of = self.of
                        self._tell(_Sign(str(count), of.passed, of.longest(), self._line(), of.at))
                found = self._lost(time.monotonic())
            except RuntimeError:  # the store went with the process of rank 0
                found = None if self.last else "rank 0 is gone"
            if found and not self.last:
                self._end(found)
            time.sleep(_TICK)

    def leave(self, last: str) -> None:
        """The last sign of this rank."""
        with self.lock, suppress(RuntimeError):
            self.last = last
            self._tell(_Sign(last))

    def _lost(self, now: float) -> str | None:
        """One sentence on who is lost."""
        if self.rank != 0:
            if self.store.check(["life/verdict"]):
                return self.store.get("life/verdict").decode()
            ranks = [0]
        else:
            ranks = [*range(self.world)]
        signs = {rank: self._sign(rank) for rank in ranks}
        for rank, sign in signs.items():
            if self.seen.setdefault(rank, (sign.said, now))[0] != sign.said:
                self.seen[rank] = sign.said, now
            if self.moved.setdefault(rank, (sign.passed, now))[0] != sign.passed:
                self.moved[rank] = sign.passed, now
        ended = self._ended(signs)
        if ended is not None:
            return ended
        running = [rank for rank, sign in signs.items() if not sign.said.startswith(_LEFT)]
        for rank in running:
            sign = signs[rank]
            if sign.said.startswith(_FAILED):
                return f"rank {rank} {sign.said}"
            silent = now - self.seen[rank][1]
            if silent > self.of.dead_after:
                return f"rank {rank} has given no sign of life for {silent:.0f} s (its last: {sign.place})"
        furthest = max((self.moved[rank][0] for rank in running), default=0)
        for rank in running:
            passed, since = self.moved[rank]
            place = signs[rank].place
            patience = self.of.long_patience if place in (*UNSTEADY, _NOTHING) else self.of.patience
            if passed < furthest and now - since > patience:
                return f"rank {rank} hangs in {place} for {now - since:.0f} s, the others wait for it"
        return self._all_wait(signs, running, now) if len(running) > 1 else None

    def _all_wait(self, signs: dict[int, _Sign], running: list[int], now: float) -> str | None:
        """One sentence on ranks that are all at the same place and move no more."""
        still = min(now - self.moved[rank][1] for rank in running)
        places = {signs[rank].place for rank in running}
        if len({self.moved[rank][0] for rank in running}) > 1 or places & {*UNSTEADY, _NOTHING}:
            return None
        slow = 10 if next(iter(places)).startswith("reading") else 1  # a shared disk may stall for all
        usual = max(slow * self.of.patience, 10 * max(signs[rank].longest for rank in running))
        if still <= min(usual, self.of.long_patience):
            return None
        busy = [rank for rank in running if not signs[rank].line.startswith("torch/")]
        hangs = " hangs" if 0 < len(busy) < len(running) else ""
        named = " and ".join(f"rank {rank}{hangs} at {signs[rank].line}" for rank in busy or running)
        return f"{named} in {places.pop()}: no rank has moved on for {still:.0f} s"

    def _ended(self, signs: dict[int, _Sign]) -> str | None:
        """One sentence on a process that this one started and that ended without a word."""
        for rank, process in enumerate(self.launcher.procs if self.launcher else (), start=1):
            sign = signs.get(rank, _Sign())
            code = process.poll() or 0
            if code and not sign.said.startswith((_LEFT, _FAILED)):
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                return f"rank {rank} {how} in {sign.place}"
        return None

    def _line(self) -> str:
        """Where the main thread is: the file, in its package, and the line."""
        frame = sys._current_frames().get(self.main or 0)
        if frame is None:
            return "unknown"
        path = frame.f_code.co_filename
        path = path.rpartition("/site-packages/")[2] if "/site-packages/" in path else Path(path).name
        return f"{path}:{frame.f_lineno}"

    def _tell(self, sign: _Sign) -> None:
        self.store.set(f"life/{self.rank}", json.dumps(sign))

    def _sign(self, rank: int) -> _Sign:
        key = f"life/{rank}"
        return _Sign(*json.loads(self.store.get(key))) if self.store.check([key]) else _Sign()

    def _end(self, found: str) -> None:
        """Tell the others and leave at once: the main thread waits in a collective that nothing ends."""
        if self.rank == 0:
            with suppress(RuntimeError):
                self.store.set("life/verdict", found)
                os.write(2, f"error: {found}; the run ends (start the same command again)\n".encode())
                time.sleep(2 * _TICK)  # for the others to read it
            if self.launcher is not None:
                for process in self.launcher.procs:
                    process.kill()
        else:
            os.write(2, f"error: rank {self.rank} ends: {found} (start the same command again)\n".encode())
        sys.stderr.flush()
        os._exit(1)


def _lost_touch(error: BaseException) -> bool:
    """Whether it is a collective that failed for want of another rank."""
    text = str(error).lower()
    return any(
        part in text for part in ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out waiting")
    )

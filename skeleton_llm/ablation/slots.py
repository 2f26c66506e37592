"""Runs side by side, each a process of its own in a slot of the machine: a GPU, or a share of the cores."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from skeleton_llm.ablation.gpus import joules
from skeleton_llm.ablation.runs import Run, as_typed
from skeleton_llm.run_folder import results
from skeleton_llm.signals import STOPPING

COMMAND = (sys.executable, "-m", "skeleton_llm.cli.main", "fit")
REFUSED = "holds a run"  # what ``fit`` says of a run that another config, dataset or tokenizer made
_POLL = 0.1  # seconds


class Slot(NamedTuple):
    """Where one run has its place: the variables it starts with, and the GPU it has to itself."""

    variables: dict[str, str]
    gpu: str | None = None


def divide(gpus: Sequence[str], jobs: int | None = None) -> list[Slot]:
    """As many slots as ``jobs``, by default one a GPU, without GPUs one a core; threads and GPUs are shared out.

    Raises:
        ValueError: ``jobs`` is not positive.
    """
    cores = len(os.sched_getaffinity(0))
    count = (len(gpus) or cores) if jobs is None else jobs
    if count < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}
    if not gpus:
        return [Slot(threads)] * count
    named = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # in which order NVIDIA's library counts them too
    alone = count <= len(gpus)
    return [
        Slot({**threads, **named, "CUDA_VISIBLE_DEVICES": gpu}, gpu if alone else None)
        for gpu in (gpus[number % len(gpus)] for number in range(count))
    ]


@dataclass
class Attempt:
    """A run's process while it works, in the slot of that number."""

    run: Run
    slot: int
    process: "subprocess.Popen[bytes]"
    began: float
    joules: float | None
    tested: int | None  # when the results were written that a finished run is compared by
    told: int = 0  # signals


@dataclass
class Crew:
    """Works through runs with as many processes as there are slots.

    SIGINT, SIGTERM and SIGUSR1 ask the processes to save and to leave (they exit with code 85); a second one kills
    them, which costs the steps since their last checkpoint.

    Attributes:
        say: is told of each beginning and end. command: what the arguments of a run are given to.
        failed: a sentence for each run that ended badly or could not begin. signals: those that came.
    """

    slots: Sequence[Slot]
    say: Callable[[str], None]
    command: Sequence[str] = COMMAND
    failed: dict[Path, str] = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)
    working: list[Attempt] = field(default_factory=list)
    elsewhere: set[Path] = field(default_factory=set)

    def work(self, runs: Sequence[Run]) -> None:
        """Bring every run to its end that is not there; one that another process is at is waited for."""
        waiting = [run for run in runs if not (run.finished and run.as_asked)]
        self.say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished; {len(self.slots)} side by side")
        before = {number: signal.signal(number, self._stop) for number in STOPPING}
        try:
            while self.working or (waiting and not self.signals):
                for run in [*waiting]:
                    if self._settled(run, waiting):
                        waiting.remove(run)
                self._pass_on()
                time.sleep(_POLL)
                self.working = [attempt for attempt in self.working if not self._ended(attempt)]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)

    def _pass_on(self) -> None:
        """Ask gently once, then kill."""
        if self.signals and any(attempt.told == 0 for attempt in self.working):
            self.say(f"stopping: {len(self.working)} runs save and leave (a second signal kills them)")
        for attempt in self.working:
            if attempt.told == 0 < len(self.signals):
                attempt.process.terminate()
            elif attempt.told == 1 < len(self.signals):
                os.killpg(attempt.process.pid, signal.SIGKILL)
            attempt.told = min(2, len(self.signals))

    def _settled(self, run: Run, waiting: Sequence[Run]) -> bool:
        """Whether ``run`` need wait no more: it began, another process brought it to its end, or it never can begin."""
        needed = run.needs
        if needed is not None and needed.folder in self.failed:
            self._fail(run, f"not begun, since {as_typed(needed.folder)} failed")
            return True
        free = set(range(len(self.slots))) - {attempt.slot for attempt in self.working}
        held = needed is not None and (needed in waiting or any(attempt.run == needed for attempt in self.working))
        if self.signals or not free or held:
            return False
        lock = _lock(run.folder)
        if lock is None:
            if run.folder not in self.elsewhere:
                self.elsewhere.add(run.folder)
                self.say(f"{as_typed(run.folder)}: another process is at it")
            return False
        try:
            if not (run.finished and run.as_asked):
                self._begin(run, min(free), lock)
        finally:
            os.close(lock)
        return True

    def _begin(self, run: Run, number: int, lock: int) -> None:
        """Start the process, which keeps the lock as long as it lives, even if this one is killed."""
        slot, known = self.slots[number], (run.folder / "checkpoints").is_dir()
        how = "is finished by another command, which is compared" if run.finished else "goes on" if known else "begins"
        self.say(f"{as_typed(run.folder)}: {how}")
        with (run.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*self.command, *run.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.variables},
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for this process, which then asks its children
            )
        energy = None if slot.gpu is None else joules(slot.gpu)
        self.working.append(Attempt(run, number, process, time.monotonic(), energy, _tested(run)))

    def _ended(self, attempt: Attempt) -> bool:
        """Whether the process has ended; what it cost and how it ended are then kept."""
        pid, status, used = os.wait4(attempt.process.pid, os.WNOHANG)
        if pid == 0:
            return False
        code = attempt.process.returncode = os.waitstatus_to_exitcode(status)
        run, seconds, gpu = attempt.run, time.monotonic() - attempt.began, self.slots[attempt.slot].gpu
        compared = attempt.tested is not None and attempt.tested == _tested(run)
        energy = None if gpu is None or attempt.joules is None else joules(gpu)
        cost = {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_code": code,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            "peak_mib": round(used.ru_maxrss / 1024, 1),
            "side_by_side": len(self.slots),
            "joules": None if energy is None or attempt.joules is None else round(energy - attempt.joules, 1),
        }
        if not compared:
            with (run.folder / "cost.jsonl").open("a") as file:
                file.write(json.dumps(cost) + "\n")
        if code == 0 and run.finished:
            run.note(compared=compared)
            how = "is what this command makes" if compared else f"finished in {seconds:.0f} s"
            self.say(f"{as_typed(run.folder)}: {how}{_result(run)}")
        elif self.signals:
            self.say(f"{as_typed(run.folder)}: stopped; the same command goes on")
        else:
            log = run.folder / "log.txt"
            said = _last_line(log)
            why = f"ended with exit code {code}: {said}"
            if compared and REFUSED in said:
                found = said.partition("; give ")[0]  # behind that stands what to do where there is one run
                why = f"is finished, but not by this command: {found}; give its own options, or another --folder"
            elif compared:
                why = f"is finished, but could not be compared with this command: it {why}"
            self._fail(run, f"{why} ({as_typed(log)})")
        return True

    def _fail(self, run: Run, why: str) -> None:
        self.failed[run.folder] = f"{as_typed(run.folder)}: {why}"
        self.say(self.failed[run.folder])


def _lock(folder: Path) -> int | None:
    """An open file that one process alone can hold; None while another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        pass  # a file system without locks
    return lock


def _tested(run: Run) -> int | None:
    return (run.folder / "results.json").stat().st_mtime_ns if run.finished else None


def _result(run: Run) -> str:
    found = results(run.folder)
    shown = [f"{name} {found[name]:.4f}" for name in ("test/top1", "test/error_m") if name in found]
    return f", {shown[0]}" if shown else ""


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

"""One start of a run's command: its ranks, what reaches them from outside, and how each of them ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.torture.runs import ROOT, Variant, arguments
from benchmarks.torture.traps import Trap
from benchmarks.torture.zygote import Zygote

_TICK = 0.01
LOST, LONGEST = 75.0, 600.0
"""Seconds in which all ranks must have ended once one has (a minute, and what a busy machine adds), and for all."""


@dataclass(frozen=True)
class Blow:
    """A signal from outside, ``after`` seconds, at ``rank``; None for all of them."""

    after: float
    number: int
    rank: int | None = None


@dataclass
class Ended:
    """How it went.

    Args:
        codes: of each rank; a rank that another one started, and that is gone with it, has None.
        seconds: from the first process to the end of the last.
        sprung: the traps that were, in their order: what was done, with which value, where.
        struck: the signals that came from outside, with the rank, before its flag was there or after.
        counts: the moments of rank 0, where it lived to tell.
        hung: it had to be ended from here.
        said: the log.
    """

    codes: list[int | None]
    seconds: float
    sprung: list[tuple[str, int, str]] = field(default_factory=list)
    struck: list[tuple[int, int, bool]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    hung: bool = False
    said: str = ""


@dataclass
class Bench:
    """Where runs lie, and what starts their processes."""

    base: Path
    zygote: Zygote
    starts: int = 0

    def run(
        self,
        variant: Variant,
        folder: Path,
        traps: dict[int, list[Trap]] | None = None,
        blows: list[Blow] | None = None,
        *,
        whole: bool = False,
        all_die: bool = False,
    ) -> Ended:
        """Start the command once and wait for its end.

        Args:
            variant: what is run.
            folder: the run's.
            traps: for each rank.
            blows: what comes from outside.
            whole: real processes that begin with their imports, the second rank started by the first.
            all_die: as soon as one rank has ended, the others are killed too.
        """
        self.starts += 1
        folder.mkdir(parents=True, exist_ok=True)
        place = self.base / "starts" / str(self.starts)  # not on the run's disk, which may be full
        place.mkdir(parents=True)
        job = (_Command if whole else _Forked)(self, variant, folder, place, traps or {})
        return _wait(job, sorted(blows or [], key=lambda blow: blow.after), all_die=all_die)


class _Forked:
    """Ranks without their imports, told apart by torchrun's variables."""

    def __init__(self, bench: Bench, variant: Variant, folder: Path, place: Path, traps: dict[int, list[Trap]]) -> None:
        self.zygote, self.place = bench.zygote, place
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(variant.ranks)}
        self.ranks = [
            self.zygote.start(
                {
                    "arguments": arguments(variant, bench.base, folder),
                    "environment": {**shared, "LOCAL_RANK": str(rank), "NODE_RANK": "0"} if variant.ranks > 1 else {},
                    "log": str(place / f"log_{rank}"),
                    "traps": [asdict(trap) for trap in traps.get(rank, [])],
                    "folder": str(folder),
                    "notes": str(place / f"notes_{rank}"),
                }
            )
            for rank in range(variant.ranks)
        ]

    def process(self, rank: int) -> int | None:
        return self.ranks[rank]

    def codes(self) -> list[int | None]:
        return [self.zygote.poll(process) for process in self.ranks]

    @property
    def running(self) -> list[int]:
        return [rank for rank, code in enumerate(self.codes()) if code is None]

    def sweep(self) -> None:
        """End what is left of each rank's session: workers that lost it."""
        for process in self.ranks:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)


class _Command:
    """The command as a user starts it; Lightning starts the other ranks."""

    def __init__(self, bench: Bench, variant: Variant, folder: Path, place: Path, traps: dict[int, list[Trap]]) -> None:
        assert not traps, "only forked ranks take traps"
        self.place, self.world = place, variant.ranks
        command = [sys.executable, "-m", "skeleton_llm.cli.main", *arguments(variant, bench.base, folder)]
        known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (place / "log_0").open("w") as log:
            self.main = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=known, start_new_session=True
            )
        self.second: int | None = None

    def process(self, rank: int) -> int | None:
        if rank == 0:
            return self.main.pid
        if self.second is None:
            for child in children(self.main.pid):
                with suppress(OSError):
                    if b"\0LOCAL_RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
                        self.second = child
        return self.second

    def codes(self) -> list[int | None]:
        return [self.main.poll(), *([None] * (self.world - 1))]

    @property
    def running(self) -> list[int]:
        """Rank 0 is ours to wait for; of the second we only see whether it is there."""
        there = self.process(1) if self.world > 1 else None
        second = there is not None and alive(there)
        return [*([0] if self.main.poll() is None else []), *([1] if second else [])]

    def sweep(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.main.pid, signal.SIGKILL)


def _wait(job: _Forked | _Command, blows: list[Blow], *, all_die: bool) -> Ended:
    begin = time.monotonic()
    struck: list[tuple[int, int, bool]] = []
    first_end: float | None = None
    hung = False
    while running := job.running:
        now = time.monotonic() - begin
        while blows and now >= blows[0].after:
            blow = blows.pop(0)
            for rank in running if blow.rank is None else {blow.rank} & {*running}:
                process = job.process(rank)
                if process is not None:
                    ready = _takes_signals(process)
                    with suppress(ProcessLookupError):
                        os.kill(process, blow.number)
                        struck.append((rank, blow.number, ready))
        if any(code is not None for code in job.codes()):
            first_end = first_end or now
            if all_die and any(job.codes()):  # not where all had come to their end before the blow
                job.sweep()
        if now > (LONGEST if first_end is None else first_end + LOST):
            hung = True
            job.sweep()
        time.sleep(_TICK)
    ended = Ended(job.codes(), time.monotonic() - begin, struck=struck, hung=hung)
    job.sweep()
    for path in sorted(job.place.glob("notes_*")):
        for line in path.read_text().splitlines():
            act, *rest = json.loads(line)
            if act != "counted":
                ended.sprung.append((act, *rest))
            elif path.name == "notes_0":
                ended.counts = rest[0]
    ended.said = "\n".join(path.read_text(errors="replace") for path in sorted(job.place.glob("log_*")))
    return ended


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def children(process: int) -> list[int]:
    """The processes that a process started."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def alive(process: int) -> bool:
    """Whether it runs, and is not only waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _takes_signals(process: int) -> bool:
    """Whether it has set its flag up, which the system knows by SIGUSR1's handler."""
    with suppress(OSError):
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False

"""Interruptions from inside: a process stops itself at a moment that is counted, not timed."""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.profilers import PassThroughProfiler

Moment = Literal["action", "write", "rename", "renamed"]
"""The n-th thing that Lightning's profiler would time, checkpoint that is written, or file renamed (before, after)."""
Act = Literal["kill", "signal", "signal all", "kill a worker", "fill", "limit", "read only"]
_ROOM = 4096


@dataclass(frozen=True)
class Trap:
    """What happens at the ``number``-th ``moment`` of a process.

    Args:
        moment: what is counted.
        number: from 1.
        act: what is done; ``signal all`` reaches the data loader's workers too.
        value: the signal, or the bytes: that a write gets to, or that are left on the disk.
    """

    moment: Moment
    number: int
    act: Act
    value: int = 0


class Sprung:
    """Counts the moments of this process in ``folder`` and springs its traps; what it did stands in ``notes``."""

    def __init__(self, traps: list[Trap], folder: Path, notes: Path) -> None:
        self.traps, self.folder, self.notes = traps, str(folder), notes
        self.counts: Counter[str] = Counter()
        self.next = False
        self.process = os.getpid()

    def install(self) -> None:
        """From now on."""
        plain: Any = PassThroughProfiler  # it times nothing, but is told of everything
        plain.start = lambda _, action_name: self.pass_by("action", action_name)
        plain.stop = lambda _, action_name: self.pass_by("action", f"end of {action_name}")
        sys.addaudithook(self.hear)
        atexit.register(self._note, "counted", self.counts)

    def _note(self, *what: Any) -> None:
        with self.notes.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What Python tells of every file."""
        if os.getpid() != self.process:
            return  # a worker
        if self.next:
            self.next = False
            self.pass_by("renamed", event)
        if event == "open" and isinstance(arguments[0], str) and "w" in str(arguments[1]):
            if arguments[0].startswith(self.folder) and ".ckpt" in arguments[0]:
                self.pass_by("write", arguments[0])
        elif event == "os.rename" and str(arguments[1]).startswith(self.folder):
            self.pass_by("rename", str(arguments[1]))
            self.next = True

    def pass_by(self, moment: Moment, where: str) -> None:
        """Count it, and do what was set for it."""
        self.counts[moment] += 1
        for trap in self.traps:
            if (trap.moment, trap.number) == (moment, self.counts[moment]):
                self._note(trap.act, trap.value, where)
                self.spring(trap)

    def spring(self, trap: Trap) -> None:
        """Do it."""
        if trap.act == "kill" and trap.moment == "write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system ends the process at this byte
            _limit(trap.value)
        elif trap.act == "kill":
            os.kill(self.process, signal.SIGKILL)
        elif trap.act == "signal":
            os.kill(self.process, trap.value)
        elif trap.act == "signal all":
            os.killpg(0, trap.value)
        elif trap.act == "kill a worker":
            workers = Path(f"/proc/self/task/{self.process}/children").read_text().split()
            if workers:
                os.kill(int(workers[trap.value % len(workers)]), signal.SIGKILL)
        elif trap.act == "fill":
            fill(Path(self.folder).parent / "ballast", trap.value)
        elif trap.act == "limit":
            _limit(trap.value)
        else:
            make_read_only(Path(self.folder))


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill(ballast: Path, left: int) -> None:
    """Take all room but ``left`` bytes of the disk that ``ballast`` lies on."""
    room = os.statvfs(ballast.parent)
    size = max(room.f_bavail * room.f_frsize - left, 0)
    with ballast.open("wb") as file:
        for _ in range(size // _ROOM):
            file.write(bytes(_ROOM))


def make_read_only(folder: Path) -> None:
    """As if its disk had been mounted anew; files that are open already stay writable."""
    if os.geteuid() != 0:
        for path in (folder, *folder.rglob("*/")):
            path.chmod(0o555)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)

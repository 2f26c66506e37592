"""What comes between the starts of a run, drawn from a seed, and how the run must take it."""

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.torture.jobs import Blow, Ended
from benchmarks.torture.runs import STEPS, Variant
from benchmarks.torture.traps import Act, Moment, Trap

ASKED = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
PREEMPTED = 85


@dataclass(frozen=True)
class Reference:
    """A run that nobody touched.

    Args:
        folder: its.
        counts: the moments of its rank 0.
        size: bytes of a checkpoint.
        seconds: that a real process took for one, imports and all.
    """

    folder: Path
    counts: dict[str, int]
    size: int
    seconds: float


@dataclass
class Interruption:
    """What one start of the command meets.

    Args:
        kind: for the table.
        traps: for each rank.
        blows: from outside.
        whole: real processes, with their imports.
        all_die: all ranks are killed when one is.
    """

    kind: str
    traps: dict[int, list[Trap]] = field(default_factory=dict)
    blows: list[Blow] = field(default_factory=list)
    whole: bool = False
    all_die: bool = False


def draw(rng: Random, variant: Variant, reference: Reference, done: int) -> Interruption:
    """Any kind that this machine and this run can meet.

    Args:
        rng: of the round.
        variant: what is run.
        reference: it, untouched.
        done: steps that are behind it.
    """
    kinds = {_killed: 4, _killed_writing: 3, _killed_renaming: 3, _signalled: 6, _full: 2, _in_real_processes: 4}
    if variant.workers:
        kinds[_killed_worker] = 1
    if can_make_read_only():
        kinds[_read_only] = 2
    (kind,) = rng.choices([*kinds], [*kinds.values()])
    left = 1 - max(done, 0) / STEPS
    return kind(rng, variant, reference, left)


def _moment(rng: Random, reference: Reference, moment: Moment, left: float) -> int:
    """Any moment from the start on; a run that goes on has fewer before it."""
    return rng.randint(1, max(1, round(reference.counts[moment] * (0.15 + 0.85 * left))))


def _killed(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    rank, all_die = rng.randrange(variant.ranks), rng.random() < 0.5
    trap = Trap("action", _moment(rng, reference, "action", left), "kill")
    kind = "all killed" if all_die or variant.ranks == 1 else "one of two killed"
    return Interruption(kind, {rank: [trap]}, all_die=all_die)


def _killed_writing(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    trap = Trap("write", _moment(rng, reference, "write", left), "kill", int(rng.random() * reference.size))
    return Interruption("killed inside a checkpoint", {0: [trap]}, all_die=rng.random() < 0.7)


def _killed_renaming(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    moments: tuple[Moment, ...] = ("rename", "renamed")
    moment = rng.choice(moments)
    trap = Trap(moment, _moment(rng, reference, moment, left), "kill")
    kind = f"killed {'before' if moment == 'rename' else 'after'} a rename"
    return Interruption(kind, {0: [trap]}, all_die=rng.random() < 0.7)


def _killed_worker(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    trap = Trap("action", _moment(rng, reference, "action", left), "kill a worker", rng.randrange(2))
    return Interruption("a reading worker killed", {rng.randrange(variant.ranks): [trap]})


def _signalled(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    ranks = rng.choice(([rng.randrange(variant.ranks)], [*range(variant.ranks)]))
    acts: tuple[Act, ...] = ("signal", "signal all")
    act = rng.choice(acts)
    number, first = rng.choice(ASKED), _moment(rng, reference, "action", left)
    traps = {rank: [Trap("action", first + rng.choice((0, rng.randrange(400))), act, number)] for rank in ranks}
    repeated = rng.random() < 0.4
    if repeated:
        for own in traps.values():
            own += [
                Trap("action", own[0].number + rng.randint(1, 300), act, rng.choice(ASKED))
                for _ in range(rng.randint(1, 3))
            ]
    whom = "all" if len(ranks) == variant.ranks else "one of two"
    return Interruption(f"{number.name} to {whom}" + (", repeated" if repeated else ""), traps)


def _full(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    moment, room = _moment(rng, reference, "action", left), int(rng.random() * reference.size)
    if can_mount():
        return Interruption("disk full", {0: [Trap("action", moment, "fill", room)]})
    return Interruption("files limited", {0: [Trap("action", moment, "limit", max(room, 32_768))]})


def _read_only(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    return Interruption("folder read-only", {0: [Trap("action", _moment(rng, reference, "action", left), "read only")]})


def _in_real_processes(rng: Random, variant: Variant, reference: Reference, left: float) -> Interruption:
    """By the clock; a third of them while the process still imports."""
    early = rng.random() < 0.35
    after = rng.random() * reference.seconds * (0.4 if early else 1.0)
    number = signal.SIGKILL if rng.random() < 0.35 else rng.choice(ASKED)
    ranks = rng.choice(([rng.randrange(variant.ranks)], [*range(variant.ranks)]))
    blows = [Blow(after + rng.choice((0.0, 1.5 * rng.random())), number, rank) for rank in ranks]
    if number != signal.SIGKILL and rng.random() < 0.3:
        blows += [Blow(blows[0].after + rng.random(), rng.choice(ASKED), rng.choice(ranks))]
    return Interruption(f"{number.name} by the clock" + (", early" if early else ""), blows=blows, whole=True)


def complaints(interruption: Interruption, ended: Ended, finished: bool) -> list[str]:
    """What is wrong with how a run took it; ``finished`` if its results were there at the end."""
    codes = ended.codes[:1] if interruption.whole else ended.codes
    if ended.hung:
        return [f"hung: the ranks ended with {codes} only when they were killed"]
    numbers = {value for act, value, _ in ended.sprung if act.startswith("signal")}
    numbers |= {number for _, number, _ in ended.struck}
    acts = {act for act, *_ in ended.sprung}
    if not numbers and not acts:
        return [] if finished and not any(codes) else [f"untouched, it ended with {codes}"]
    wrong = []
    if "kill" in acts or signal.SIGKILL in numbers:
        allowed: set[int | None] = {1, 2, -signal.SIGKILL, -signal.SIGXFSZ, 0 if finished else 1}
        if 0 in codes and codes[0] != 0:
            allowed |= {0}  # a rank that had nothing left to do
    elif numbers and any(not ready for *_, ready in ended.struck):
        allowed = {1, PREEMPTED, *(-number for number in numbers), 0 if finished else 1}
    elif numbers:
        allowed = {PREEMPTED} if not finished else {0, *(-number for number in numbers)}
    else:  # workers killed, disk full, folder read-only
        allowed = {1, 2, 0 if finished else 1}
        if "kill a worker" not in acts and any(codes):
            wrong += _badly_said(ended.said)
    if not {*codes} <= allowed:
        wrong.append(f"ended with {codes}, not {sorted(map(str, allowed))}")
    return wrong


def _badly_said(said: str) -> list[str]:
    told = [line for line in said.splitlines() if line.startswith("error: ")]
    wrong = [] if told else ["no sentence said why it ended"]
    return wrong + (["a traceback was printed"] if "Traceback (most recent call last)" in said else [])


@cache
def can_mount() -> bool:
    """Whether this process may mount file systems."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        asked = ["mount", "-t", "tmpfs", "none", folder]
        try:
            done = subprocess.run(asked, capture_output=True, check=False)
        except OSError:
            return False
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


def can_make_read_only() -> bool:
    """Root heeds no modes, so it must be able to mount."""
    return os.geteuid() != 0 or can_mount()

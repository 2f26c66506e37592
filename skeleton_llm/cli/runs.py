"""``skeleton-llm runs``: where every run below a folder stands, from what runs leave on disk and from SLURM's queue."""

import argparse
import getpass
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SUBMITTED = Path("logs", "submitted.txt")
"""In a run folder: the ids of the jobs that were submitted for it, a line each."""
_MARKS = ("progress.json", "results.json", "config.yaml", str(SUBMITTED))  # each makes a folder a run's
_SILENT = 15 * 60  # seconds; a running run tells of itself every ten seconds
_COLUMNS = ("run", "state", "step", "loss", "starts", "left", "job")


class Queued(NamedTuple):
    """A job as squeue shows it, such as PENDING for Priority."""

    state: str
    reason: str


class Standing(NamedTuple):
    """Where one run stands; ``left`` is in seconds, None where nobody can know."""

    folder: Path
    state: str
    record: Mapping[str, Any]
    job: str | None
    left: float | None


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm runs",
        description="State, step, loss, starts and time left of every run below a folder. A run that says that it is"
        " running and whose job or process is gone is shown as killed; the same command that began it goes on with it.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="default: runs")
    return parser.parse_args(argv)


def runs(argv: Sequence[str]) -> int:
    """Print a table, a line a run."""
    folder = _arguments(argv).folder
    if not folder.is_dir():
        print(f"{folder}: no such folder; name the one that holds the runs", file=sys.stderr)
        return 1
    queue, now = ask_queue(), time.time()
    rows = [_row(standing(run, queue, now)) for run in find_runs(folder)]
    if not rows:
        print(f'{folder}: holds no run yet; begin one with "make stage1" or "make slurm-stage1"')
        return 0
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders in order of their names; nothing is looked for inside one."""
    if any((folder / mark).is_file() for mark in _MARKS):
        yield folder
        return
    for inside in sorted(folder.iterdir()):
        if inside.is_dir() and not inside.is_symlink():
            yield from find_runs(inside)


def ask_queue() -> dict[str, Queued] | None:
    """My jobs that SLURM still knows as waiting or running, by id; None where there is no SLURM or no answer.

    A task of an array job stands there as ARRAY_TASK, and once it works by the number of its own too.
    """
    try:
        asked = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%A|%T|%r"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
    except (OSError, KeyError, subprocess.SubprocessError):  # KeyError: a user without a name
        return None
    found = {}
    for line in answer.stdout.splitlines():
        name, number, state, reason = line.strip().split("|", 3)
        found[name] = Queued(state, reason)
        if state != "PENDING" or number != name.partition("_")[0]:  # tasks that never began share their array's
            found[number] = found[name]
    return found


def standing(folder: Path, queue: Mapping[str, Queued] | None, now: float) -> Standing:
    """Where a run stands at ``now`` (seconds since the epoch)."""
    record, job = read_record(folder), newest_job(folder)
    state = _state(folder, record, job, queue, now)
    return Standing(folder, state, record, job, _seconds_left(record, now) if state == "running" else None)


def _state(
    folder: Path, record: Mapping[str, Any], job: str | None, queue: Mapping[str, Queued] | None, now: float
) -> str:
    if (folder / "results.json").is_file():
        return "finished"
    said = str(record.get("state", "not started"))
    queued = queue.get(job) if queue and job else None
    if queued is not None:
        if queued.state == "PENDING":
            return f"queued ({queued.reason})"
        if queued.state == "RUNNING":
            return "running" if _is_training(record) and record.get("job") == job else "starting"
        return queued.state.lower()
    if said == "not started" and job is not None:
        return "not started" if queue is None else "failed"  # the job is gone and training never began
    if said == "running":
        said = _checked(record, queue, now)
    return "starting" if said == "running" and not _is_training(record) else said


def _is_training(record: Mapping[str, Any]) -> bool:
    """Or validating or testing, but no more loading."""
    return record.get("state") == "running" and record.get("started_at_step") is not None


def _checked(record: Mapping[str, Any], queue: Mapping[str, Queued] | None, now: float) -> str:
    """What is true of a run that says it is running and whose job, if it has one, is not in the queue."""
    if record.get("job") is not None and queue is not None:
        return "killed"
    if record.get("host") == socket.gethostname():
        return "running" if _is_alive(int(record.get("process", 0))) else "killed"
    silent = now - record.get("updated", 0.0)
    return "running" if silent < _SILENT else f"silent for {_duration(silent)}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0


def read_record(folder: Path) -> dict[str, Any]:
    """What the run wrote of itself last; nothing where that cannot be read."""
    try:
        record = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def newest_job(folder: Path) -> str | None:
    """The job that works on the run, or did last: ids count upwards, and a task's own is not below its array's."""
    job = read_record(folder).get("job")
    known = [job] if job else []
    if (folder / SUBMITTED).is_file():
        known += (folder / SUBMITTED).read_text().split()
    return max(known, key=lambda job: (int(job.partition("_")[0]), "_" not in job), default=None)


def _seconds_left(record: Mapping[str, Any], now: float) -> float | None:
    steps = record["step"] - record["started_at_step"]
    if steps <= 0 or record["max_steps"] is None:
        return None
    pace = (record["updated"] - record["started"]) / steps
    return max(0.0, record["updated"] + pace * (record["max_steps"] - record["step"]) - now)


def _row(stands: Standing) -> tuple[str, ...]:
    record = stands.record
    step, end, loss = record.get("step"), record.get("max_steps"), record.get("loss")
    return (
        str(stands.folder),
        stands.state,
        "-" if step is None else f"{step}/{end}" if end is not None else str(step),
        "-" if loss is None else f"{loss:.4g}",
        str(record.get("starts", "-")),
        "-" if stands.left is None else _duration(stands.left),
        stands.job or "-",
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

"""``skeleton-llm doctor``: is this dataset whole and sound?"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skeleton_llm.skeletons.actors import CONVENTIONS
from skeleton_llm.skeletons.doctor import examine_prepared, examine_raw, guess_dataset, is_prepared
from skeleton_llm.skeletons.proof import Report
from skeleton_llm.skeletons.sources import SOURCES

_SHOWN = 50


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm doctor",
        description="Check raw files or a prepared dataset: sizes of splits and classes, damaged files by name and"
        " line, duplicates, NaN, empty clips, joint counts, content hash, disk space. Exit code 1: something is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("path", type=Path, help="a folder of raw files, a file of many clips, or a prepared dataset")
    parser.add_argument("--dataset", choices=sorted(SOURCES), help="of raw files; by default their names tell")
    parser.add_argument("--actors", choices=sorted(CONVENTIONS), default="ctrgcn", help="as for prepare")
    parser.add_argument("--workers", type=int, help="reading processes; one a core by default")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args(argv)


def doctor(argv: Sequence[str]) -> int:
    """Examine one dataset."""
    arguments = _arguments(argv)
    try:
        bar: tqdm[Any]
        with tqdm(unit="clip", desc="examining", file=sys.stderr, mininterval=1) as bar:
            report = _examine(arguments, _follow(bar))
    except (OSError, ValueError, RuntimeError) as error:
        if arguments.json:
            print(json.dumps({"path": str(arguments.path), "healthy": False, "problems": [str(error)]}))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(report.to_mapping(), indent=1))
    else:
        _print(report)
    return int(not report.healthy)


def _follow(bar: "tqdm[Any]") -> Callable[[int, int], None]:
    def follow(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return follow


def _examine(arguments: argparse.Namespace, progress: Callable[[int, int], None]) -> Report:
    path: Path = arguments.path
    if arguments.dataset is None and is_prepared(path):
        return examine_prepared(path, progress=progress)
    dataset = arguments.dataset or guess_dataset(path)
    return examine_raw(path, dataset, arguments.actors, workers=arguments.workers, progress=progress)


def _print(report: Report) -> None:
    print(f"{report.path}: {report.kind} {report.dataset} ({report.form}, {report.layout})")
    print(f"  {report.clips:,} clips, {report.frames:,} frames; content {report.content_hash}")
    for split in report.splits:
        print(f"  {split}")
    print(f"  on the list of missing skeletons: {report.listed:,}; bad: {len(report.bad):,}")
    room = "needs" if report.kind == "raw" else "takes"
    print(f"  prepared it {room} {report.bytes / 1e6:,.1f} MB; {report.free_bytes / 1e9:,.1f} GB are free")
    print("  clips by class (all, training, test):")
    for name, counts in report.classes.items():
        print(f"    {'  '.join(f'{count:6,}' for count in counts.values())}  {name}")
    for entry in report.bad[:_SHOWN]:
        print(f"bad: {entry['why']}")
    for names in report.duplicates[:_SHOWN]:
        print(f"the same joints: {', '.join(names)}")
    hidden = max(0, len(report.bad) - _SHOWN) + max(0, len(report.duplicates) - _SHOWN)
    if hidden:
        print(f"and {hidden:,} more; --json lists all")
    for notice in report.notices:
        print(f"note: {notice}")
    for problem in report.problems:
        print(f"wrong: {problem}")
    if report.healthy:
        print("healthy")

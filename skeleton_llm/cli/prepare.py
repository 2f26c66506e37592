"""``skeleton-llm prepare``: raw files to a prepared dataset, every file accounted for."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from skeleton_llm.skeletons import PROTOCOLS, Clip, check_published, write_dataset
from skeleton_llm.skeletons.readers import NW_UCLA_CLASSES, ntu_class_names, ntu_missing, read_ntu, read_nw_ucla
from skeleton_llm.skeletons.store import COLUMNS
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips


@dataclass(frozen=True)
class Source:
    """How a dataset is read: ``pattern`` of its files, their reader, names that are known to be unusable."""

    layout: str
    class_names: tuple[str, ...]
    num_persons: int
    pattern: str = ""
    read: Callable[[Path], Clip] = read_nw_ucla
    leave_out: Callable[[], frozenset[str]] = frozenset


SOURCES = {
    "synthetic": Source("ntu25", CLASS_NAMES, 2),
    "nw_ucla": Source("kinect20", NW_UCLA_CLASSES, 1, "*.json", read_nw_ucla),
    "ntu60": Source("ntu25", ntu_class_names(60), 2, "*.skeleton", read_ntu, ntu_missing),
    "ntu120": Source("ntu25", ntu_class_names(120), 2, "*.skeleton", read_ntu, ntu_missing),
}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm prepare",
        description="Read raw skeleton files into a prepared dataset (a folder). Exit code 1: some files were bad.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=sorted(SOURCES))
    parser.add_argument("--raw", type=Path, help="folder of raw files, searched with its sub-folders")
    parser.add_argument("--out", type=Path, help="folder to write (data/DATASET)")
    parser.add_argument("--allow-bad", action="store_true", help="leave damaged files out and exit with code 0")
    parser.add_argument("--partial", action="store_true", help="accept fewer clips than the protocols publish")
    return parser.parse_args(argv)


def _read(paths: list[Path], source: Source, left_out: list[dict[str, str]]) -> Iterator[Clip]:
    """Yield every good clip; bad and unusable files go to ``left_out`` with the reason."""
    unusable = source.leave_out()
    for path in tqdm(paths, unit="file", desc="reading", file=sys.stderr):
        if path.stem in unusable:
            left_out.append({"file": path.name, "why": "on the dataset's list of missing skeletons", "kind": "listed"})
            continue
        try:
            clip = source.read(path)
            if clip.label is None:
                raise ValueError(f"{path}: its name tells no class; expected the dataset's own file names")
            if not 0 <= clip.label < len(source.class_names):
                raise ValueError(f"{path}: unknown class {clip.label + 1}; expected 1 to {len(source.class_names)}")
        except (OSError, ValueError) as error:
            left_out.append({"file": path.name, "why": str(error), "kind": "bad"})
            continue
        yield clip


def prepare(argv: Sequence[str]) -> int:
    """Prepare one dataset."""
    arguments = _arguments(argv)
    source, name = SOURCES[arguments.dataset], arguments.dataset
    out = arguments.out or Path("data") / name
    left_out: list[dict[str, str]] = []
    try:
        if name == "synthetic":
            total = len(CLASS_NAMES) * 120
            clips: Iterator[Clip] = iter(
                tqdm(synthetic_clips(), total=total, unit="clip", desc="making", file=sys.stderr)
            )
        else:
            clips = _read(_files(arguments.raw, source, name), source, left_out)
        kept = list(clips)
        lines = _splits(name, kept, partial=arguments.partial)
        write_dataset(
            out,
            kept,
            name=name,
            layout=source.layout,
            class_names=source.class_names,
            num_persons=source.num_persons,
            source=str(arguments.raw or "built-in"),
            left_out=left_out,
        )
    except (FileNotFoundError, ValueError) as error:
        _report_bad(left_out)
        print(f"error: {error}", file=sys.stderr)
        return 1
    why = Counter(entry["kind"] for entry in left_out)
    print(f"{out}: {len(kept):,} clips of {len(source.class_names)} classes, {source.layout}")
    for line in lines:
        print(f"  {line}")
    print(f"  left out: {why['listed']:,} on the list of missing skeletons, {why['bad']:,} bad")
    _report_bad(left_out)
    if why["bad"] and not arguments.allow_bad:
        print("some files were bad (above); mend them, or accept this with --allow-bad", file=sys.stderr)
        return 1
    return 0


def _files(raw: Path | None, source: Source, name: str) -> list[Path]:
    if raw is None:
        raise ValueError(f"{name} needs its raw files: give their folder with --raw (make prepare DATA={name} RAW=...)")
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw}: no such folder; expected the raw {name} files ({source.pattern}) in it")
    paths = sorted(raw.rglob(source.pattern))
    if not paths:
        raise FileNotFoundError(f"{raw}: holds no {source.pattern} file; expected the raw files of {name}")
    return paths


def _splits(name: str, clips: list[Clip], *, partial: bool) -> list[str]:
    """One line a protocol; raises where a split has not its published size."""
    lines = []
    table = {
        column: np.array([-1 if getattr(clip, column) is None else getattr(clip, column) for clip in clips])
        for column in COLUMNS[2:]
    }
    for protocol in PROTOCOLS.values():
        if protocol.dataset != name:
            continue
        train, test = protocol.split(table)
        if not partial:
            try:
                check_published(protocol, len(train), len(test))
            except ValueError as error:
                raise ValueError(f"{error}{_missing(name, clips)}") from None
        lines.append(f"{protocol.name}: {len(train):,} training, {len(test):,} test clips")
    return lines


def _missing(name: str, clips: list[Clip]) -> str:
    """Which parts look incomplete: classes and views with fewer clips than the fullest one of their kind."""
    counts = Counter((clip.label, clip.view) for clip in clips)
    views = sorted({view for _, view in counts if view is not None})
    names = SOURCES[name].class_names
    gaps = [
        f"{names[label]} from view {view}" for label in range(len(names)) for view in views if not counts[label, view]
    ]
    absent = f"; absent: {', '.join(gaps[:6])}{' ...' if len(gaps) > 6 else ''}" if gaps else ""
    by_view = ", ".join(f"view {view}: {sum(n for (_, v), n in counts.items() if v == view):,}" for view in views)
    return f" (found {by_view}{absent})"


def _report_bad(left_out: list[dict[str, str]]) -> None:
    for entry in left_out:
        if entry["kind"] == "bad":
            print(f"bad: {entry['why']}", file=sys.stderr)

"""``skeleton-llm prepare``: raw files to a prepared dataset, every file accounted for."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from skeleton_llm.skeletons import PROTOCOLS, Clip, check_published, write_dataset
from skeleton_llm.skeletons.readers import (
    NW_UCLA_CLASSES,
    ntu_class_names,
    ntu_facts,
    ntu_missing,
    nw_ucla_facts,
    nw_ucla_missing,
    read_ntu,
    read_nw_ucla,
)
from skeleton_llm.skeletons.store import COLUMNS, check_target
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips

Table = Mapping[str, np.ndarray]
_SYNTHETIC_CLIPS = len(CLASS_NAMES) * 20 * 2 * 3
_SHOWN = 8


def _nothing_missing(labels: np.ndarray, views: np.ndarray) -> list[str]:
    del labels, views
    return []


@dataclass(frozen=True)
class Source:
    """How a dataset is read: ``pattern`` of its files, their reader, what names tell, names known to be unusable."""

    layout: str
    class_names: tuple[str, ...]
    num_persons: int
    pattern: str = ""
    read: Callable[[Path], Clip] = read_nw_ucla
    facts: Callable[[str], dict[str, int] | None] = nw_ucla_facts
    unusable: Callable[[], frozenset[str]] = frozenset
    missing: Callable[[np.ndarray, np.ndarray], list[str]] = _nothing_missing


SOURCES = {
    "synthetic": Source("ntu25", CLASS_NAMES, 2),
    "nw_ucla": Source("kinect20", NW_UCLA_CLASSES, 1, "*.json", missing=nw_ucla_missing),
    "ntu60": Source("ntu25", ntu_class_names(60), 2, "*.skeleton", read_ntu, ntu_facts, ntu_missing),
    "ntu120": Source("ntu25", ntu_class_names(120), 2, "*.skeleton", read_ntu, ntu_facts, ntu_missing),
}


@dataclass
class Reading:
    """What became of the files: entries with ``file``, ``why`` and ``kind`` (listed or bad)."""

    source: Source
    left_out: list[dict[str, str]] = field(default_factory=list)

    def clips(self, paths: list[Path]) -> Iterator[Clip]:
        """Every good clip; the others are noted with the reason."""
        unusable = self.source.unusable()
        for path in tqdm(paths, unit="file", desc="reading", file=sys.stderr):
            if path.stem in unusable:
                self._note(path, "on the dataset's list of missing skeletons", "listed")
                continue
            try:
                clip = self.source.read(path)
                if clip.label is None:
                    raise ValueError(f"{path}: its name tells no class; expected the dataset's own file names")
                if not 0 <= clip.label < len(self.source.class_names):
                    raise ValueError(
                        f"{path}: unknown class {clip.label + 1}; expected 1 to {len(self.source.class_names)}"
                    )
            except (OSError, ValueError) as error:
                self._note(path, str(error), "bad")
                continue
            yield clip

    def _note(self, path: Path, why: str, kind: str) -> None:
        self.left_out.append({"file": path.name, "why": why, "kind": kind})

    def count(self, protocol: str, kind: str) -> list[int]:
        """How many files of ``kind`` are missing from the training and from the test half, by their names."""
        entries = [self.source.facts(entry["file"]) for entry in self.left_out if entry["kind"] == kind]
        known = [facts for facts in entries if facts is not None]
        table = {column: np.array([facts.get(column, -1) for facts in known], dtype=np.int64) for column in COLUMNS[2:]}
        return [len(half) for half in PROTOCOLS[protocol].split(table)]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm prepare",
        description="Read raw skeleton files into a prepared dataset (a folder). Exit code 1: some files were bad.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=sorted(SOURCES))
    parser.add_argument("--raw", type=Path, help="folder of raw files, searched with its sub-folders")
    parser.add_argument("--out", type=Path, help="folder to write (data/DATASET)")
    parser.add_argument("--allow-bad", action="store_true", help="accept that damaged files are left out: exit code 0")
    parser.add_argument("--partial", action="store_true", help="accept fewer clips than the protocols publish")
    return parser.parse_args(argv)


def prepare(argv: Sequence[str]) -> int:
    """Prepare one dataset."""
    arguments = _arguments(argv)
    source, name = SOURCES[arguments.dataset], arguments.dataset
    out = arguments.out or Path("data") / name
    reading, lines = Reading(source), [""]
    protocols = [protocol.name for protocol in PROTOCOLS.values() if protocol.dataset == name]
    accepted: dict[str, list[int]] = {}

    def check(table: Table) -> None:
        lines[:] = [_split(protocol, table, reading, partial=arguments.partial) for protocol in protocols]
        if arguments.allow_bad:
            accepted.update({protocol: reading.count(protocol, "bad") for protocol in protocols})

    try:
        _check_folders(arguments.raw, out)
        clips = _synthetic() if name == "synthetic" else reading.clips(_files(arguments.raw, source, name))
        info = write_dataset(
            out,
            clips,
            name=name,
            layout=source.layout,
            class_names=source.class_names,
            num_persons=source.num_persons,
            source=str(arguments.raw or "built-in"),
            left_out=reading.left_out,
            check=check,
            accepted=accepted,
        )
    except (OSError, ValueError) as error:
        _report_bad(reading)
        print(f"error: {error}", file=sys.stderr)
        return 1
    why = Counter(entry["kind"] for entry in reading.left_out)
    print(f"{out}: {info['num_clips']:,} clips of {len(source.class_names)} classes, {source.layout}")
    for line in lines:
        print(f"  {line}")
    print(f"  left out: {why['listed']:,} on the list of missing skeletons, {why['bad']:,} bad")
    _report_bad(reading)
    if why["bad"] and not arguments.allow_bad:
        print("some files were bad (above); mend them, or accept this with --allow-bad", file=sys.stderr)
        return 1
    return 0


def _synthetic() -> Iterator[Clip]:
    return iter(tqdm(synthetic_clips(), total=_SYNTHETIC_CLIPS, unit="clip", desc="making", file=sys.stderr))


def _check_folders(raw: Path | None, out: Path) -> None:
    """Before anything is read: only an old dataset may be replaced, and raw files stay apart from prepared ones."""
    check_target(out)
    if raw is not None and out.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"--out {out} lies inside --raw {raw}; give a folder outside of it")


def _files(raw: Path | None, source: Source, name: str) -> list[Path]:
    if raw is None:
        raise ValueError(f"{name} needs its raw files: give their folder with --raw (make prepare DATA={name} RAW=...)")
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw}: no such folder; expected the raw {name} files ({source.pattern}) in it")
    paths = sorted(raw.rglob(source.pattern))
    if not paths:
        raise FileNotFoundError(f"{raw}: holds no {source.pattern} file; expected the raw files of {name}")
    return paths


def _split(name: str, table: Table, reading: Reading, *, partial: bool) -> str:
    """One line on a protocol; raises where a split has not its published size and bad files do not explain it."""
    protocol = PROTOCOLS[name]
    train, test = protocol.split(table)
    listed, bad = reading.count(name, "listed"), reading.count(name, "bad")
    if not partial:
        try:
            check_published(protocol, len(train), len(test), left_out={name: bad})
        except ValueError as error:
            missing = reading.source.missing(table["label"], table["view"])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ValueError(f"{error}{'; missing: ' if missing else ''}{'; '.join(missing[:_SHOWN])}{more}") from None
    halves = zip(("training", "test"), (train, test), listed, bad, strict=True)
    said = [f"{len(rows):,} {half} clips (left out: {a:,} listed, {b:,} bad)" for half, rows, a, b in halves]
    return f"{name}: {', '.join(said)}"


def _report_bad(reading: Reading) -> None:
    for entry in reading.left_out:
        if entry["kind"] == "bad":
            print(f"bad: {entry['why']}", file=sys.stderr)

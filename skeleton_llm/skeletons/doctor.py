"""Examine a dataset before it costs a night: a raw folder, or a prepared one down to the bytes of each clip."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.layouts import find_layout
from skeleton_llm.skeletons.proof import Report, facts_of
from skeleton_llm.skeletons.readers import own, smarthome, uav_human, utd_mhad
from skeleton_llm.skeletons.readers.ntu import ntu_facts
from skeleton_llm.skeletons.readers.nw_ucla import nw_ucla_facts
from skeleton_llm.skeletons.readers.raw_file import open_archive
from skeleton_llm.skeletons.reading import read_all
from skeleton_llm.skeletons.sources import SOURCES, find_clips
from skeleton_llm.skeletons.store import PreparedDataset
from skeleton_llm.skeletons.table import ClipTable, LeftOut, content_hash, digest_of, pack
from skeleton_llm.skeletons.writer import FILES

_SAMPLE = 200
_NAMES: dict[str, Callable[[str], dict[str, int] | None]] = {
    "nw_ucla": nw_ucla_facts,
    "utd_mhad": utd_mhad.utd_mhad_facts,
    "uav_human": uav_human.uav_human_facts,
    "smarthome": smarthome.smarthome_facts,
}
Progress = Callable[[int, int], None]


def is_prepared(path: Path) -> bool:
    """Whether ``path`` is, or was meant to be, a prepared dataset."""
    return path.is_dir() and any((path / name).exists() for name in (*FILES, "plan.json"))


def guess_dataset(path: Path) -> str:
    """The dataset that raw files belong to, by their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the names are no known dataset's.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    if path.name == own.DESCRIPTION or (path / own.DESCRIPTION).is_file():
        return "own"
    files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    for phase in (1, 2):
        if any(re.fullmatch(rf"cross[-_]subject{'_v2' if phase == 2 else ''}\.txt", file.name) for file in files):
            return f"pku_mmd{phase}"
    names = [file.name for file in files]
    for archive in (file for file in files if file.suffix == ".zip"):
        names += open_archive(archive).namelist()
    if actions := [facts["label"] for name in names if (facts := ntu_facts(name)) is not None]:
        return "ntu120" if max(actions) >= 60 else "ntu60"
    if containers := [name for name in names if name.endswith((".pkl", ".npz"))]:
        return "ntu120" if any("120" in name for name in containers) else "ntu60"
    for dataset, facts_of_name in _NAMES.items():
        if sum(facts_of_name(name) is not None for name in names[:_SAMPLE]) > len(names[:_SAMPLE]) / 2:
            return dataset
    raise ValueError(f"{path}: its files have the names of no known dataset; say which it is with --dataset")


def examine_raw(
    path: Path, dataset: str, actors: str = "ctrgcn", *, workers: int | None = None, progress: Progress | None = None
) -> Report:
    """Read every raw clip as ``prepare`` would, and write nothing.

    Raises:
        FileNotFoundError: nothing of the dataset is there.
        ValueError: a file of many clips cannot be opened.
    """
    source = SOURCES[dataset]
    found = find_clips(source, path, actors)
    names, table = list(found.classes.values()), ClipTable()
    for batch in read_all(found.items, source.unusable(), len(names), workers=workers):
        rows, left_out = [], list(batch.left_out)
        for clip in batch.clips:
            try:
                rows.append(pack(clip, found.layout, found.num_persons)[0])
            except ValueError as error:
                left_out.append({"file": clip.source, "kind": "bad", "why": str(error), "facts": {}})
        table.take(rows, left_out, batch.items)
        if progress is not None:
            progress(table.done, len(found.items))
    report = Report(str(path), "raw", dataset, found.form, found.layout)
    report.fill(*facts_of(table), names, table.left_out)
    report.content_hash = content_hash(table.text())
    joints = find_layout(found.layout).num_joints
    report.bytes = table.frames * found.num_persons * joints * 3 * 4
    report.free_bytes = shutil.disk_usage(path).free
    if report.free_bytes < report.bytes:
        report.notices.append(
            f"preparing needs {report.bytes:,} bytes, the disk of the raw files has {report.free_bytes:,} left"
        )
    return report


def examine_prepared(folder: Path, *, progress: Progress | None = None) -> Report:
    """Check a prepared dataset down to the bytes of each clip.

    Raises:
        FileNotFoundError: the folder is not whole.
        ValueError: its files do not belong together.
    """
    data = PreparedDataset.open(folder)
    info = data.info
    report = Report(str(folder), "prepared", info["name"], info.get("form", "built-in"), info["layout"])
    left_out: list[LeftOut] = info.get("left_out", [])
    report.fill(data.table, data.sources, data.digests, info["class_names"], left_out)
    known = info.get("partial", {}).keys()  # a part of the published split is one of the inner split too
    partial = [split.problem for split in report.splits if known & {split.protocol, split.inner_of}]
    report.notices += [f"prepared with --partial: {problem}" for problem in partial if problem]
    report.problems = [problem for problem in report.problems if problem not in partial]
    allowed = info.get("accepted") or {}
    if allowed and report.bad:  # their user has said so
        report.problems = [problem for problem in report.problems if "cannot be used" not in problem]
    expected = (int(info["num_persons"]), find_layout(info["layout"]).num_joints, 3)
    if data.frames.shape[1:] != expected:
        report.problems.append(f"frames.npy holds {data.frames.shape[1:]} a frame, expected {expected}")
    damaged = _damaged_clips(data, progress)
    report.problems += damaged[:_SAMPLE]
    if len(damaged) > _SAMPLE:
        report.problems.append(f"and {len(damaged) - _SAMPLE:,} more damaged clips; prepare the dataset again")
    report.content_hash = content_hash((folder / "clips.json").read_text())
    if report.content_hash != info["content_hash"]:
        report.problems.append("clips.json is not the one that dataset.json was written for; prepare it again")
    report.bytes = sum((folder / name).stat().st_size for name in FILES)
    report.free_bytes = shutil.disk_usage(folder).free
    return report


def _damaged_clips(data: PreparedDataset, progress: Progress | None) -> list[str]:
    damaged, expected = [], 0
    for row, (offset, length) in enumerate(zip(data.table["offset"], data.table["length"], strict=True)):
        name = data.sources[row]
        if offset != expected or length < 1:
            damaged.append(f"{name}: starts at frame {offset} and has {length}, expected to start at {expected}")
        expected = int(offset + length)
        frames = np.ascontiguousarray(data.frames[offset : offset + length])
        if digest_of(frames.tobytes()) != data.digests[row]:
            damaged.append(f"{name}: its frames are not those that were prepared; prepare the dataset again")
        elif not np.isfinite(frames).all():
            damaged.append(f"{name}: holds NaN or infinite joints")
        elif not frames.any():
            damaged.append(f"{name}: nobody is in any frame")
        if progress is not None and row % 64 == 0:
            progress(row, len(data))
    return damaged

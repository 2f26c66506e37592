"""PKU-MMD phases 1 and 2 (Liu et al., 2017): long Kinect v2 recordings, cut into clips by their labels.

A recording is a text file of one line a frame, 150 numbers: two bodies of 25 joints, x y z in metres, zero where there
is no second body. A label file of the same name has lines "class,start,end,confidence" (class from 1, frames from 1,
both ends included). ``cross-subject.txt`` and ``cross-view.txt`` (phase 2: ``cross_subject_v2.txt``,
``cross_view_v2.txt``) name the training recordings in line 2, the test recordings in line 4.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skeleton_llm.skeletons.actors import bodies_of, find_convention
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import NTU25
from skeleton_llm.skeletons.readers.raw_file import brief, to_single

_NUMBERS = 2 * NTU25.num_joints * 3
_VIEWS = {"L": 1, "M": 2, "R": 3}
_RECORDING = re.compile(r"^(.+)-([LMR])$")
_PROTOCOLS = {"subject": "xsub", "view": "xview"}


class Action(NamedTuple):
    """One line of a label file: 0-based class, first frame and the frame after the last (0-based), the line."""

    label: int
    start: int
    end: int
    line: int


def read_labels(path: Path | str) -> list[Action]:
    """The actions of a recording.

    Raises:
        ValueError: a line of another form, an unknown class, or an end before the start; names the line.
    """
    actions, known = [], len(class_names("pku_mmd"))
    for number, line in enumerate(Path(path).read_text(encoding="latin-1").splitlines(), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 3 or not all(field.isascii() and field.isdigit() and len(field) < 8 for field in fields[:3]):
            raise ValueError(f"{path} line {number}: expected class,start,end,confidence, found {line[:40]!r}")
        label, start, end = map(int, fields[:3])
        if not 1 <= label <= known or not 1 <= start <= end:
            raise ValueError(
                f"{path} line {number}: expected a class from 1 to {known} and 1 <= start <= end, found {line[:40]!r}"
            )
        actions.append(Action(label - 1, start - 1, end, number))
    return actions


def read_split(path: Path | str) -> dict[str, int]:
    """0 for each training recording, 1 for each test recording.

    Raises:
        ValueError: fewer than four lines, an empty half, or a recording in both.
    """
    lines = Path(path).read_text(encoding="latin-1").splitlines()
    halves = [[name.strip() for name in line.split(",") if name.strip()] for line in (*lines, "", "", "", "")[1:4:2]]
    if not halves[0] or not halves[1] or (both := set(halves[0]) & set(halves[1])):
        found = f"{brief(min(both))} in both" if halves[0] and halves[1] else "an empty half"
        raise ValueError(f"{path}: expected training recordings in line 2 and test recordings in line 4, found {found}")
    return {name: half for half, names in enumerate(halves) for name in names}


def find_splits(raw: Path, phase: int) -> dict[str, dict[str, int]]:
    """The halves of each protocol (``pku_mmd1_xsub`` ...) from the split files that come with the data.

    Raises:
        FileNotFoundError: a split file is absent.
    """
    splits = {}
    for word, protocol in _PROTOCOLS.items():
        found = sorted(raw.rglob(f"cross[-_]{word}{'_v2' if phase == 2 else ''}.txt"))
        if not found:
            name = f"cross_{word}_v2.txt" if phase == 2 else f"cross-{word}.txt"
            raise FileNotFoundError(f"{raw}: {name} is missing; it comes with the data (folder Split) and is read here")
        if len(found) > 1:
            raise ValueError(f"{raw}: both {found[0]} and {found[1]} are the split file of a protocol; give one")
        splits[f"pku_mmd{phase}_{protocol}"] = read_split(found[0])
    return splits


def find_recordings(raw: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """The skeleton and the label file of each recording, known by their folders' names or their suffixes."""
    found: dict[str, list[Path | None]] = {}
    for path in sorted(raw.rglob("*")):
        folder = path.relative_to(raw).parent.as_posix().lower()
        if _RECORDING.match(path.stem) is None or path.suffix not in (".txt", ".skeleton", ".label"):
            continue
        label = path.suffix == ".label" or (path.suffix == ".txt" and "label" in folder)
        if (other := found.setdefault(path.stem, [None, None])[label]) is not None:
            raise ValueError(f"{raw}: both {other} and {path} are the recording {path.stem}; give a folder with one")
        found[path.stem][label] = path
    return {name: (skeleton, label) for name, (skeleton, label) in found.items()}


def pku_mmd_facts(name: str) -> dict[str, int] | None:
    """View (L, M, R: 1, 2, 3) and recording (as setup) that a recording's name tells."""
    match = _RECORDING.match(name)
    if match is None:
        return None
    digits = re.sub(r"\D", "", match.group(1))
    return {"view": _VIEWS[match.group(2)], "setup": int(digits or 0)}


def read_recording(path: Path | str) -> np.ndarray:
    """A whole recording, [T, 2, 25, 3] in metres.

    Raises:
        ValueError: a line without 150 finite numbers; names the line.
    """
    path = Path(path)
    facts = path.stat()
    return _recording(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _recording(path: Path, changed: int, size: int) -> np.ndarray:
    del changed, size
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        fields = line.replace(b",", b" ").split()
        if len(fields) != _NUMBERS:
            raise ValueError(f"{path} line {number}: expected {_NUMBERS} numbers, found {len(fields)}; fetch it again")
        try:
            if b"_" in line:
                raise ValueError(f"no number: {line[:40]!r}")  # float() would take 1_0 for 10
            numbers = [float(field) for field in fields]
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {brief(error)}; fetch it again") from None
        rows.append(to_single(numbers, f"{path} line {number}"))
    if not rows:
        raise ValueError(f"{path} line 1: the file is empty; fetch it again")
    return np.stack(rows).reshape(-1, 2, NTU25.num_joints, 3)


def read_pku_mmd(
    skeleton: Path | str, action: Action, name: str, splits: dict[str, int], actors: str = "ctrgcn"
) -> Clip:
    """One action of a recording, [T, 2, 25, 3], as ``actors`` chooses and places the two.

    Raises:
        ValueError: a damaged recording, one shorter than the label says, or nobody in it.
    """
    frames = read_recording(skeleton)
    where = f"{skeleton}#{name}"
    if action.end > len(frames):
        raise ValueError(f"{where}: label line {action.line} ends at frame {action.end} of {len(frames)}")
    joints = frames[action.start : action.end]
    if not joints.any():
        raise ValueError(f"{where}: no body in any frame; leave the clip out")
    placed = find_convention(actors)(bodies_of(joints))
    facts = pku_mmd_facts(Path(str(skeleton)).stem) or {}
    return Clip(placed, NTU25.name, action.label, source=where, splits=splits, **facts)

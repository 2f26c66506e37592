"""Raw NTU RGB+D 60 and 120 (Shahroudy et al. 2016, Liu et al. 2020): one ``.skeleton`` text file a clip.

A file is the number of frames; for each frame the number of bodies; for each body a line of 10 fields (a 17-digit id
first), the number of joints, and a line of 12 fields a joint (x, y, z in metres first).
"""

import csv
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import NTU25

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_PERSONS = 2
_RESOURCES = files("skeleton_llm.skeletons") / "resources"


def ntu_class_names(count: int = 120) -> tuple[str, ...]:
    """Natural phrases of the first ``count`` actions, A001 first."""
    rows = csv.DictReader((_RESOURCES / "ntu_classes.tsv").read_text().splitlines(), delimiter="\t")
    return tuple(row["name"] for row in rows)[:count]


def ntu_missing() -> frozenset[str]:
    """Names of the clips without usable skeletons, which every published result leaves out (302 of 60, 535 of 120)."""
    return frozenset((_RESOURCES / "ntu_missing.txt").read_text().split())


def ntu_facts(name: str) -> dict[str, int] | None:
    """Label (0-based), subject, view, setup and replication that a file's name tells."""
    match = _NAME.search(name)
    if match is None:
        return None
    setup, view, subject, replication, action = (int(group) for group in match.groups())
    return {"label": action - 1, "subject": subject, "view": view, "setup": setup, "replication": replication}


class _Lines:
    """The file's lines with the number of the one last read, so that every complaint can name it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = path.read_bytes().split(b"\n")
        self.number = 0

    def next(self, expected: str) -> bytes:
        if self.number >= len(self.lines) or not self.lines[self.number].strip():
            raise ValueError(
                f"{self.path} line {self.number + 1}: expected {expected}, found the end (truncated file?);"
                " fetch it again"
            )
        self.number += 1
        return self.lines[self.number - 1]

    def count(self, what: str, most: int) -> int:
        line = self.next(f"the number of {what}")
        try:
            value = int(line)
        except ValueError:
            value = -1
        if not 0 <= value <= most:
            found = line[:30].decode("latin-1").strip()
            raise ValueError(f"{self.path} line {self.number}: expected the number of {what}, found {found!r}")
        return value

    def joint(self) -> tuple[float, float, float]:
        line = self.next("a joint")
        try:
            x, y, z, *_ = line.split(None, 3)
            return float(x), float(y), float(z)
        except ValueError:
            found = line[:30].decode("latin-1").strip()
            raise ValueError(f"{self.path} line {self.number}: expected a joint's x y z, found {found!r}") from None


def read_ntu(path: Path | str) -> Clip:
    """Read one clip, [T, 2, 25, 3]: the two bodies that move most, the second zero where there is none.

    Frames without any body are dropped.

    Raises:
        ValueError: empty, truncated or of another format; names the file and the line.
    """
    path = Path(path)
    lines = _Lines(path)
    bodies: dict[bytes, dict[int, list[tuple[float, float, float]]]] = {}
    for frame in range(lines.count("frames", 100_000)):
        for _ in range(lines.count("bodies", 20)):
            identity = (lines.next("a body").split() or [b""])[0]  # 17 digits: a float would confuse two bodies
            joints = lines.count("joints", 1000)
            if joints != NTU25.num_joints:
                raise ValueError(f"{path} line {lines.number}: expected 25 joints, found {joints}; not an NTU clip?")
            bodies.setdefault(identity, {})[frame] = [lines.joint() for _ in range(joints)]
    seen = sorted({frame for body in bodies.values() for frame in body})
    if not seen:
        raise ValueError(f"{path}: no body in any frame; leave the file out")
    tracks = []
    for body in bodies.values():
        track = np.zeros((len(seen), NTU25.num_joints, 3), dtype=np.float32)
        track[np.searchsorted(seen, list(body))] = np.array(list(body.values()), dtype=np.float32)
        motion = float(np.array(list(body.values())).var(axis=0).sum())
        tracks.append((len(body), motion, track))
    # main actors first: those seen in most frames, then those that move most (a flickering ghost moves a lot)
    tracks.sort(key=lambda t: (t[0] > len(seen) // 2, t[1]), reverse=True)
    joints_out = np.zeros((len(seen), _PERSONS, NTU25.num_joints, 3), dtype=np.float32)
    for person, (_, _, track) in enumerate(tracks[:_PERSONS]):
        joints_out[:, person] = track
    present = joints_out[:, 0].any(axis=(1, 2))
    joints_out = joints_out[present]  # the main person's frames
    return Clip(joints_out, NTU25.name, source=str(path), **(ntu_facts(path.name) or {}))

"""Raw NTU RGB+D 60 and 120 (Shahroudy et al. 2016, Liu et al. 2020): ``SsssCcccPpppRrrrAaaa.skeleton``, one a clip."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from skeleton_llm.skeletons.actors import find_convention
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import NTU25
from skeleton_llm.skeletons.readers.kinect_text import read_bodies
from skeleton_llm.skeletons.readers.raw_file import read_bytes

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_RESOURCES = files("skeleton_llm.skeletons") / "resources"


def ntu_class_names(count: int = 120) -> tuple[str, ...]:
    """Natural phrases of the first ``count`` actions, A001 first."""
    return tuple(class_names("ntu").values())[:count]


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


def read_ntu(path: Path | str, actors: str = "ctrgcn") -> Clip:
    """Read one clip, [T, 2, 25, 3]; ``actors`` says how the two actors are chosen and placed (``actors.CONVENTIONS``).

    ``path`` may also be ARCHIVE.zip#ENTRY.

    Raises:
        ValueError: empty, truncated or of another format; names the file and the line.
    """
    convention = find_convention(actors)
    bodies = read_bodies(read_bytes(path), str(path))
    if not any(body.joints.any() for body in bodies):
        raise ValueError(f"{path}: no body in any frame; leave the file out")
    facts: dict[str, Any] = ntu_facts(Path(str(path)).name) or {}
    return Clip(convention(bodies), NTU25.name, source=str(path), **facts)

"""UAV-Human (Li et al., CVPR 2021): text files, 17 joints in COCO's order, units not documented."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.actors import energy
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import COCO17
from skeleton_llm.skeletons.readers.kinect_text import read_bodies
from skeleton_llm.skeletons.readers.raw_file import read_bytes

_NAME = re.compile(r"P(\d+)S(\d+)G\d+B\d+H\d+UC\d+LC\d+A(\d+)R(\d+)_\d+")
_PERSONS = 2
_LIMIT = 1e5


def uav_human_facts(name: str) -> dict[str, int] | None:
    """Label (0-based, as in the name), subject, setup and replication that a file's name tells."""
    match = _NAME.search(name)
    if match is None:
        return None
    subject, setup, action, replication = (int(group) for group in match.groups())
    return {"label": action, "subject": subject, "setup": setup, "replication": replication}


def read_uav_human(path: Path | str) -> Clip:
    """Read one clip, [T, 2, 17, 3]: the two bodies of most energy, frames without any body dropped.

    Raises:
        ValueError: empty, truncated or of another format; names the file and the line.
    """
    bodies = read_bodies(read_bytes(path), str(path), num_joints=COCO17.num_joints, columns=0)
    if not bodies:
        raise ValueError(f"{path}: no body in any frame; leave the file out")
    seen = np.unique(np.concatenate([body.frames for body in bodies]))
    joints = np.zeros((len(seen), _PERSONS, COCO17.num_joints, 3), dtype=np.float32)
    for person, body in enumerate(sorted(bodies, key=energy, reverse=True)[:_PERSONS]):
        joints[np.searchsorted(seen, body.frames), person] = body.joints
    joints = joints[joints.any(axis=(1, 2, 3))]
    facts: dict[str, Any] = uav_human_facts(Path(str(path)).name) or {}
    return Clip(joints, COCO17.name, source=str(path), limit=_LIMIT, **facts)

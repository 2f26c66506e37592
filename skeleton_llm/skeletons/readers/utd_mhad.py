"""UTD-MHAD (Chen et al., ICIP 2015): ``aA_sS_tT_skeleton.mat`` with ``d_skel`` [20, 3, T], Kinect v1, metres."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import KINECT20
from skeleton_llm.skeletons.readers.matlab import read_matrix
from skeleton_llm.skeletons.readers.raw_file import to_single

_NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)_skeleton")
_ORDER = [3, 2, 1, 0, *range(4, 20)]  # the file has head, neck, spine, hip centre first


def utd_mhad_facts(name: str) -> dict[str, int] | None:
    """Label (0-based), subject and replication that a file's name tells."""
    match = _NAME.search(name)
    if match is None:
        return None
    action, subject, replication = (int(group) for group in match.groups())
    return {"label": action - 1, "subject": subject, "replication": replication}


def utd_mhad_expected() -> list[str]:
    """The names of the 861 published files: 27 actions, 8 subjects, 4 trials, less three damaged recordings."""
    every = (f"a{a}_s{s}_t{t}" for a in range(1, 28) for s in range(1, 9) for t in range(1, 5))
    return [f"{name}_skeleton" for name in every if name not in {"a8_s1_t4", "a23_s6_t4", "a27_s8_t4"}]


def read_utd_mhad(path: Path | str) -> Clip:
    """Read one clip, [T, 1, 20, 3].

    Raises:
        ValueError: damaged, another matrix than [20, 3, T], or an unknown action.
    """
    path = Path(path)
    joints = read_matrix(path, "d_skel")
    if joints.ndim == 2:
        joints = joints[:, :, None]  # MATLAB drops the last axis of a single frame
    if joints.ndim != 3 or joints.shape[:2] != (KINECT20.num_joints, 3):
        raise ValueError(f"{path}: expected d_skel with 20 joints x 3 coordinates x frames, found {joints.shape}")
    facts: dict[str, Any] = utd_mhad_facts(path.name) or {}
    if facts and not 0 <= facts["label"] < len(class_names("utd_mhad")):
        raise ValueError(f"{path}: unknown class a{facts['label'] + 1}; UTD-MHAD has the actions a1 to a27")
    frames = np.moveaxis(joints, 2, 0)[:, _ORDER]
    return Clip(to_single(frames[:, None], path), KINECT20.name, source=str(path), **facts)

"""Northwestern-UCLA Multiview Action3D (Wang et al., CVPR 2014): one JSON file a clip, as CTR-GCN distributes them.

``aAA_sSS_eEE_vVV.json`` holds {"file_name", "skeletons": [T][20][3] in metres, "label"}.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import KINECT20
from skeleton_llm.skeletons.readers.raw_file import brief, load_json, to_double, to_single

_NAME = re.compile(r"a(\d{1,4})_s(\d{1,4})_e(\d{1,4})_v(\d{1,4})")
_ACTIONS = tuple(int(action[1:]) for action in class_names("nw_ucla"))
NW_UCLA_CLASSES = tuple(class_names("nw_ucla").values())
_COUNTS = (  # clips of each class from views 1, 2 and 3
    (53, 49, 48), (52, 50, 50), (51, 45, 45), (64, 60, 49), (50, 51, 47),
    (52, 50, 47), (49, 50, 43), (50, 49, 43), (49, 49, 47), (46, 51, 45),
)  # fmt: skip


def nw_ucla_facts(name: str) -> dict[str, int] | None:
    """Label (0-based; -1 for an unknown action), subject, view and replication that a file's name tells."""
    match = _NAME.search(name)
    if match is None:
        return None
    action, subject, replication, view = (int(group) for group in match.groups())
    label = _ACTIONS.index(action) if action in _ACTIONS else -1
    return {"label": label, "subject": subject, "view": view, "replication": replication}


def nw_ucla_missing(labels: np.ndarray, views: np.ndarray) -> list[str]:
    """Each class and view with fewer clips than the published dataset, in words."""
    return [
        f"{NW_UCLA_CLASSES[label]!r} from view {view}: {found} of {whole}"
        for label, row in enumerate(_COUNTS)
        for view, whole in enumerate(row, start=1)
        if (found := int(((labels == label) & (views == view)).sum())) < whole
    ]


def read_nw_ucla(path: Path | str, data: Any = None) -> Clip:
    """Read one clip, [T, 1, 20, 3].

    Raises:
        ValueError: not JSON, another structure, another number of joints, an unknown action or a label that contradicts
            the file's name.
    """
    path = Path(path)
    if data is None:
        data = load_json(path)
    try:
        joints = to_double(data["skeletons"])
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: expected an NW-UCLA clip with the key "skeletons" (numbers [T][20][3])') from error
    except ValueError as error:
        raise ValueError(f"{path}: skeletons are no numbers [T][20][3] ({brief(error)}); fetch it again") from error
    if joints.ndim != 3 or joints.shape[1:] != (KINECT20.num_joints, 3):
        raise ValueError(f"{path}: expected frames of 20 joints with 3 coordinates, found an array {joints.shape}")
    joints = to_single(joints, path)
    inside = data.get("file_name")
    facts: dict[str, Any] = nw_ucla_facts(path.stem) or nw_ucla_facts(inside if isinstance(inside, str) else "") or {}
    if facts.get("label") == -1:
        raise ValueError(f"{path}: unknown class; NW-UCLA has the actions {', '.join(class_names('nw_ucla'))}")
    if facts and data.get("label", facts["label"] + 1) not in (facts["label"] + 1, _ACTIONS[facts["label"]]):
        said = brief(repr(data["label"]))
        raise ValueError(f"{path}: its name says class {facts['label'] + 1}, its label {said}; one is wrong")
    return Clip(joints[:, None], KINECT20.name, source=str(path), **facts)

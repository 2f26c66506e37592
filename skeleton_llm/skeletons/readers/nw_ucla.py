"""Northwestern-UCLA Multiview Action3D (Wang et al., CVPR 2014): one JSON file a clip, as CTR-GCN distributes them.

``aAA_sSS_eEE_vVV.json`` holds {"file_name", "skeletons": [T][20][3] in metres, "label"}.
"""

import json
import re
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import KINECT20

_NAME = re.compile(r"a(\d+)_s(\d+)_e(\d+)_v(\d+)")
_CLASSES = {
    1: "pick up with one hand", 2: "pick up with two hands", 3: "drop trash", 4: "walk around", 5: "sit down",
    6: "stand up", 8: "put on clothes", 9: "take off clothes", 11: "throw", 12: "carry",
}  # fmt: skip
NW_UCLA_CLASSES = tuple(_CLASSES.values())


def read_nw_ucla(path: Path | str) -> Clip:
    """Read one clip, [T, 1, 20, 3].

    Raises:
        ValueError: not JSON, another structure, another number of joints, an unknown action or a label that contradicts
            the file's name.
    """
    path = Path(path)
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; fetch it again")
    try:
        data = json.loads(text)
        joints = np.asarray(data["skeletons"], dtype=np.float32)
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: expected an NW-UCLA clip with the key "skeletons" (numbers [T][20][3])') from error
    except ValueError as error:
        raise ValueError(f"{path}: not a whole NW-UCLA JSON file ({error}); fetch it again") from error
    if joints.ndim != 3 or joints.shape[1:] != (KINECT20.num_joints, 3):
        raise ValueError(f"{path}: expected frames of 20 joints with 3 coordinates, found an array {joints.shape}")
    match = _NAME.search(path.stem) or _NAME.search(str(data.get("file_name", "")))
    if match is None:
        return Clip(joints[:, None], KINECT20.name, source=str(path))
    action, subject, replication, view = (int(group) for group in match.groups())
    if action not in _CLASSES:
        raise ValueError(
            f"{path}: unknown class a{action:02d}; NW-UCLA has the actions {', '.join(map(str, _CLASSES))}"
        )
    label = list(_CLASSES).index(action)
    if data.get("label", label + 1) not in (label + 1, action):
        raise ValueError(f"{path}: its name says class {label + 1}, its label {data['label']}; one of them is wrong")
    return Clip(
        joints[:, None], KINECT20.name, label, subject=subject, view=view, replication=replication, source=str(path)
    )

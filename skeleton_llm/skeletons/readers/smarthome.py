"""Toyota Smarthome's refined skeletons (Das et al., ICCV 2019; Yang et al., WACV 2021): ``Class_pPP_rRR_vVV_cCC.json``.

{"frames": [[{"pose2d": [x 1..13, y 1..13] in pixels of 640 x 480, ...} for each person] for each frame]}; the 13 joints
of LCR-Net are completed to 17 as UNIK does it.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.actors import Body, energy
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LCR17_2D
from skeleton_llm.skeletons.readers.raw_file import brief, load_json, to_double, to_single

_NAME = re.compile(r"^([A-Za-z]+(?:\.[A-Za-z]+)?)_p(\d+)_r(\d+)_v(\d+)_c(\d+)")
_WIDTH, _HEIGHT, _POINTS, _PERSONS = 640, 480, 13, 2
_ORDER = [
    12,
    11,
    10,
    9,
    8,
    7,
    6,
    5,
    4,
    3,
    2,
    1,
    0,
]  # head, then left and right shoulder, elbow, wrist, hip, knee, ankle
CV_CLASSES = (
    "Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack",
    "Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetablet", "Usetelephone", "Walk",
)  # fmt: skip
COUNTS = (
    378, 380, 178, 579, 96, 45, 341, 325, 2241, 65, 617, 216, 444, 833, 181, 416, 64, 76, 62, 56, 276, 59, 107, 942,
    1116, 344, 396, 451, 49, 4070, 712,
)  # fmt: skip


def smarthome_facts(name: str) -> dict[str, int] | None:
    """Label (0-based; -1 for an unknown activity), subject, replication and camera (as view) that a name tells."""
    match = _NAME.search(Path(name).name)
    if match is None:
        return None
    activity, subject, replication, _, camera = match.groups()
    ids = list(class_names("smarthome"))
    label = ids.index(activity) if activity in ids else -1
    return {"label": label, "subject": int(subject), "replication": int(replication), "view": int(camera)}


def read_smarthome(path: Path | str, data: Any = None) -> Clip:
    """Read one clip, [T, M, 17, 3] in halves of the image's width, confidence 1: the two persons of most energy.

    Frames without anybody are dropped; a joint at pixel (0, 0) was not found and stays zero.

    Raises:
        ValueError: not JSON, another structure, nobody in any frame, or an unknown activity.
    """
    path = Path(path)
    if data is None:
        data = load_json(path)
    try:
        frames = [[person["pose2d"] for person in frame] for frame in data["frames"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected {{"frames": [[{{"pose2d": 26 numbers}}]]}}, {error!r} is missing'
        ) from error
    if not all(isinstance(persons, list) for persons in (data["frames"], *data["frames"])):
        raise ValueError(f"{path}: expected a list of frames, each a list of persons; fetch it again")
    tracks: dict[int, list[tuple[int, Any]]] = {}
    for number, persons in enumerate(frames):
        for slot, pose in enumerate(persons[:_PERSONS]):
            if not isinstance(pose, list) or len(pose) != 2 * _POINTS:
                raise ValueError(f"{path}: frame {number}, person {slot}: expected pose2d with 26 numbers")
            tracks.setdefault(slot, []).append((number, pose))
    bodies = [_body(path, track) for track in tracks.values()]
    bodies = sorted((body for body in bodies if body.joints.any()), key=energy, reverse=True)
    if not bodies:
        raise ValueError(f"{path}: nobody in any frame; leave the file out")
    seen = np.unique(np.concatenate([body.frames for body in bodies]))
    joints = np.zeros((len(seen), len(bodies), LCR17_2D.num_joints, 3), dtype=np.float32)
    for person, body in enumerate(bodies):
        joints[np.searchsorted(seen, body.frames), person] = body.joints
    facts: dict[str, Any] = smarthome_facts(path.name) or {}
    if facts.get("label") == -1:
        raise ValueError(f"{path}: unknown activity; expected one of {', '.join(class_names('smarthome'))}")
    return Clip(joints[joints.any(axis=(1, 2, 3))], LCR17_2D.name, source=str(path), **facts)


def _body(path: Path, track: list[tuple[int, Any]]) -> Body:
    try:
        numbers = to_double([pose for _, pose in track])
    except ValueError as error:
        raise ValueError(f"{path}: pose2d holds something else than numbers ({brief(error)})") from error
    if numbers.ndim != 2:
        raise ValueError(f"{path}: pose2d holds lists, expected 26 numbers")
    pixels = to_single(numbers, path).reshape(-1, 2, _POINTS).swapaxes(1, 2)
    found: np.ndarray = np.asarray(pixels.any(axis=2))
    places = np.stack([1 - 2 * pixels[..., 0] / _WIDTH, (_HEIGHT - 2 * pixels[..., 1]) / _WIDTH, found], axis=-1)
    places = (places * found[..., None])[:, _ORDER]  # head, shoulders, elbows, wrists, hips, knees, ankles
    neck, hips = _between(places[:, 1], places[:, 2]), _between(places[:, 7], places[:, 8])
    middle = np.stack([places[:, 0], _between(places[:, 0], neck), neck, _between(neck, hips), hips], axis=1)
    joints = np.concatenate([middle, places[:, 1:]], axis=1).astype(np.float32)
    return Body(np.array([frame for frame, _ in track]), joints)


def _between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The middle of two points [n, 3]; where one was not found (confidence 0), the other."""
    weight = first[:, 2:] + second[:, 2:]
    middle = (first * first[:, 2:] + second * second[:, 2:]) / np.maximum(weight, 1)
    middle[:, 2] = weight[:, 0] > 0
    return middle

"""PYSKL's ``.pkl`` of NTU RGB+D (Duan et al., ACM MM 2022): 3D annotations, or 2D poses found by HRNet.

{"split": {name: [frame_dir]}, "annotations": [{"frame_dir", "label", "keypoint" [M, T, V, C], "keypoint_score"
[M, T, V] (2D), "img_shape" (height, width), "total_frames"}]}; 3D in metres, 2D in pixels.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skeleton_llm.skeletons.actors import bodies_of, find_convention
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import COCO17_2D, NTU25, Layout
from skeleton_llm.skeletons.readers.ntu import ntu_facts
from skeleton_llm.skeletons.readers.pickled import StoredArray, read_pickle
from skeleton_llm.skeletons.readers.raw_file import brief, to_single

_IMAGE = (1080, 1920)
_PERSONS = 2
_WIDEST, _MOST_CLASSES = 100_000, 1000
_HALVES = {"train": 0, "val": 1, "test": 1}


class Annotation(NamedTuple):
    """One clip of the file, its arrays still in it."""

    name: str
    label: int
    keypoint: StoredArray
    score: StoredArray | None
    image: tuple[int, int]
    splits: dict[str, int]

    @property
    def layout(self) -> Layout:
        """Kinect 2's 25 joints, or the 17 of COCO in the image."""
        return NTU25 if self.score is None else COCO17_2D


def read_annotations(path: Path | str) -> list[Annotation]:
    """The clips of a file; arrays are not read yet.

    Raises:
        ValueError: not such a file; names the annotation.
    """
    data = read_pickle(path)
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise ValueError(f'{path}: expected a PYSKL file with the keys "split" and "annotations"')
    halves: dict[str, dict[str, int]] = {}
    split = data.get("split") or {}
    if not isinstance(split, dict) or not all(isinstance(names, list | tuple) for names in split.values()):
        raise ValueError(f'{path}: expected lists of names under "split"')
    for key, names in split.items():
        protocol, _, half = str(key).rpartition("_")
        for name in names if half in _HALVES else ():
            if isinstance(name, str):
                halves.setdefault(name, {})[protocol] = _HALVES[half]
    return [_annotation(path, i, entry, halves) for i, entry in enumerate(data["annotations"])]


def _annotation(path: Path | str, number: int, entry: Any, halves: dict[str, dict[str, int]]) -> Annotation:
    where = f"{path}: annotation {number}"
    try:
        name, label, keypoint = entry["frame_dir"], entry["label"], entry["keypoint"]
        score = entry.get("keypoint_score")
        height, width = entry.get("img_shape") or _IMAGE
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: expected frame_dir, label and keypoint ({brief(error)})") from None
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
        raise ValueError(f"{where}: expected a name as frame_dir")
    if type(label) is not int or not 0 <= label < _MOST_CLASSES:
        raise ValueError(f"{where} ({name}): expected a class from 0 as label")
    arrays = (keypoint,) if score is None else (keypoint, score)
    if not all(isinstance(array, StoredArray) for array in arrays):
        raise ValueError(f"{where} ({name}): expected arrays of numbers as keypoint and keypoint_score")
    if not all(type(side) is int and 1 <= side <= _WIDEST for side in (height, width)):
        raise ValueError(f"{where} ({name}): expected an img_shape of height and width in pixels")
    return Annotation(name, label, keypoint, score, (height, width), halves.get(name, {}))


def read_annotation(path: Path | str, annotation: Annotation, dataset: str = "", actors: str = "ctrgcn") -> Clip:
    """One clip: 3D [T, 2, 25, 3] as ``actors`` chooses and places them, 2D [T, M, 17, 3] with the confidence last.

    In 2D the two persons seen in most frames are taken.

    Raises:
        ValueError: arrays of other shapes.
    """
    where, layout = f"{path}#{annotation.name}", annotation.layout
    joints = to_single(annotation.keypoint.read(path), where)
    wanted = 3 if annotation.score is None else 2
    if joints.ndim != 4 or joints.shape[2:] != (layout.num_joints, wanted):
        raise ValueError(
            f"{where}: expected keypoint [persons, frames, {layout.num_joints}, {wanted}], found {joints.shape}"
        )
    joints = joints.transpose(1, 0, 2, 3)
    if annotation.score is None:
        if not joints.any():
            raise ValueError(f"{where}: no body in any frame; leave the clip out")
        joints = find_convention(actors)(bodies_of(joints))
    else:
        joints = _in_image(where, joints, to_single(annotation.score.read(path), where), annotation.image)
    splits = {f"{dataset}_{protocol}": half for protocol, half in annotation.splits.items()} if dataset else {}
    facts = {"label": annotation.label, **(ntu_facts(annotation.name) or {})}
    if facts["label"] != annotation.label:
        raise ValueError(f"{where}: its name says class {facts['label']}, its label {annotation.label}; one is wrong")
    return Clip(joints, layout.name, source=where, splits=splits, **facts)


def _in_image(where: str, pixels: np.ndarray, score: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """Pixels [T, M, V, 2] and scores [M, T, V] as halves of the image's width about its centre, +y up, confidence."""
    if score.shape != (pixels.shape[1], pixels.shape[0], pixels.shape[2]):
        raise ValueError(f"{where}: expected keypoint_score [persons, frames, joints], found {score.shape}")
    height, width = image
    seen = score.transpose(1, 0, 2)[..., None]
    joints = np.concatenate([(np.array([width, height]) - 2 * pixels) / width, seen], axis=-1).astype(np.float32)
    there: np.ndarray = np.asarray(pixels.any(axis=(2, 3)) & seen.any(axis=(2, 3)))
    joints[~there] = 0
    main = [int(person) for person in np.argsort(-there.sum(0), kind="stable") if there[:, person].any()][:_PERSONS]
    joints = joints[np.flatnonzero(there.any(1))][:, main]
    if joints.size == 0:
        raise ValueError(f"{where}: no person in any frame; leave the clip out")
    return joints

"""The facts of a dataset's clips, row by row: what ``clips.json`` holds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skeleton_llm.skeletons.clip import Clip

COLUMNS = ("offset", "length", "label", "subject", "view", "setup", "replication")
UNKNOWN = -1
_TEXTS = ("source", "digest")
_SPLIT = "test:"
LeftOut = dict[str, Any]
Row = dict[str, Any]
Table = Mapping[str, np.ndarray]


def digest_of(data: bytes | memoryview) -> str:
    """The fingerprint of a clip's frames."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def content_hash(text: str) -> str:
    """The fingerprint of a dataset: of ``clips.json``, which holds the fingerprint of every clip's frames."""
    return hashlib.sha256(text.encode()).hexdigest()


def columns_of(rows: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """The number columns of ``clips.json`` as int64, -1 where unknown."""
    names = [name for name in rows if name in COLUMNS or name.startswith(_SPLIT)]
    return {name: np.array([UNKNOWN if v is None else v for v in rows[name]], dtype=np.int64) for name in names}


def pack(clip: Clip, layout: str, num_persons: int) -> tuple[Row, bytes]:
    """A clip's row (without its offset) and its frames as they lie in ``frames.npy``, absent persons zero.

    Raises:
        ValueError: a clip of another layout or with too many persons.
    """
    if clip.layout != layout:
        raise ValueError(f"{clip.source}: has the layout {clip.layout}, the dataset {layout}; prepare them apart")
    if clip.joints.shape[1] > num_persons:
        raise ValueError(f"{clip.source}: has {clip.joints.shape[1]} persons, the dataset at most {num_persons}")
    joints = np.zeros((len(clip.joints), num_persons, *clip.joints.shape[2:]), dtype="<f4")
    joints[:, : clip.joints.shape[1]] = clip.joints
    data = joints.tobytes()
    facts = {name: getattr(clip, name) for name in COLUMNS[2:]}
    splits = {f"{_SPLIT}{name}": half for name, half in clip.splits.items()}
    return {"length": len(joints), **facts, **splits, "source": clip.source, "digest": digest_of(data)}, data


class ClipTable:
    """Rows of clips in the order of their frames.

    Attributes:
        rows: a list per column. frames: of all clips together. done: raw items dealt with.
        left_out: what was not taken, each with ``file``, ``kind`` (listed or bad), ``why`` and ``facts``.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.rows: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *_TEXTS)}
        self.frames, self.done = 0, 0
        self.left_out: list[LeftOut] = []

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.rows["length"])

    def take(self, rows: Sequence[Row], left_out: Sequence[LeftOut], items: int) -> None:
        """Append a batch."""
        for row in rows:
            count = len(self)
            self.rows["offset"].append(self.frames)
            for name in sorted({*self.rows, *row} - {"offset"}):
                self.rows.setdefault(name, [None] * count).append(row.get(name))
            self.frames += row["length"]
        self.left_out += left_out
        self.done += items

    def columns(self) -> dict[str, np.ndarray]:
        """The number columns."""
        return columns_of(self.rows)

    def check_labels(self, num_classes: int) -> None:
        """Refuse a class that the dataset does not have.

        Raises:
            ValueError: names the clip.
        """
        labels = self.columns()["label"]
        if len(wrong := np.flatnonzero((labels >= num_classes) | (labels < UNKNOWN))):
            row = int(wrong[0])
            raise ValueError(
                f"{self.rows['source'][row]}: unknown class {labels[row]}; expected 0 to {num_classes - 1}"
            )

    def text(self) -> str:
        """What ``clips.json`` holds."""
        return json.dumps({name: self.rows[name] for name in sorted(self.rows)})

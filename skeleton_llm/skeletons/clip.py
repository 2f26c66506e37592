"""One recorded action, whatever format it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from skeleton_llm.skeletons.layouts import find_layout


@dataclass(frozen=True)
class Clip:
    """Joint positions with what is known of their origin; every reader returns this.

    Attributes:
        joints: [T, M, V, 3] float32 metres, camera frame, +y up (planar layouts: see ``layouts``); an absent person is
            zero in every frame.
        layout: name of the skeleton layout, see ``skeleton_llm.skeletons.LAYOUTS``.
        label: 0-based class; subject, view, setup, replication: ids of the recording, None where unknown.
        source: the file that it was read from.
        splits: for each protocol whose halves come with the data, 0 for a training clip, 1 for a test clip.
        limit: no coordinate lies farther from 0; beyond it the file is damaged or has other units.

    Raises:
        ValueError: the array's shape does not fit the layout, it has no frame, or a coordinate is not finite or too
            far away.
    """

    joints: np.ndarray
    layout: str
    label: int | None = None
    subject: int | None = None
    view: int | None = None
    setup: int | None = None
    replication: int | None = None
    source: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    limit: float = 100.0

    def __post_init__(self) -> None:
        where = self.source or "clip"
        expected = find_layout(self.layout).num_joints
        if self.joints.ndim != 4 or self.joints.shape[3] != 3:
            raise ValueError(f"{where}: expected joints of shape [frames, persons, joints, 3], got {self.joints.shape}")
        if self.joints.shape[0] == 0 or self.joints.shape[1] == 0:
            raise ValueError(f"{where}: holds no frame with a person in it; leave the file out")
        if self.joints.shape[2] != expected:
            raise ValueError(
                f"{where}: expected {expected} joints for the layout {self.layout}, found {self.joints.shape[2]};"
                " read it with the layout it was recorded in"
            )
        bad = ~(np.abs(self.joints) <= self.limit)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            frame, person, joint, _ = at
            found = "is NaN or infinite" if not np.isfinite(self.joints[at]) else f"lies at {self.joints[at]:g}"
            expected_size = "" if not np.isfinite(self.joints[at]) else f", expected at most {self.limit:g} (metres?)"
            raise ValueError(
                f"{where}: frame {frame}, person {person}, joint {joint} {found}{expected_size};"
                " mend or remove the file"
            )

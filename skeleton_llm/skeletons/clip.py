"""One recorded action, whatever format it came from."""

from dataclasses import dataclass

import numpy as np

from skeleton_llm.skeletons.layouts import find_layout


@dataclass(frozen=True)
class Clip:
    """Joint positions with what is known of their origin; every reader returns this.

    Attributes:
        joints: [T, M, V, 3] float32 metres, camera frame, +y up; an absent person is zero in every frame.
        layout: name of the skeleton layout, see ``skeleton_llm.skeletons.LAYOUTS``.
        label: 0-based class; subject, view, setup, replication: ids of the recording, None where unknown.
        source: the file that it was read from.

    Raises:
        ValueError: the array's shape does not fit the layout, it has no frame, or a coordinate is not finite.
    """

    joints: np.ndarray
    layout: str
    label: int | None = None
    subject: int | None = None
    view: int | None = None
    setup: int | None = None
    replication: int | None = None
    source: str = ""

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
        bad = ~np.isfinite(self.joints)
        if bad.any():
            frame, person, joint, _ = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{where}: frame {frame}, person {person}, joint {joint} is NaN or infinite; mend or remove the file"
            )

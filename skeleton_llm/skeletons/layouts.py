"""Skeleton layouts: which joints a sensor gives, how bones join them, which of them carry the body's frame.

In every layout +y is up and coordinates are metres in the camera's frame.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Joint names, bones as (child, parent) and the joints that centre, align and mirror a body (all 0-based)."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int
    chest: int
    left_hip: int
    right_hip: int
    left_shoulder: int
    right_shoulder: int

    @property
    def num_joints(self) -> int:
        """V, the number of joints."""
        return len(self.joints)

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the index of the joint on the body's other side (itself on the middle line)."""
        swapped = [name.replace("left", "*").replace("right", "left").replace("*", "right") for name in self.joints]
        return tuple(self.joints.index(name) for name in swapped)


_LIMBS = ("shoulder", "elbow", "wrist", "hand")
_LEGS = ("hip", "knee", "ankle", "foot")
_BODY20 = (
    *(f"left {part}" for part in _LIMBS),
    *(f"right {part}" for part in _LIMBS),
    *(f"left {part}" for part in _LEGS),
    *(f"right {part}" for part in _LEGS),
)

NTU25 = Layout(
    name="ntu25",
    joints=(
        "spine base", "spine middle", "neck", "head", *_BODY20, "spine shoulder",
        "left hand tip", "left thumb", "right hand tip", "right thumb",
    ),
    bones=(
        (0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10),
        (12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (21, 22), (22, 7), (23, 24),
        (24, 11),
    ),
    root=0, chest=20, left_hip=12, right_hip=16, left_shoulder=4, right_shoulder=8,
)  # fmt: skip
KINECT20 = Layout(
    name="kinect20",
    joints=("hip centre", "spine", "shoulder centre", "head", *_BODY20),
    bones=(
        (0, 1), (1, 2), (3, 2), (4, 2), (5, 4), (6, 5), (7, 6), (8, 2), (9, 8), (10, 9), (11, 10),
        (12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18),
    ),
    root=0, chest=2, left_hip=12, right_hip=16, left_shoulder=4, right_shoulder=8,
)  # fmt: skip
LAYOUTS = {layout.name: layout for layout in (NTU25, KINECT20)}


def find_layout(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        ValueError: no layout has that name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown skeleton layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]

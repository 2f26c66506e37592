"""Skeleton layouts: which joints a sensor gives, how bones join them, which of them carry the body's frame.

+y is up and +x lies to the sensor's left. Coordinates are metres in the camera's frame; in a planar layout (2D pose)
they are halves of the image's width about its centre, and the third channel is the joint's confidence.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """Joint names, bones as (child, parent) and the joints that centre, align and mirror a body (all 0-based)."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int
    left_hip: int
    right_hip: int
    left_shoulder: int
    right_shoulder: int
    planar: bool = False

    def __post_init__(self) -> None:
        """Refuse indices that name no joint and names that occur twice."""
        where = f"skeleton layout {self.name!r}"
        if len(set(self.joints)) != len(self.joints) or not self.joints:
            raise ValueError(f"{where}: joint names must be given and differ from one another")
        sides = (self.root, self.left_hip, self.right_hip, self.left_shoulder, self.right_shoulder)
        bad = [i for i in (*sides, *(i for bone in self.bones for i in bone)) if not 0 <= i < len(self.joints)]
        if bad:
            raise ValueError(f"{where}: joint {bad[0]} does not exist; expected 0 to {len(self.joints) - 1}")
        if lost := [name for name in self.joints if _other_side(name) not in self.joints]:
            raise ValueError(f"{where}: {lost[0]!r} has no counterpart {_other_side(lost[0])!r}; name both sides")

    @classmethod
    def from_mapping(cls, definition: Mapping[str, Any]) -> "Layout":
        """Build a layout from plain data, joints given by name or index (what ``to_mapping`` and a user's YAML hold).

        Raises:
            ValueError: a key is missing or unknown, or a joint does not exist.
        """
        keys = {"name", "joints", "bones", "root", "left_hip", "right_hip", "left_shoulder", "right_shoulder"}
        missing, unknown = keys - definition.keys(), definition.keys() - keys - {"planar"}
        if missing or unknown:
            wrong = f"missing: {', '.join(sorted(missing))}" if missing else f"unknown: {min(map(str, unknown))}"
            raise ValueError(f"a skeleton layout needs the keys {', '.join(sorted(keys))}; {wrong}")
        joints = tuple(map(str, definition["joints"]))

        def index(joint: Any) -> int:
            if isinstance(joint, int):
                return joint
            if joint not in joints:
                raise ValueError(f"skeleton layout {definition['name']!r} has no joint {joint!r}")
            return joints.index(joint)

        return cls(
            name=str(definition["name"]),
            joints=joints,
            bones=tuple((index(child), index(parent)) for child, parent in definition["bones"]),
            **{key: index(definition[key]) for key in sorted(keys - {"name", "joints", "bones"})},
            planar=bool(definition.get("planar", False)),
        )

    def to_mapping(self) -> dict[str, Any]:
        """The layout as plain data."""
        plain = asdict(self)
        return {**plain, "joints": list(self.joints), "bones": [list(bone) for bone in self.bones]}

    @property
    def num_joints(self) -> int:
        """V, the number of joints."""
        return len(self.joints)

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the index of the joint on the body's other side (itself on the middle line)."""
        return tuple(self.joints.index(_other_side(name)) for name in self.joints)


def _other_side(name: str) -> str:
    return name.replace("left", "*").replace("right", "left").replace("*", "right")


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
    root=0, left_hip=12, right_hip=16, left_shoulder=4, right_shoulder=8,
)  # fmt: skip
KINECT20 = Layout(
    name="kinect20",
    joints=("hip centre", "spine", "shoulder centre", "head", *_BODY20),
    bones=(
        (0, 1), (1, 2), (3, 2), (4, 2), (5, 4), (6, 5), (7, 6), (8, 2), (9, 8), (10, 9), (11, 10),
        (12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18),
    ),
    root=0, left_hip=12, right_hip=16, left_shoulder=4, right_shoulder=8,
)  # fmt: skip
_COCO = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
_COCO_BONES = (
    (1, 0), (2, 0), (3, 1), (4, 2), (5, 0), (6, 0), (7, 5), (8, 6), (9, 7), (10, 8), (11, 5), (12, 6), (13, 11),
    (14, 12), (15, 13), (16, 14),
)  # fmt: skip
COCO17 = Layout("coco17", _COCO, _COCO_BONES, root=0, left_hip=11, right_hip=12, left_shoulder=5, right_shoulder=6)
COCO17_2D = Layout(
    "coco17_2d", _COCO, _COCO_BONES, root=0, left_hip=11, right_hip=12, left_shoulder=5, right_shoulder=6, planar=True
)
LCR17_2D = Layout(
    name="lcr17_2d",
    joints=(
        "head", "nose", "neck", "chest", "hip centre", "left shoulder", "right shoulder", "left elbow", "right elbow",
        "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    bones=(
        (0, 1), (1, 2), (2, 3), (3, 4), (5, 2), (6, 2), (7, 5), (8, 6), (9, 7), (10, 8), (11, 4), (12, 4), (13, 11),
        (14, 12), (15, 13), (16, 14),
    ),
    root=4, left_hip=11, right_hip=12, left_shoulder=5, right_shoulder=6, planar=True,
)  # fmt: skip
LAYOUTS = {layout.name: layout for layout in (NTU25, KINECT20, COCO17, COCO17_2D, LCR17_2D)}


def register_layout(definition: Mapping[str, Any]) -> Layout:
    """Make a layout of the user's own known by its name, as opening a dataset or a tokenizer that uses it does.

    Raises:
        ValueError: the definition is not whole, or the name belongs to another layout.
    """
    layout = Layout.from_mapping(definition)
    if LAYOUTS.setdefault(layout.name, layout) != layout:
        raise ValueError(f"two skeleton layouts are called {layout.name!r}; give one of them another name")
    return layout


def find_layout(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        ValueError: no layout has that name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown skeleton layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]

"""From raw clips to network input: centre, align the view, resize, augment; batched, on plain tensors.

B clips, T frames, M persons, V joints, 3 coordinates in metres, +y up.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import Layout, find_layout

_DRAWS = 14  # uniform numbers an item's augmentation takes
_EPSILON = 1e-6


class Draws(NamedTuple):
    """What an augmentation drew for each clip of a batch; angles in radians, ``window`` a place in [0, 1)."""

    start: Float[Tensor, " B"]
    share: Float[Tensor, " B"]
    window: Float[Tensor, " B"]
    change: Float[Tensor, "B 3 3"]  # turn, size and shear
    mirrored: Bool[Tensor, " B"]
    noise_keys: list[tuple[int, int]]


@dataclass
class Preprocess:
    """The deterministic part, stored with the tokenizer so that a raw file meets what training met.

    Args:
        frames: T, the length that a clip is resized to (linear interpolation), or of a window.
        length: ``resize`` gives every clip ``frames`` frames; ``whole`` leaves each its own length; ``window`` trains
            on random windows of ``frames`` consecutive frames and reads whole clips elsewhere, as T2M-GPT does.
        longest: whole clips longer than this are thinned to it.
        align: ``yaw`` turns the body about the vertical so that its mean left-right axis lies along x; ``full`` also
            sets its spine upright; ``none`` keeps the camera's view.
        mirrored: answers are the mean over the clip and its mirror image; only where no class depends on the side.
        turns: answers are the mean over the clip and it turned about the vertical by each of these angles, radians.
    """

    frames: int = 64
    align: Literal["none", "yaw", "full"] = "yaw"
    mirrored: bool = False
    length: Literal["resize", "whole", "window"] = "resize"
    longest: int = 512
    turns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse an empty clip."""
        for name in ("frames", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"preprocess.{name} must be at least 1, got {getattr(self, name)}")

    def positions(
        self, length: Int[Tensor, " B"], draws: Draws | None = None, *, training: bool = False
    ) -> tuple[Float[Tensor, "B T"], Int[Tensor, " B"] | None]:
        """Fractional frame numbers to read of clips of ``length`` frames, and how many of them count; None for all."""
        start = torch.zeros(len(length)) if draws is None else draws.start
        share = torch.ones(len(length)) if draws is None else draws.share
        if self.length == "resize":
            return valid_positions(start, share, length, self.frames), None
        if self.length == "window" and training:
            taken = length.clamp_max(self.frames)
            room = (length - taken + 1).float()
            place = torch.zeros(len(length)) if draws is None else draws.window
            first, step = (place * room).floor().minimum(room - 1), torch.ones(len(length))
        else:
            kept = (share * length).round().long().clamp_min(1)
            taken = kept.clamp_max(self.longest)
            first = start * (length - 1)
            step = (kept - 1) / (taken - 1).clamp_min(1)
        time = torch.arange(int(taken.max()) if len(taken) else 1)
        position = first[:, None] + step[:, None] * torch.minimum(time, taken[:, None] - 1)
        return position.minimum(length[:, None] - 1.0), taken

    def canonical(self, joints: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Shift [3] and rotation [3, 3] that bring a raw clip [T, M, V, 3] to (joints + shift) @ rotation.

        The shift puts the root of the first person in its first valid frame at the origin; it keeps the root's track.
        """
        body = joints[:, 0]
        valid = np.flatnonzero(body.any(axis=(1, 2)))
        if len(valid) == 0:
            return np.zeros(3, dtype=np.float32), np.eye(3, dtype=np.float32)
        body = body[valid]
        rotation = np.eye(3)
        if self.align != "none":
            hips = body[:, [layout.left_hip, layout.right_hip]]
            shoulders = body[:, [layout.left_shoulder, layout.right_shoulder]]
            across = (hips[:, 0] - hips[:, 1] + shoulders[:, 0] - shoulders[:, 1]).mean(axis=0)
            if self.align == "full":
                rotation = _upright((shoulders - hips).mean(axis=(0, 1)))
                across = across @ rotation
            rotation = rotation @ _facing(across)
        shift = -body[0, layout.root].astype(np.float32)
        if layout.planar:
            shift[2] = 0  # a confidence, no place
        return shift, rotation.astype(np.float32)

    def views(self, joints: Tensor, layout: Layout) -> list[Tensor]:
        """The preprocessed clips [B, T, M, V, 3], then turned ones; with ``mirrored`` each with its mirror image."""
        turned = [joints, *(turn(joints, angle) for angle in self.turns)]
        return [view for one in turned for view in ([one, mirror(one, layout)] if self.mirrored else [one])]

    def apply(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """One clip as a batch of one: joints [1, T, M, V, 3] float32 and persons [1, M] bool (who is there at all).

        T is ``frames``, or the clip's own length.
        """
        shift, rotation = self.canonical(clip.joints, find_layout(clip.layout))
        frames = torch.from_numpy(np.ascontiguousarray(clip.joints, dtype=np.float32))
        length = torch.tensor([len(frames)])
        position, _ = self.positions(length)
        seen = frames.flatten(2).ne(0).any(-1)
        joints, present = interpolate(frames, seen, torch.zeros(1, dtype=torch.long), length, position)
        joints = place(joints, present, torch.from_numpy(shift)[None], torch.from_numpy(rotation)[None])
        return joints, present.any(1)


@dataclass
class Augmentation:
    """Random changes of a training clip, drawn per (seed, pass, index).

    Args:
        rotation: largest turn about the vertical, radians.
        tilt: largest turn about each horizontal axis, radians.
        scale: largest relative change of size.
        crop: smallest share of the clip's length that a random temporal crop keeps; 1 keeps all (windows are crops
            already, so it is without effect on them).
        noise: deviation of Gaussian noise on every coordinate, metres.
        mirror: probability of exchanging left and right; only where no class depends on the side.
        shear: largest share of each coordinate that is added to each other one (the shear of AimCLR, Guo et al. 2022):
            bodies lean and stretch as they do between cameras and estimators of poses.
    """

    rotation: float = 0.2
    tilt: float = 0.1
    scale: float = 0.05
    crop: float = 0.8
    noise: float = 0.0
    mirror: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges that make no sense."""
        if not 0 < self.crop <= 1:
            raise ValueError(f"augmentation.crop is a share of the clip in (0, 1], got {self.crop}")
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"augmentation.mirror is a probability, got {self.mirror}")
        for name in ("rotation", "tilt", "scale", "noise", "shear"):
            if getattr(self, name) < 0:
                raise ValueError(f"augmentation.{name} must not be negative, got {getattr(self, name)}")

    def draw(self, seed: int, keys: list[tuple[int, int]]) -> Draws:
        """Draw for each (pass, index) of ``keys``; the same key draws the same, in whatever batch or worker."""
        most = 1 << max(index for _, index in keys).bit_length()  # few sizes, so that the tables are found again
        rows = [_uniforms(seed, turn, most)[index] for turn, index in keys]
        uniform = torch.from_numpy(np.stack(rows))
        share = self.crop + (1 - self.crop) * uniform[:, 0]
        angles = (2 * uniform[:, 2:5] - 1) * torch.tensor([self.tilt, self.rotation, self.tilt])
        size = 1 + (2 * uniform[:, 5] - 1) * self.scale
        return Draws(
            start=uniform[:, 1] * (1 - share),
            share=share,
            window=uniform[:, 7],
            change=_shears((2 * uniform[:, 8:] - 1) * self.shear) @ _rotations(angles) * size[:, None, None],
            mirrored=uniform[:, 6] < self.mirror,
            noise_keys=[(seed + 2**63, (turn << 32) | index) for turn, index in keys],
        )

    def add_noise(self, joints: Tensor, draws: Draws) -> Tensor:
        """Gaussian noise on the clips [B, T, M, V, 3], from each item's own seed."""
        if self.noise == 0:
            return joints
        shape = joints.shape[1:]
        noise = [
            torch.from_numpy(
                np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).standard_normal(
                    shape, np.float32
                )
            )
            for key in draws.noise_keys
        ]
        return joints + self.noise * torch.stack(noise)


def valid_positions(
    start: Float[Tensor, " B"], share: Float[Tensor, " B"], length: Int[Tensor, " B"], frames: int
) -> Float[Tensor, "B T"]:
    """Fractional frame numbers of ``frames`` even steps over a part of each clip; one frame repeats."""
    steps = torch.linspace(0, 1, frames, device=length.device)
    return (start[:, None] + share[:, None] * steps) * (length[:, None] - 1).clamp_min(0)


def interpolate(
    frames: Tensor,
    seen: Bool[Tensor, "F M"],
    offset: Int[Tensor, " B"],
    length: Int[Tensor, " B"],
    position: Float[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B T M"]]:
    """Linear interpolation of clips that lie end to end in ``frames`` [F, M, V, 3], and who is present when.

    A person ``seen`` in only one of the two neighbouring frames stays where that frame has it; absent ones are zero.
    """
    before = torch.minimum(position.floor().long(), length[:, None] - 1)
    after = torch.minimum(before + 1, length[:, None] - 1)
    first, second = (offset[:, None] + before).flatten(), (offset[:, None] + after).flatten()
    there = seen[first], seen[second]
    weight = torch.where(there[0] == there[1], (position - before).flatten()[:, None], there[1].to(position.dtype))
    persons = torch.arange(frames.shape[1], device=frames.device)
    neighbours = torch.stack([first, second], dim=-1)[:, None] * len(persons) + persons[:, None]  # [B * T, M, 2]
    weights = torch.stack([1 - weight, weight], dim=-1)
    joints = F.embedding_bag(  # gathers and adds in one pass
        neighbours.flatten(0, 1), frames.flatten(2).flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum"
    )
    shape = (*position.shape, *frames.shape[1:])
    return joints.view(shape), (there[0] | there[1]).view(shape[:3])


def place(
    joints: Float[Tensor, "B T M V 3"],
    present: Bool[Tensor, "B T M"],
    shift: Float[Tensor, "B 3"],
    rotation: Float[Tensor, "B 3 3"],
) -> Float[Tensor, "B T M V 3"]:
    """(joints + shift) @ rotation for each clip; absent persons stay zero."""
    points = joints.shape[1:-1].numel()
    group = next(size for size in (4, 2, 1) if points % size == 0)  # points a row: wider products are faster
    wide = torch.kron(torch.eye(group, device=joints.device, dtype=rotation.dtype), rotation)
    bias = (shift[:, None] @ rotation).repeat(1, 1, group)
    moved = torch.baddbmm(bias, joints.reshape(len(joints), points // group, 3 * group), wide).view(joints.shape)
    return moved.mul_(present[..., None, None])


def turn(joints: Tensor, angle: float) -> Tensor:
    """Joints [..., 3] turned about the vertical through the origin by ``angle`` radians, as ``rotation`` does."""
    return joints @ _rotations(joints.new_tensor([[0.0, angle, 0.0]]))[0]


def mirror(joints: Tensor, layout: Layout) -> Tensor:
    """Exchange left and right of aligned joints [..., V, 3]: x changes sign, the sides change names."""
    return joints[..., list(layout.mirror), :] * joints.new_tensor([-1.0, 1.0, 1.0])


def _facing(across: np.ndarray) -> np.ndarray:
    """The turn about +y (row vectors times it) that brings the left-right direction ``across`` onto +x."""
    length = float(np.hypot(across[0], across[2]))
    if length < _EPSILON:
        return np.eye(3)
    cos, sin = across[0] / length, across[2] / length
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def _upright(spine: np.ndarray) -> np.ndarray:
    """The smallest rotation (row vectors times it) that brings ``spine`` onto +y (Rodrigues)."""
    length = float(np.linalg.norm(spine))
    if length < _EPSILON:
        return np.eye(3)
    up = spine / length
    axis = np.cross(up, [0.0, 1.0, 0.0])
    if up[1] < -1 + _EPSILON:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return (np.eye(3) + cross + cross @ cross / (1 + up[1])).T


@lru_cache(maxsize=8)
def _uniforms(seed: int, turn: int, size: int) -> np.ndarray:
    """Uniform numbers [size, 14] of a pass; a longer table begins with the shorter one."""
    bits = np.random.Philox(key=np.array([seed, turn], dtype=np.int64).astype(np.uint64))
    return np.random.Generator(bits).random((size, _DRAWS), dtype=np.float32)


def _shears(shares: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 3"]:
    """Matrices of ones on the diagonal and ``shares`` beside it."""
    beside = ~torch.eye(3, dtype=torch.bool)
    matrices = torch.eye(3).repeat(len(shares), 1, 1)
    matrices[:, beside] = shares
    return matrices


def _rotations(angles: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """Rotation matrices about x, z and then y (row vectors times them) by ``angles`` (x, y, z)."""
    x, y, z = angles.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    about_x = torch.stack([one, zero, zero, zero, x.cos(), x.sin(), zero, -x.sin(), x.cos()], -1).view(-1, 3, 3)
    about_y = torch.stack([y.cos(), zero, -y.sin(), zero, one, zero, y.sin(), zero, y.cos()], -1).view(-1, 3, 3)
    about_z = torch.stack([z.cos(), z.sin(), zero, -z.sin(), z.cos(), zero, zero, zero, one], -1).view(-1, 3, 3)
    return about_x @ about_z @ about_y

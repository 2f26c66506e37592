"""Joint positions as standardised network channels, and back.

B clips, T frames, M persons, V joints, F channels, C channels of a person.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from skeleton_llm.skeletons import find_layout

Stream = Literal["joint", "bone", "motion", "bone_motion"]

_FLOOR = 0.2
_AXES = 3


def hold_last(
    joints: Float[Tensor, "B T M V 3"], lengths: Int[Tensor, " B"], step: int
) -> tuple[Float[Tensor, "B S M V 3"], Bool[Tensor, "B S"]]:
    """Each clip's last frame held until its length is a multiple of ``step``, and the frames that count then.

    What stands behind a clip's end is never looked at, so padding cannot change what a network makes of it.
    """
    time = torch.arange(-(-joints.shape[1] // step) * step, device=joints.device)
    held = torch.minimum(time, (lengths[:, None] - 1).clamp_min(0))
    joints = joints.take_along_dim(held[:, :, None, None, None], dim=1)
    return joints, time < -(-lengths[:, None] // step) * step


class SkeletonFeatures(nn.Module):
    """A person's root track and pose about the root, apart, with further streams; standardised per channel.

    Per person the channels are: root [3] and pose [(V - 1) * 3], which are always reconstructed; with ``bone`` the
    bones' vectors; with ``motion`` and ``bone_motion`` the first differences in time of root and pose, and of bones.
    ``forward`` gives them all, ``seen`` those of ``streams``, which the encoder reads. Each person after the first
    adds one channel that says whether it is there; an absent person's channels are 0. Apart and with motion the same
    autoencoder errs a third as much as on raw joints (measured).

    Args:
        layout: skeleton layout.
        num_persons: M.
        streams: what the encoder sees.
        root_weight: weight of the root's channels after standardisation: 3 of some 60 channels carry the whole track.
    """

    inputs: Tensor
    bones: Tensor
    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(
        self,
        layout: str,
        num_persons: int,
        *,
        streams: tuple[Stream, ...] = ("joint", "motion"),
        root_weight: float = 1.0,
    ) -> None:
        """Build unfitted statistics (mean 0, deviation 1)."""
        super().__init__()
        self.layout = find_layout(layout)
        self.num_persons, self.streams, self.root_weight = num_persons, streams, root_weight
        self.position_channels = self.layout.num_joints * _AXES
        bones = len(self.layout.bones) * _AXES
        further = {"bone": bones, "motion": self.position_channels, "bone_motion": bones}
        self.sizes = {"joint": self.position_channels} | {k: size for k, size in further.items() if k in streams}
        self.person_channels = sum(self.sizes.values())
        self.num_channels = num_persons * self.person_channels + num_persons - 1
        person = torch.arange(self.person_channels)[0 if "joint" in streams else self.position_channels :]
        of_all = [person + i * self.person_channels for i in range(num_persons)]
        presence = torch.arange(num_persons * self.person_channels, self.num_channels)
        self.sees_all = "joint" in streams
        self.register_buffer("inputs", torch.cat([*of_all, presence]), persistent=False)
        self.num_inputs = len(self.inputs)
        self.register_buffer("bones", torch.tensor(self.layout.bones).view(-1, 2), persistent=False)
        self.register_buffer("mean", torch.zeros(self.person_channels))
        self.register_buffer("std", torch.ones(self.person_channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def _raw(self, joints: Float[Tensor, "B T M V 3"]) -> Float[Tensor, "B T M C"]:
        at = self.layout.root
        root = joints[:, :, :, at : at + 1]
        position = torch.cat([root, joints[:, :, :, :at] - root, joints[:, :, :, at + 1 :] - root], dim=3).flatten(3)
        parts = [position]
        if {"bone", "bone_motion"} & {*self.sizes}:
            child, parent = self.bones.unbind(-1)
            bones = (joints[:, :, :, child] - joints[:, :, :, parent]).flatten(3)
        if "bone" in self.sizes:
            parts.append(bones)
        if "motion" in self.sizes:
            parts.append(position.diff(dim=1, prepend=position[:, :1]))
        if "bone_motion" in self.sizes:
            parts.append(bones.diff(dim=1, prepend=bones[:, :1]))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def fit(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        mask: Bool[Tensor, "B T"] | None = None,
    ) -> None:
        """Set the statistics from training clips, over present persons and the frames of ``mask`` (all) only.

        A channel that hardly moves keeps at least a fifth of its group's mean deviation, else its noise would explode.
        """
        raw = self._raw(joints).transpose(1, 2)  # [B, M, T, C]
        there = persons[:, :, None].expand(raw.shape[:3])
        raw = raw[there if mask is None else there & mask[:, None]]
        mean, std = raw.mean(0), raw.std(0)
        first = 0
        for name, size in self.sizes.items():
            roots = _AXES if name in ("joint", "motion") else 0  # these streams begin with the root
            for group in (slice(first, first + roots), slice(first + roots, first + size)):
                std[group] = std[group].clamp_min((_FLOOR * std[group].mean()).clamp_min(1e-6))
            std[first : first + roots] /= self.root_weight
            first += size
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.fitted.fill_(True)

    def forward(self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]) -> Float[Tensor, "B T F"]:
        """Standardised channels."""
        there = persons[:, None, :, None]
        channels = ((self._raw(joints) - self.mean) / self.std * there).flatten(2)
        if self.num_persons == 1:
            return channels
        presence = (2.0 * persons[:, None, 1:] - 1).expand(-1, joints.shape[1], -1)
        return torch.cat([channels, presence.to(channels.dtype)], dim=-1)

    def seen(self, channels: Float[Tensor, "B T F"]) -> Float[Tensor, "B T S"]:
        """The channels of ``streams``."""
        return channels if self.sees_all else channels[..., self.inputs]

    def joints(self, x: Float[Tensor, "B T F"]) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"]]:
        """The inverse: positions in metres and who is there; bones and motion are ignored."""
        split = self.num_persons * self.person_channels
        raw = x[..., :split].unflatten(-1, (self.num_persons, -1)) * self.std + self.mean
        position = raw[..., : self.position_channels].unflatten(-1, (-1, _AXES))
        root, pose = position[..., :1, :], position[..., 1:, :] + position[..., :1, :]
        at = self.layout.root
        joints = torch.cat([pose[..., :at, :], root, pose[..., at:, :]], dim=-2)
        persons = torch.cat([torch.ones_like(x[:, 0, :1]), x[..., split:].mean(1)], dim=-1) > 0
        return joints * persons[:, None, :, None, None], persons

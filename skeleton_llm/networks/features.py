"""Joint positions as standardised network channels, and back.

B clips, T frames, M persons, V joints, F channels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from skeleton_llm.skeletons import find_layout

_FLOOR = 0.2
_AXES = 3


class SkeletonFeatures(nn.Module):
    """A person's root track and pose about the root, apart, with their motion; standardised per channel.

    Per person the channels are: root [3], pose [(V - 1) * 3], and with ``motion`` their first differences in time. Each
    person after the first adds one channel that says whether it is there; an absent person's channels are 0. Apart and
    with motion the same autoencoder errs a third as much as on raw joints (measured).

    Args:
        layout: skeleton layout.
        num_persons: M.
        motion: add first differences.
        root_weight: weight of the root's channels after standardisation: 3 of some 60 channels carry the whole track.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, layout: str, num_persons: int, *, motion: bool = True, root_weight: float = 1.0) -> None:
        """Build unfitted statistics (mean 0, deviation 1)."""
        super().__init__()
        self.layout = find_layout(layout)
        self.num_persons, self.motion, self.root_weight = num_persons, motion, root_weight
        self.position_channels = self.layout.num_joints * _AXES
        self.person_channels = self.position_channels * (2 if motion else 1)
        self.num_channels = num_persons * self.person_channels + num_persons - 1
        self.register_buffer("mean", torch.zeros(self.person_channels))
        self.register_buffer("std", torch.ones(self.person_channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def _raw(self, joints: Float[Tensor, "B T M V 3"]) -> Float[Tensor, "B T M C"]:
        root = joints[:, :, :, self.layout.root : self.layout.root + 1]
        keep = [joint for joint in range(self.layout.num_joints) if joint != self.layout.root]
        position = torch.cat([root, joints[:, :, :, keep] - root], dim=3).flatten(3)
        if not self.motion:
            return position
        return torch.cat([position, position.diff(dim=1, prepend=position[:, :1])], dim=-1)

    @torch.no_grad()
    def fit(self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]) -> None:
        """Set the statistics from training clips, over present persons only.

        A channel that hardly moves keeps at least a fifth of its group's mean deviation, else its noise would explode.
        """
        raw = self._raw(joints).transpose(1, 2)[persons].flatten(0, 1)  # [present persons * T, C]
        std = raw.std(0)
        groups = [slice(0, _AXES), slice(_AXES, self.position_channels)]
        if self.motion:
            shift = self.position_channels
            groups += [slice(group.start + shift, group.stop + shift) for group in groups]
        for group in groups:
            std[group] = std[group].clamp_min((_FLOOR * std[group].mean()).clamp_min(1e-6))
        for start in range(0, self.person_channels, self.position_channels):
            std[start : start + _AXES] /= self.root_weight
        self.mean.copy_(raw.mean(0))
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

    def joints(self, x: Float[Tensor, "B T F"]) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"]]:
        """The inverse: positions in metres and who is there; motion channels are ignored."""
        split = self.num_persons * self.person_channels
        raw = x[..., :split].unflatten(-1, (self.num_persons, -1)) * self.std + self.mean
        position = raw[..., : self.position_channels].unflatten(-1, (-1, _AXES))
        root, pose = position[..., :1, :], position[..., 1:, :] + position[..., :1, :]
        at = self.layout.root
        joints = torch.cat([pose[..., :at, :], root, pose[..., at:, :]], dim=-2)
        persons = torch.cat([torch.ones_like(x[:, 0, :1]), x[..., split:].mean(1)], dim=-1) > 0
        return joints * persons[:, None, :, None, None], persons

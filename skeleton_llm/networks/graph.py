"""What recognisers on the skeleton's graph share: adjacency, coordinates a joint, batch norm, the trunk of blocks.

B clips, T frames, M persons, R persons that are there (of all clips), V joints, U the same as targets, C channels,
K kinds of neighbours, D channels behind the last block.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from skeleton_llm.networks.features import Stream
from skeleton_llm.skeletons import find_layout

Mask = Bool[Tensor, "R T"] | None
STEP = 4  # frames that become one step on their way through a trunk


def adjacency(layout: str) -> Float[Tensor, "K U V"]:
    """How much joint u hears of its neighbour v of kind k: itself, nearer to the body's centre, or further from it.

    ST-GCN's spatial configuration (section 3.3): bones point to the centre, so a joint's parent is nearer. Neighbours
    of one kind share a weight of 1, as by the cardinality Z in its sum over them.
    """
    bones, joints = find_layout(layout).bones, find_layout(layout).num_joints
    found = torch.zeros(3, joints, joints)
    found[0].fill_diagonal_(1)
    for child, parent in bones:
        found[1, child, parent] = 1
        found[2, parent, child] = 1
    return found / found.sum(2, keepdim=True).clamp_min(1)


class JointStreams(nn.Module):
    """Clips [B, T, M, V, 3] to [B, T, M, V, 3 S]: each joint's coordinates in every stream, one after the other.

    ``joint`` is its place, ``bone`` the vector from its parent (0 where it has none), ``motion`` and ``bone_motion``
    their first differences in time (0 in the first frame).

    Args:
        layout: skeleton layout.
        streams: which of them.
    """

    parents: Int[Tensor, " V"]

    def __init__(self, layout: str, streams: Sequence[Stream]) -> None:
        """Look up every joint's parent."""
        super().__init__()
        found = find_layout(layout)
        parents = list(range(found.num_joints))
        for child, parent in found.bones:
            if parents[child] != child:
                raise ValueError(f"skeleton layout {layout!r}: {found.joints[child]!r} has two bones to a parent")
            parents[child] = parent
        self.streams = tuple(streams)
        self.register_buffer("parents", torch.tensor(parents), persistent=False)

    def forward(self, joints: Float[Tensor, "B T M V 3"]) -> Float[Tensor, "B T M V C"]:
        """The streams."""
        bones = joints - joints.index_select(3, self.parents)
        still = {"joint": joints, "bone": bones}
        moved = {"motion": joints, "bone_motion": bones}
        parts = [
            still[name] if name in still else moved[name].diff(dim=1, prepend=moved[name][:, :1])
            for name in self.streams
        ]
        return torch.cat(parts, dim=-1)


def over_frames(x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R C V"]:
    """The mean over the frames that count."""
    if mask is None:
        return x.mean(2)
    there = mask[:, None, :, None].to(x.dtype)
    return (x * there).sum(2) / there.sum(2).clamp_min(1)


def normalise(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Float[Tensor, "R C T *V"], mask: Mask
) -> Float[Tensor, "R C T *V"]:
    """Batch norm over the frames that count alone; the others become 0, as beyond a clip's ends."""
    if mask is None:
        return norm(x)
    frames = x.transpose(1, 2)
    normed = norm(frames[mask].unsqueeze(2)).squeeze(2)  # [N, C, 1, V] of N frames
    out = normed.new_zeros(frames.shape)
    out[mask] = normed
    return out.transpose(1, 2)


def mix(
    x: Float[Tensor, "R C P"], weight: Float[Tensor, "D C"], bias: Float[Tensor, "*R D #P"]
) -> Float[Tensor, "R D P"]:
    """A linear map of the channels at P places, one product a person: half the time of a 1 x 1 convolution on CPUs."""
    return torch.baddbmm(bias, weight.expand(len(x), -1, -1), x)


def maps(layer: nn.Conv2d | nn.Linear, kinds: int = 1) -> tuple[Float[Tensor, "K D C"], Float[Tensor, "K D 1"]]:
    """Weights and biases of a 1 x 1 convolution that stands for several."""
    assert layer.bias is not None
    return layer.weight.flatten(1).unflatten(0, (kinds, -1)), layer.bias.view(kinds, -1, 1)


def start(convolution: nn.Conv2d | nn.Linear, fan_out: int) -> None:
    """He's initialisation by what one of its outputs feeds; of layers that stand for several, that of one."""
    nn.init.normal_(convolution.weight, 0, math.sqrt(2 / fan_out))
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)


class ConvNorm(nn.Module):
    """A convolution along time, ``parts`` of them side by side, and batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        parts: int = 1,
    ) -> None:
        """Keep a clip's length but for the stride."""
        super().__init__()
        reach = (kernel - 1) // 2 * dilation
        self.stride, self.still = stride, kernel == stride == 1
        self.conv = nn.Conv2d(
            in_channels, out_channels, (kernel, 1), (stride, 1), padding=(reach, 0), dilation=(dilation, 1)
        )
        self.norm = nn.BatchNorm2d(out_channels)
        start(self.conv, out_channels // parts * kernel)

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R D S V"]:
        """``mask`` is that of ``x``; what it leaves out must be 0."""
        if self.still:
            (weight,), (bias,) = maps(self.conv)
            out = mix(x.flatten(2), weight, bias).unflatten(2, x.shape[2:])
        else:
            out = self.conv(x)
        return normalise(self.norm, out, None if mask is None else mask[:, :: self.stride])


class Shortcut(nn.Module):
    """What a block adds to its output: its input, through a convolution where it changes shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        same = in_channels == out_channels and stride == 1
        self.fit = None if same else ConvNorm(in_channels, out_channels, stride=stride)

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R D S V"]:
        """Input to output."""
        return x if self.fit is None else self.fit(x, mask)


def block_sizes(in_channels: int, width: int) -> list[tuple[int, int, int]]:
    """Input channels, output channels and stride of the ten blocks that both papers have (``width`` 64)."""
    widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
    strides = [2 if index in (4, 7) else 1 for index in range(len(widths))]
    return list(zip([in_channels, *widths], widths, strides, strict=False))


class GraphNetwork(nn.Module):
    """Clips [B, T, M, V, C] to class logits: batch norm, blocks, the mean over frames, joints and persons, one layer.

    Persons who are not there are left out; the papers average over their zeros too, at the cost of a whole person.

    Args:
        num_joints: V.
        in_channels: C.
        num_classes: classes.
        blocks: modules from x [R, C, T, V] and mask to x; their stride is 1 or 2.
        out_channels: D.
        dropout: share of the pooled features dropped in training.
    """

    def __init__(
        self,
        num_joints: int,
        in_channels: int,
        num_classes: int,
        *,
        blocks: Sequence[nn.Module],
        out_channels: int,
        dropout: float,
    ) -> None:
        """Put the parts together."""
        super().__init__()
        # not BatchNorm2d with a width of 1: on CPUs its gradients are wrong where input and gradient lie differently
        self.norm = nn.BatchNorm1d(num_joints * in_channels)
        self.blocks = nn.ModuleList(blocks)
        answer = nn.Linear(out_channels, num_classes)
        nn.init.normal_(answer.weight, 0, math.sqrt(2 / num_classes))
        self.head = nn.Sequential(nn.Dropout(dropout), answer)

    def forward(
        self, x: Float[Tensor, "B T M V C"], persons: Bool[Tensor, "B M"], mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B N"]:
        """Logits; frames out of ``mask`` do not count (clips are whole numbers of 4 frames then)."""
        rows = x.transpose(1, 2)[persons]  # [R, T, V, C]
        there = None if mask is None else mask[:, None].expand(*persons.shape, -1)[persons]
        sizes = rows.shape[2:]
        flat = normalise(self.norm, rows.flatten(2).mT, there)  # [R, V C, T]
        rows = flat.unflatten(1, sizes).permute(0, 2, 3, 1)  # [R, C, T, V]
        for block in self.blocks:
            rows = block(rows, there)
            if there is not None:
                there = there[:, :: there.shape[1] // rows.shape[2]]
        features = over_frames(rows, there).mean(-1)
        of_clips = features.new_zeros(*persons.shape, features.shape[1])
        of_clips[persons] = features
        return self.head(of_clips.sum(1) / persons.sum(1, keepdim=True).clamp_min(1))

"""CTR-GCN: Chen et al., "Channel-wise topology refinement graph convolution", ICCV 2021 (arXiv 2107.12213).

R persons, T frames (S behind a stride), V joints, U the same as targets, C and D channels, K kinds of neighbours.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from skeleton_llm.networks.graph import (
    ConvNorm,
    GraphNetwork,
    Mask,
    Shortcut,
    adjacency,
    block_sizes,
    maps,
    mix,
    normalise,
    over_frames,
    start,
)

_FEWER = 8  # r: channels in which joints are compared, relative to the input's


class TopologyRefinement(nn.Module):
    """CTR-GC: each output channel hears neighbours by its own graph, a shared one refined by the clip (section 3.2).

    For each kind k of neighbours, with x averaged over time as x-bar, the graph of channel d is
    A_k + alpha expand_k(tanh(target_k(x-bar_u) - source_k(x-bar_v)))_d, and the output sum_k graph_k values_k(x).
    ``target`` and ``source`` are linear, so the mean over time may come first: T times fewer products than after them.

    Args:
        graph: A at first; learned, as alpha is, which begins with 0.
        in_channels: C.
        out_channels: D.
    """

    def __init__(self, graph: Float[Tensor, "K U V"], in_channels: int, out_channels: int) -> None:
        """All kinds' linear maps side by side."""
        super().__init__()
        kinds, compared = len(graph), max(in_channels // _FEWER, 8)
        self.graph = nn.Parameter(graph.clone())
        self.strength = nn.Parameter(torch.zeros(()))
        self.target, self.source = (nn.Linear(in_channels, kinds * compared) for _ in range(2))
        self.expand = nn.Conv2d(kinds * compared, kinds * out_channels, 1, groups=kinds)
        self.values = nn.Conv2d(in_channels, kinds * out_channels, 1)
        for layer, fan_out in (
            (self.target, compared),
            (self.source, compared),
            (self.expand, out_channels),
            (self.values, out_channels),
        ):
            start(layer, fan_out)

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R D T V"]:
        """What every joint hears."""
        kinds = len(self.graph)
        still = over_frames(x, mask)  # [R, C, V]
        target, source = (mix(still, side.weight, side.bias[:, None]) for side in (self.target, self.source))
        apart = (target[:, :, None] - source[..., None]).tanh()  # [R, K C', V, U]: transposed for the last product
        expand, offset = maps(self.expand, kinds)
        graph = self.graph.mT.flatten(1)[:, None] + self.strength * offset  # [K, D, V U]
        topologies = map(mix, apart.flatten(2).chunk(kinds, 1), self.strength * expand, graph)
        values = (mix(x.flatten(2), weight, bias) for weight, bias in zip(*maps(self.values, kinds), strict=True))
        heard = [  # kind by kind, so that no product copies its factors
            value.unflatten(2, x.shape[2:]) @ topology.unflatten(2, apart.shape[2:])
            for value, topology in zip(values, topologies, strict=True)
        ]
        return sum(heard[1:], heard[0])


class MultiScaleTime(nn.Module):
    """A quarter of the channels each: 5 frames, 5 frames two apart, the maximum of 3, and one (section 3.3)."""

    def __init__(self, channels: int, stride: int) -> None:
        """All but the last begin with a layer of their own."""
        super().__init__()
        part = channels // 4
        self.stride = stride
        self.enter = ConvNorm(channels, 3 * part, parts=3)
        self.near = ConvNorm(part, part, 5, stride=stride)
        self.far = ConvNorm(part, part, 5, stride=stride, dilation=2)
        self.most = nn.BatchNorm2d(part)
        self.plain = ConvNorm(channels, part, stride=stride)

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R C S V"]:
        """The parts side by side."""
        near, far, most = self.enter(x, mask).relu_().chunk(3, dim=1)
        most = F.max_pool2d(most, (3, 1), (self.stride, 1), (1, 0))  # not below 0, so masked frames do not matter
        parts = (
            self.near(near, mask),
            self.far(far, mask),
            normalise(self.most, most, None if mask is None else mask[:, :: self.stride]),
            self.plain(x, mask),
        )
        return torch.cat(parts, dim=1)


class CTRGCNBlock(nn.Module):
    """Joints hear one another, then their own past and future, each with a shortcut.

    Args:
        graph: who is whose neighbour.
        in_channels: C.
        out_channels: D, a multiple of 4.
        stride: 2 halves the time.
        residual: add the block's input.
    """

    def __init__(
        self, graph: Float[Tensor, "K U V"], in_channels: int, out_channels: int, *, stride: int, residual: bool
    ) -> None:
        """What joints hear begins near 0, as in the authors' code: a block is its shortcuts at first."""
        super().__init__()
        self.joints = TopologyRefinement(graph, in_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.norm.weight, 1e-6)
        self.around_joints = Shortcut(in_channels, out_channels, stride=1)
        self.time = MultiScaleTime(out_channels, stride)
        self.shortcut = Shortcut(in_channels, out_channels, stride) if residual else None

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R D S V"]:
        """One block."""
        heard = (normalise(self.norm, self.joints(x, mask), mask) + self.around_joints(x, mask)).relu_()
        out = self.time(heard, mask)
        return (out if self.shortcut is None else out + self.shortcut(x, mask)).relu_()


class CTRGCN(GraphNetwork):
    """Ten blocks of 64, 128 and 256 channels; 1.46 M parameters with 25 joints and 120 classes.

    Args:
        layout: skeleton layout.
        in_channels: coordinates a joint.
        num_classes: classes.
        width: channels of the first blocks, a multiple of 4.
        dropout: share of the pooled features dropped in training.
    """

    def __init__(self, layout: str, in_channels: int, num_classes: int, *, width: int, dropout: float) -> None:
        """All blocks begin with the same graph, and each learns its own."""
        graph = adjacency(layout)
        blocks = [
            CTRGCNBlock(graph, *sizes, stride=stride, residual=index > 0)
            for index, (*sizes, stride) in enumerate(block_sizes(in_channels, width))
        ]
        joints = graph.shape[1]
        super().__init__(joints, in_channels, num_classes, blocks=blocks, out_channels=4 * width, dropout=dropout)

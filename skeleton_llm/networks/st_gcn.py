"""ST-GCN: Yan, Xiong and Lin, "Spatial temporal graph convolutional networks", AAAI 2018 (arXiv 1801.07455).

R persons, T frames (S behind a stride), V joints, U the same as targets, C and D channels, K kinds of neighbours.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skeleton_llm.networks.graph import ConvNorm, GraphNetwork, Mask, Shortcut, adjacency, block_sizes, normalise, start


class STGCNBlock(nn.Module):
    """A joint hears its neighbours, by the learned importance of every edge (section 3), then its own past and future.

    Args:
        graph: weights of neighbours.
        in_channels: C.
        out_channels: D.
        stride: 2 halves the time.
        kernel: frames of the convolution along time.
        dropout: behind it.
        residual: add the block's input.
    """

    graph: Tensor

    def __init__(
        self,
        graph: Float[Tensor, "K U V"],
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        kernel: int,
        dropout: float,
        residual: bool,
    ) -> None:
        """Every edge is as important as the others at first."""
        super().__init__()
        self.register_buffer("graph", graph.clone(), persistent=False)
        self.importance = nn.Parameter(torch.ones_like(graph))
        self.values = nn.Conv2d(in_channels, len(graph) * out_channels, 1)
        start(self.values, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.time = ConvNorm(out_channels, out_channels, kernel, stride=stride)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = Shortcut(in_channels, out_channels, stride) if residual else None

    def forward(self, x: Float[Tensor, "R C T V"], mask: Mask) -> Float[Tensor, "R D S V"]:
        """One block."""
        values = self.values(x).unflatten(1, (len(self.graph), -1))
        heard = torch.einsum("kuv,rkctv->rctu", self.graph * self.importance, values)
        heard = normalise(self.norm, heard, mask).relu()
        out = self.dropout(self.time(heard, mask))
        return (out if self.shortcut is None else out + self.shortcut(x, mask)).relu()


class STGCN(GraphNetwork):
    """Ten blocks of 64, 128 and 256 channels; 3.10 M parameters with 25 joints and 60 classes.

    Args:
        layout: skeleton layout.
        in_channels: coordinates a joint.
        num_classes: classes.
        width: channels of the first blocks.
        kernel: frames of the convolutions along time, odd.
        dropout: in every block.
    """

    def __init__(
        self, layout: str, in_channels: int, num_classes: int, *, width: int, kernel: int, dropout: float
    ) -> None:
        """All blocks on the same graph, each with an importance of its own for every edge."""
        graph = adjacency(layout)
        blocks = [
            STGCNBlock(graph, *sizes, stride=stride, kernel=kernel, dropout=dropout, residual=index > 0)
            for index, (*sizes, stride) in enumerate(block_sizes(in_channels, width))
        ]
        joints = graph.shape[1]
        super().__init__(joints, in_channels, num_classes, blocks=blocks, out_channels=4 * width, dropout=0.0)

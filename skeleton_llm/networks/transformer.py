"""A plain transformer as classifier: action sentences, latents or frames without a language model."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_SLOWEST = 10_000.0  # of the sinusoids, as in Vaswani et al. 2017


def sinusoids(num_steps: int, width: int) -> Float[Tensor, "S W"]:
    """Sines, then cosines, of every step at wavelengths from 2 pi to 10,000 times that (Vaswani et al. 2017)."""
    speeds = torch.exp(-math.log(_SLOWEST) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(num_steps)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TransformerClassifier(nn.Module):
    """Sequences [B, T, F] to class logits [B, C]: pre-norm encoder layers, the mean over time, one layer.

    Args:
        in_channels: F.
        num_classes: C.
        width: of the layers, even.
        depth: number of layers.
        heads: of the attention; they divide the width.
        dropout: in every layer.
        per_step: elements of the sequence that stand for one step of time; each has a learned vector of its own.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, width: int, depth: int, heads: int, dropout: float, per_step: int
    ) -> None:
        """Build the layers."""
        super().__init__()
        if width % 2 or width % heads:
            raise ValueError(f"network.width must be even and a multiple of network.heads ({heads}), got {width}")
        self.width = width
        self.enter = nn.Linear(in_channels, width)
        self.place = nn.Parameter(0.02 * torch.randn(per_step, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, x: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B C"]:
        """Logits; what is out of ``mask`` does not count."""
        per_step = len(self.place)
        steps = sinusoids(-(-x.shape[1] // per_step), self.width).to(x)
        places = (steps[:, None] + self.place).flatten(0, 1)[: x.shape[1]]
        x, hidden = self.enter(x) + places, None
        if mask is not None:
            hidden = ~mask
            hidden[:, 0] = False  # attention over nothing has no value
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        if mask is None:
            return self.head(x.mean(1))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1))

"""Encoder and decoder over time, the T2M-GPT type that LLM-AR's numbers point to (docs/llm_ar.md).

Both take a mask [B, T] for clips of several lengths in one batch: what lies behind a clip's end is set to 0 after every
layer, as if it were a clip's own zero padding, so that a clip's output does not depend on its neighbours. A clip's
length must be a multiple of 2^downsamples.

B clips, T frames, F channels, L = T / 2^downsamples steps, D width of the output, W width of the layers.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class ResidualConv(nn.Module):
    """x + conv1(relu(conv3(relu(x)))) with the first convolution dilated."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Float[Tensor, "B W T"]) -> Float[Tensor, "B W T"]:
        """Same shape."""
        return x + self.layers(x)


def _residuals(width: int, depth: int) -> list[nn.Module]:
    return [ResidualConv(width, 3**step) for step in reversed(range(depth))]  # dilations 9, 3, 1


class Encoder(nn.Module):
    """[B, T, F] -> [B, L, D]; each of ``downsamples`` strided convolutions halves the time."""

    def __init__(self, in_channels: int, out_dim: int, *, width: int, depth: int, downsamples: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(in_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(downsamples):
            layers += [nn.Conv1d(width, width, 4, stride=2, padding=1), *_residuals(width, depth)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, out_dim, 3, padding=1))

    def forward(self, x: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B L D"]:
        """Latents, one a step; the mask of a step is that of its first frame."""
        if mask is None:
            return self.layers(x.mT).mT
        x, there = (x * mask[..., None]).mT, mask[:, None]
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.Conv1d) and layer.stride[0] == 2:
                there = there[..., ::2]
            x = x * there
        return x.mT


class Decoder(nn.Module):
    """[B, L, D] -> [B, T, F]; each of ``downsamples`` nearest-neighbour upsamplings doubles the time."""

    def __init__(self, in_dim: int, out_channels: int, *, width: int, depth: int, downsamples: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(in_dim, width, 3, padding=1), nn.ReLU()]
        for _ in range(downsamples):
            layers += [*_residuals(width, depth), nn.Upsample(scale_factor=2), nn.Conv1d(width, width, 3, padding=1)]
        layers += [nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, out_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B T F"]:
        """Channels, one set a frame."""
        if mask is None:
            return self.layers(z.mT).mT
        x, there = (z * mask[..., None]).mT, mask[:, None]
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.Upsample):
                there = there.repeat_interleave(2, dim=-1)
            x = x * there
        return x.mT

"""A plain temporal convolution as classifier: what skeletons, latents or sentences give without a language model."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from skeleton_llm.networks.temporal import Encoder


class TemporalClassifier(nn.Module):
    """Sequences [B, T, F] to class logits [B, C]: strided residual convolutions, mean and maximum over time, one layer.

    Args:
        in_channels: F.
        num_classes: C.
        width: channels of the convolutions.
        depth: residual blocks a resolution.
        downsamples: halvings of the time.
        dropout: share of the pooled features dropped in training.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, width: int, depth: int, downsamples: int, dropout: float
    ) -> None:
        """Build the layers."""
        super().__init__()
        self.encoder = Encoder(in_channels, width, width=width, depth=depth, downsamples=downsamples)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, num_classes))

    def forward(self, x: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B C"]:
        """Logits; frames out of ``mask`` do not count."""
        steps = self.encoder(x, mask).relu()  # 0 out of the mask, so the maximum needs none
        kept = (
            steps.shape[1]
            if mask is None
            else mask[:, :: x.shape[1] // steps.shape[1]].sum(1, keepdim=True).clamp_min(1)
        )
        return self.head(torch.cat([steps.sum(1) / kept, steps.amax(1)], dim=-1))

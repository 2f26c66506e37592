"""The nearest training clip as classifier: what the input alone tells, without any learning."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class NearestNeighbour(nn.Module):
    """Scores each class with minus the distance to its nearest known clip; the best one is the nearest clip's.

    The distance is the root of the mean squared difference of all channels of all frames, so clips have one length.
    What is known is no part of the state: it is as large as the training data.

    Args:
        num_classes: C.
    """

    clips: Tensor
    labels: Tensor

    def __init__(self, num_classes: int) -> None:
        """Know nothing."""
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("clips", torch.zeros(0, 0), persistent=False)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long), persistent=False)

    def remember(self, x: Float[Tensor, "N T F"], labels: Int[Tensor, " N"]) -> None:
        """Know these clips and no others."""
        self.clips, self.labels = x.flatten(1), labels

    def forward(self, x: Float[Tensor, "B T F"], mask: None = None) -> Float[Tensor, "B C"]:
        """Scores; a class without a known clip has -inf."""
        del mask
        apart = torch.cdist(x.flatten(1), self.clips) / self.clips.shape[1] ** 0.5
        scores = apart.new_full((len(x), self.num_classes), float("inf"))
        return -scores.scatter_reduce(1, self.labels.expand_as(apart), apart, "amin")

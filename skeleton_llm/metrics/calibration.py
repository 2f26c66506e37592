"""How far the probabilities of answers can be believed, and the temperature that mends them.

N clips, C classes, M bins of confidence.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_COLDEST, _HOTTEST = 0.01, 100.0


class Reliability(NamedTuple):
    """By bins of confidence: how many ``clips``, their mean ``confidence`` and ``accuracy`` (0 in an empty bin)."""

    clips: Float[Tensor, " M"]
    confidence: Float[Tensor, " M"]
    accuracy: Float[Tensor, " M"]

    def error(self) -> float:
        """The expected calibration error, mean of |accuracy - confidence| over the clips (Guo et al. 2017, Eq. 3)."""
        gap = (self.accuracy - self.confidence).abs()
        return float((self.clips * gap).sum() / self.clips.sum().clamp_min(1))


def reliability(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"], bins: int = 15) -> Reliability:
    """Clips in bins ((m - 1) / M, m / M] of the answer's probability, float64."""
    confidence, answer = probabilities.double().max(1)
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    sums = confidence.new_zeros(3, bins)
    sums.index_add_(1, place, torch.stack([torch.ones_like(confidence), confidence, (answer == labels).double()]))
    clips, confident, right = sums
    return Reliability(clips, confident / clips.clamp_min(1), right / clips.clamp_min(1))


def expected_calibration_error(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"], bins: int = 15) -> float:
    """Mean gap between how sure the answers are and how many of them are right, 0 to 1 (Guo et al. 2017)."""
    return reliability(probabilities, labels, bins).error()


def fit_temperature(scores: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """The T, 0.01 to 100, that makes the labels likeliest under softmax(scores / T) (Guo et al. 2017, section 4.2).

    The negative log-likelihood is convex in 1 / T; its slope there, the sum over clips of E_p[score] - score of the
    label, is brought to 0 by bisection. A clip whose label is out of the question (-inf) does not count. Where all
    answers are right every smaller T is likelier still: nothing tells how sure to be, and T is 1.
    """
    scores, labels = scores.double().cpu(), labels.cpu()
    own = scores.gather(1, labels[:, None])
    counted = own[:, 0].isfinite() & (scores.amax(1) < math.inf)  # not those with nan either
    above = (scores - own)[counted]
    if (above <= 0).all():
        return 1.0
    finite = above.masked_fill(above.isinf(), 0)
    low, high = -math.log(_HOTTEST), -math.log(_COLDEST)  # of log 1 / T
    for _ in range(40):
        middle = (low + high) / 2
        slope = ((above * math.exp(middle)).softmax(1) * finite).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


class ClipScores(Metric):
    """``compute`` gives scores [N, C], labels [N] and index [N] of a whole split, of all ranks, in the order of index.

    (torchmetrics takes the axis off the labels of a single clip.)
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        """Start with none."""
        super().__init__(**kwargs)
        for state in ("scores", "labels", "index"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"], index: Int[Tensor, " B"]) -> None:
        """Add some clips, also none: a rank without clips takes part in the gathering."""
        self.scores.append(scores)
        self.labels.append(labels)
        self.index.append(index)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """All of them."""
        index = dim_zero_cat(self.index)
        order = index.argsort()
        return dim_zero_cat(self.scores)[order], dim_zero_cat(self.labels)[order], index[order]

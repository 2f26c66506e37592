"""How a codebook is used. N codes."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class UsageReport(NamedTuple):
    """``used`` and ``dead`` are numbers of tokens; ``exponent`` is minus the slope of log frequency on log rank."""

    perplexity: float
    used: int
    dead: int
    exponent: float


def usage_report(counts: Float[Tensor, " N"] | Int[Tensor, " N"]) -> UsageReport:
    """Perplexity (e to the entropy), tokens used and dead, and the Zipf exponent fitted to the tokens in use.

    The exponent is the least-squares slope over ranks, each weighted by 1 / rank so that the long tail of rare tokens
    does not decide alone; nan with fewer than 3 tokens in use.
    """
    counts = counts.detach().double().cpu()
    used = int((counts > 0).sum())
    share = counts / counts.sum().clamp_min(1)
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    exponent = float("nan")
    if used >= 3:
        frequency = share.sort(descending=True).values[:used].log()
        rank = torch.arange(1, used + 1, dtype=torch.float64)
        weight = 1 / rank / (1 / rank).sum()
        x = rank.log() - (weight * rank.log()).sum()
        exponent = float(-(weight * x * frequency).sum() / (weight * x * x).sum())
    return UsageReport(float(entropy.exp()), used, len(counts) - used, exponent)


class CodebookUsage(Metric):
    """Number of times each token was used, summed over batches and ranks; ``compute`` gives float64 [N]."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.num_codes = num_codes
        self.add_state("counts", torch.zeros(num_codes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, indices: Int[Tensor, "*B"]) -> None:
        """Count the tokens of some sentences."""
        self.counts += torch.bincount(indices.flatten(), minlength=self.num_codes)

    def add(self, counts: Float[Tensor, " N"]) -> None:
        """Add what was counted elsewhere."""
        self.update(counts.new_zeros(0, dtype=torch.long))
        self.counts += counts

    def compute(self) -> Float[Tensor, " N"]:
        """The counts."""
        return self.counts

"""Token usage should follow Zipf's law (LLM-AR Eqs. 2-4). N is the number of codes."""

import torch
from jaxtyping import Float
from torch import Tensor

_FLOOR = 1e-8


def zipf_target(n: int, alpha: float = 1.0, beta: float = 2.7) -> Float[Tensor, " N"]:
    """Zipf-Mandelbrot probability of each rank, ``1 / (rank + beta)^alpha``, normalised (LLM-AR Eq. 2)."""
    rank = torch.arange(1, n + 1, dtype=torch.float32)
    weight = (rank + beta) ** -alpha
    return weight / weight.sum()


def js_divergence(p: Float[Tensor, " N"], q: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence in nats, 0 to ln 2; logarithms are clamped (xlogy has NaN gradients at 0)."""
    middle = ((p + q) / 2).clamp_min(_FLOOR / 2).log()
    return ((p * (p.clamp_min(_FLOOR).log() - middle)).sum() + (q * (q.clamp_min(_FLOOR).log() - middle)).sum()) / 2


def zipf_loss(counts: Float[Tensor, " N"], target: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Divergence between the sorted usage of the whole batch and ``target`` (LLM-AR Eq. 4), in nats.

    Equal counts keep the order of their tokens, so that their gradients are the same in every run.
    """
    usage = counts.sort(descending=True, stable=True).values / counts.sum().clamp_min(_FLOOR)
    return js_divergence(usage, target)

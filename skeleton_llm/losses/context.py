"""Tokens should come in correlated pairs, as words do (LLM-AR Eq. 5). B sentences, N codes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def context_loss(
    counts: Float[Tensor, "B N"],
    pairs: Int[Tensor, "H 2"] | None = None,
    total: float | Float[Tensor, ""] | None = None,
    *,
    normalise: bool = True,
) -> Float[Tensor, ""]:
    """``1 - 2/L mean_b sum_pairs min(counts[b, m], counts[b, n])``, 0 (all in pairs) to 1 (none).

    LLM-AR's sum grows with the sentence's length L, which would swamp the Zipf loss at the shared weight; this is the
    same up to a constant factor. Sentences without tokens (padding) do not count.

    Args:
        counts: how often each sentence uses each token.
        pairs: who shall come with whom; by default n with n + N/2.
        total: the number of sentences that the sum is divided by; by default those with tokens.
        normalise: without it the value is the paper's, ``- mean_b sum_pairs min(...)``, 0 to -L/2.

    Raises:
        ValueError: the number of codes is odd.
    """
    half, odd = divmod(counts.shape[1], 2)
    if odd:
        raise ValueError(f"the context loss pairs codes, so their number must be even, got {counts.shape[1]}")
    # one gather for both sides: two of them make torch 2.13's compiler write beyond its memory on CPUs
    by_pair = counts if pairs is None else counts.index_select(1, pairs.mT.flatten())
    left, right = by_pair.split(half, dim=1)
    together = left.minimum(right).sum(-1)
    length = counts.detach().sum(-1)
    real = length > 0
    each = torch.where(real, 1 - 2 * together / length.clamp_min(1), 0) if normalise else -together
    return each.sum() / (real.sum().clamp_min(1) if total is None else total)

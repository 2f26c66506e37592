"""Tokens should come in correlated pairs, as words do (LLM-AR Eq. 5). B sentences, N codes."""

from jaxtyping import Float
from torch import Tensor


def context_loss(counts: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """``1 - 2/L mean_b sum_n min(counts[b, n], counts[b, n + N/2])``, 0 (all in pairs) to 1 (none).

    LLM-AR's sum grows with the sentence's length L, which would swamp the Zipf loss at the shared weight; this is the
    same up to a constant factor. The pairs (n, n + N/2) are a random pairing because tokens are initialised at random.

    Raises:
        ValueError: the number of codes is odd.
    """
    half, odd = divmod(counts.shape[1], 2)
    if odd:
        raise ValueError(f"the context loss pairs codes, so their number must be even, got {counts.shape[1]}")
    together = counts[:, :half].minimum(counts[:, half:]).sum(-1)
    return (1 - 2 * together / counts.sum(-1).clamp_min(1)).mean()

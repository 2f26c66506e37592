"""The two halves of vector quantisation's pull (LLM-AR Eq. 11), on tangent vectors."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class CodebookLosses(NamedTuple):
    """Scalars: ``embedding`` moves tokens, ``commitment`` moves latents."""

    embedding: Float[Tensor, ""]
    commitment: Float[Tensor, ""]


def codebook_losses(
    latents: Float[Tensor, "*B D"],
    tokens: Float[Tensor, "*B D"],
    mask: Bool[Tensor, "*B"] | None = None,
    total: float | Float[Tensor, ""] | None = None,
) -> CodebookLosses:
    """Squared distance of each latent to its token, the mean over latents, with the gradient to one side each.

    The paper writes a squared norm; it is summed over D here (a mean over D = 5120 would be 5120 times smaller than the
    reconstruction at latents of norm 1). Both are one pass forward and one backward: 1/1.5 of autograd's time
    (``python -m benchmarks.losses``).

    Args:
        latents: tangent vectors.
        tokens: of the same shape.
        mask: which latents count; all by default.
        total: the number that the sum is divided by; by default how many count.
    """
    if total is None:
        total = float(max(latents[..., 0].numel(), 1)) if mask is None else mask.sum().clamp_min(1)
    return CodebookLosses(*_Pull.apply(latents, tokens, mask, total))


class _Pull(torch.autograd.Function):
    """One squared distance, whose gradient goes to the tokens through the first value, to the latents by the second."""

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, tokens: Tensor, mask: Tensor | None, total: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        apart = latents - tokens
        if mask is not None:
            apart *= mask[..., None]
        ctx.save_for_backward(apart)
        ctx.total = total
        flat = apart.flatten()
        value = torch.dot(flat, flat) / total
        return value, value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (apart,) = ctx.saved_tensors
        return apart * (2 / ctx.total * grads[1]), apart * (-2 / ctx.total * grads[0]), None, None

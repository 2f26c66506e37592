"""The two halves of vector quantisation's pull (LLM-AR Eq. 11), on tangent vectors."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


class CodebookLosses(NamedTuple):
    """Scalars: ``embedding`` moves tokens, ``commitment`` moves latents."""

    embedding: Float[Tensor, ""]
    commitment: Float[Tensor, ""]


def codebook_losses(
    latents: Float[Tensor, "*B D"],
    codebook: Float[Tensor, "N D"],
    indices: Int[Tensor, "*B"],
    mask: Bool[Tensor, "*B"] | None = None,
    total: float | Float[Tensor, ""] | None = None,
) -> CodebookLosses:
    """Squared distance of each latent to its token, the mean over latents, with the gradient to one side each.

    The paper writes a squared norm; it is summed over D here (a mean over D = 5120 would be 5120 times smaller than the
    reconstruction at latents of norm 1). Both are one pass forward and one backward, where autograd's way also writes
    the tokens and their gradient down for each latent (``python -m benchmarks.losses``).

    Args:
        latents: tangent vectors.
        codebook: all tokens.
        indices: each latent's token.
        mask: which latents count; all by default.
        total: the number that the sum is divided by; by default how many count.
    """
    if total is None:
        total = float(max(indices.numel(), 1)) if mask is None else mask.sum().clamp_min(1)
    return CodebookLosses(*_Pull.apply(latents, codebook, indices, mask, total))


class _Pull(torch.autograd.Function):
    """One squared distance, whose gradient goes to the tokens through the first value, to the latents by the second."""

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, codebook: Tensor, indices: Tensor, mask: Tensor | None, total: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        apart = F.embedding(indices, codebook).sub_(latents)
        if mask is not None:
            apart *= mask[..., None]
        ctx.save_for_backward(apart, indices)
        ctx.total, ctx.num_codes = total, len(codebook)
        flat = apart.flatten()
        value = torch.dot(flat, flat) / total
        return value, value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        apart, indices = ctx.saved_tensors
        latents = codebook = None
        if ctx.needs_input_grad[0]:
            latents = apart * (-2 / ctx.total * grads[1])
        if ctx.needs_input_grad[1]:
            codebook = apart.new_zeros(ctx.num_codes, apart.shape[-1])
            codebook.index_add_(0, indices.flatten(), apart.flatten(0, -2)).mul_(2 / ctx.total * grads[0])
        return latents, codebook, None, None, None

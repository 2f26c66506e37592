"""How often each sentence uses each token, with a gradient (LLM-AR Eq. 3).

B sentences, L tokens a sentence, N codes.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_counts(
    distances: Float[Tensor, "B L N"],
    indices: Int[Tensor, "B L"],
    scale: Float[Tensor, ""],
    temperature: float,
    noise: Float[Tensor, "M N"] | None = None,
    mask: Bool[Tensor, "B L"] | None = None,
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B L"]]:
    """Whole counts with the gradient of softmax((noise - scale * distances) / temperature), and the tokens counted.

    The straight-through Gumbel-softmax of Jang et al. 2017 in one pass forward and one backward; what PyTorch's own
    form keeps for the backward pass is three times as much.

    Args:
        distances: to every token.
        indices: the nearest tokens, which are counted where there is no noise.
        scale: of the logits.
        temperature: of the gradient.
        noise: standard Gumbel noise, [B L, N].
        mask: which tokens count.
    """
    return _Counts.apply(distances, indices, scale, temperature, noise, mask)


class _Counts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        indices: Tensor,
        scale: Tensor,
        temperature: float,
        noise: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        logits = distances * -scale
        chosen = indices.clone()  # an output must not be an input
        if noise is not None:
            logits += noise.view_as(logits)
            chosen = logits.argmax(-1)
        soft = logits.div_(temperature).softmax(-1)
        weight = torch.ones_like(chosen, dtype=soft.dtype) if mask is None else mask.to(soft.dtype)
        counts = torch.zeros(len(soft), soft.shape[-1], dtype=soft.dtype, device=soft.device)
        counts.scatter_add_(1, chosen, weight)
        ctx.save_for_backward(soft, weight, scale)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(chosen)
        return counts, chosen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        soft, weight, scale = ctx.saved_tensors
        towards = grads[0]  # [B, N]
        mean = torch.bmm(soft, towards[:, :, None])  # [B, L, 1]
        factor = weight[..., None] * (-scale / ctx.temperature)
        return (towards[:, None] - mean).mul_(soft).mul_(factor), None, None, None, None, None

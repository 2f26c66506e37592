"""The two halves of vector quantisation's pull (LLM-AR Eq. 11), on tangent vectors."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class CodebookLosses(NamedTuple):
    """Scalars: ``embedding`` moves tokens, ``commitment`` moves latents."""

    embedding: Float[Tensor, ""]
    commitment: Float[Tensor, ""]


def codebook_losses(latents: Float[Tensor, "*B D"], tokens: Float[Tensor, "*B D"]) -> CodebookLosses:
    """Squared distance of each latent to its token, the mean over latents, with the gradient to one side each.

    The paper writes a squared norm; it is summed over D here (a mean over D = 5120 would be 5120 times smaller than the
    reconstruction at latents of norm 1).
    """
    embedding = (tokens - latents.detach()).square().sum(-1).mean()
    commitment = (latents - tokens.detach()).square().sum(-1).mean()
    return CodebookLosses(embedding, commitment)

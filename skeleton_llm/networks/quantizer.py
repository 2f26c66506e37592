"""The codebook: latents to the nearest token, in the Poincare ball or in Euclidean space (LLM-AR Eqs. 1, 3, 8-10).

Latents and tokens are tangent vectors at 0 with norms about 1. The codebook's norms are tied within narrow bounds: in
many dimensions directions differ so little that with free norms the shortest token wins every search (measured: a
spread of 1 % takes the perplexity from 479 to 16 of 512).

B clips, L latents a clip, N codes, D width.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from skeleton_llm.geometry import nearest, pairwise_dist

Geometry = Literal["hyperbolic", "euclidean"]


class Quantized(NamedTuple):
    """``latents`` and ``tokens`` are tangent vectors; ``counts`` carry a straight-through gradient.

    ``gap`` is the mean difference between the distances to the nearest and to the second token.
    """

    latents: Float[Tensor, "B L D"]
    tokens: Float[Tensor, "B L D"]
    indices: Int[Tensor, "B L"]
    counts: Float[Tensor, "B N"]
    agreement: Float[Tensor, ""]
    gap: Float[Tensor, ""]


def straight_through(latents: Tensor, tokens: Tensor) -> Tensor:
    """The tokens' values with the latents' gradient."""
    return latents + (tokens - latents).detach()


class Quantizer(nn.Module):
    """N tokens of width D.

    Args:
        num_codes: N.
        dim: D, the language model's embedding width.
        geometry: ``hyperbolic`` (the paper) or ``euclidean``.
        curvature: c of the ball, of curvature -c.
        token_norms: bounds of the learned token norms.
        sharpness: usage counts are drawn from softmax(-s d), s = sharpness / (running mean gap between the nearest and
            the second token), so that the draw agrees with the nearest token whatever the scale of the distances.
        temperature: of the softmax whose gradient the counts carry.
        noise: draw counts with Gumbel noise (the paper); without it they are those of the nearest tokens.
    """

    gap: Tensor
    initialised: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        geometry: Geometry = "hyperbolic",
        curvature: float = 1.0,
        token_norms: tuple[float, float] = (0.97, 1.03),
        sharpness: float = 20.0,
        temperature: float = 0.5,
        noise: bool = True,
    ) -> None:
        """Draw random directions; ``initialise`` replaces them by cluster centres of latents."""
        super().__init__()
        if not 0 < token_norms[0] < token_norms[1] < 20:
            raise ValueError(f"token_norms must be two rising bounds between 0 and 20, got {token_norms}")
        if temperature <= 0 or sharpness <= 0:
            raise ValueError(f"temperature and sharpness must be positive, got {temperature} and {sharpness}")
        if curvature <= 0:
            raise ValueError(f"curvature must be positive (geometry: euclidean is the flat case), got {curvature}")
        self.num_codes, self.dim, self.geometry, self.curvature = num_codes, dim, geometry, curvature
        self.token_norms, self.sharpness, self.temperature, self.noise = token_norms, sharpness, temperature, noise
        self.direction = nn.Parameter(F.normalize(torch.randn(num_codes, dim), dim=-1))
        self.norm_logit = nn.Parameter(torch.zeros(num_codes))
        self.register_buffer("gap", torch.tensor(0.1))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def codebook(self) -> Float[Tensor, "N D"]:
        """All tokens as tangent vectors, float32."""
        low, high = self.token_norms
        norm = low + (high - low) * self.norm_logit.float().sigmoid()
        return F.normalize(self.direction.float(), dim=-1) * norm[:, None]

    @staticmethod
    def normalise(latents: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Layer norm without gain, divided by sqrt(D): float32 vectors of norm 1, far from the ball's boundary."""
        return F.layer_norm(latents.float(), latents.shape[-1:]) / math.sqrt(latents.shape[-1])

    def distances(self, latents: Float[Tensor, "M D"], codebook: Float[Tensor, "N D"]) -> Float[Tensor, "M N"]:
        """Distance of every latent to every token in the chosen geometry."""
        if self.geometry == "hyperbolic":
            return pairwise_dist(latents, codebook, self.curvature)
        squared = latents.square().sum(-1)[:, None] + codebook.square().sum(-1) - 2 * latents @ codebook.mT
        return squared.clamp_min(1e-12).sqrt()

    def search(self, latents: Float[Tensor, "*B D"]) -> Int[Tensor, "*B"]:
        """Index of the nearest token."""
        codebook = self.codebook()
        if self.geometry == "hyperbolic":
            return nearest(latents, codebook, self.curvature)
        score = latents.flatten(0, -2) @ codebook.mT - codebook.square().sum(-1) / 2
        return score.argmax(-1).view(latents.shape[:-1])

    def forward(self, features: Float[Tensor, "B L D"]) -> Quantized:
        """Quantise the encoder's output, in float32 whatever the autocast."""
        with torch.autocast(features.device.type, enabled=False):
            latents = self.normalise(features)
            codebook = self.codebook()
            flat = latents.flatten(0, 1)
            distances = self.distances(flat, codebook)
            indices = distances.detach().argmin(-1)
            two = distances.detach().topk(2, dim=-1, largest=False).values
            chosen, counts = self._usage(distances, indices, len(latents))
            return Quantized(
                latents=latents,
                tokens=codebook[indices].view_as(latents),
                indices=indices.view(latents.shape[:2]),
                counts=counts,
                agreement=(chosen == indices).float().mean(),
                gap=(two[:, 1] - two[:, 0]).mean(),
            )

    @torch.no_grad()
    def follow(self, gap: Float[Tensor, ""]) -> None:
        """Move the running gap towards a step's ``gap`` (its mean over all ranks)."""
        self.gap.lerp_(gap.clamp_min(1e-6), 0.01)

    def _usage(self, distances: Tensor, indices: Tensor, clips: int) -> tuple[Tensor, Tensor]:
        """The token that each latent's draw picked [M] and how often each clip used each token [B, N]."""
        logits = -distances * (self.sharpness / self.gap)
        chosen = indices
        if self.noise:
            uniform = torch.rand_like(logits).clamp(1e-20, 1 - 1e-7)
            logits = logits - (-uniform.log()).log()
            chosen = logits.detach().argmax(-1)
        soft = (logits / self.temperature).softmax(-1)
        hard = F.one_hot(chosen, self.num_codes).to(soft.dtype)
        sampled = hard + (soft - soft.detach())  # whole numbers to the last bit, so that tied counts are ties
        return chosen, sampled.view(clips, -1, self.num_codes).sum(1)

    @torch.no_grad()
    def initialise(self, latents: Float[Tensor, "M D"], *, rounds: int = 20, seed: int = 0) -> None:
        """Place the tokens at the centres of spherical k-means over normalised ``latents``, in random order.

        The order is random because the context loss pairs token n with n + N/2. The same latents and seed give the
        same tokens, so every rank computes them for itself.
        """
        generator = torch.Generator().manual_seed(seed)
        pick = torch.randperm(len(latents), generator=generator).to(latents.device)
        centres = latents[pick[torch.arange(self.num_codes) % len(latents)]].float()
        for _ in range(rounds):
            index = (latents @ centres.mT).argmax(-1)
            sums = torch.zeros_like(centres).index_add_(0, index, latents)
            size = torch.bincount(index, minlength=self.num_codes)
            spare = torch.randint(len(latents), (self.num_codes,), generator=generator).to(latents.device)
            centres = F.normalize(torch.where((size > 0)[:, None], sums, latents[spare]), dim=-1)
        order = torch.randperm(self.num_codes, generator=generator).to(latents.device)
        self.direction.copy_(centres[order])
        self.norm_logit.zero_()
        two = self.distances(latents[:4096], self.codebook()).topk(2, dim=-1, largest=False).values
        self.gap.copy_((two[:, 1] - two[:, 0]).mean().clamp_min(1e-6))
        self.initialised.fill_(True)

"""The codebook: latents to the nearest token, in the Poincare ball or in Euclidean space (LLM-AR Eqs. 1, 3, 8-10).

Latents and tokens are tangent vectors at 0 with norms about 1. The codebook's norms are tied within narrow bounds: in
many dimensions directions differ so little that with free norms the shortest token wins every search (measured: a
spread of 1 % takes the perplexity from 479 to 16 of 512).

B sentences, L tokens a sentence, M = B L latents, N codes, D width.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from skeleton_llm.geometry import nearest, pairwise_dist
from skeleton_llm.networks.usage import token_counts

Geometry = Literal["hyperbolic", "euclidean"]
Latents = Literal["layer_norm", "unit", "clip"]
Learning = Literal["gradient", "ema"]
Start = Literal["kmeans", "sample", "random"]


class Quantized(NamedTuple):
    """``latents`` and ``codebook`` are tangent vectors, ``tokens`` the codebook's rows ``indices`` without gradient.

    ``counts`` carry a straight-through gradient; ``agreement`` tells where the usage drawn is the nearest token;
    ``gap`` is the difference between the distances to the nearest and to the second token.
    """

    latents: Float[Tensor, "B L D"]
    codebook: Float[Tensor, "N D"]
    tokens: Float[Tensor, "B L D"]
    indices: Int[Tensor, "B L"]
    counts: Float[Tensor, "B N"]
    agreement: Bool[Tensor, "B L"]
    gap: Float[Tensor, "B L"]


def straight_through(latents: Tensor, tokens: Tensor) -> Tensor:
    """The tokens' values, to the last bit, with the latents' gradient."""
    return _StraightThrough.apply(latents, tokens)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, tokens: Tensor) -> Tensor:
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Quantizer(nn.Module):
    """N tokens of width D, and the random pairing of tokens that the context loss looks at (``pairs`` [N / 2, 2]).

    Args:
        num_codes: N, even.
        dim: D, the language model's embedding width.
        geometry: ``hyperbolic`` (the paper) or ``euclidean``.
        curvature: c of the ball, of curvature -c.
        token_norms: bounds of the learned token norms.
        latents: ``layer_norm`` without gain, ``unit`` length, or ``clip``: as they are, up to ``latent_norm``. The
            paper's own form, whose features reach the ball's boundary, is ``clip`` with 3.8 = artanh(1 - 0.001).
        latent_norm: the latents' norm, or its bound.
        sharpness: usage counts are drawn from softmax(-s d), s = sharpness / (running mean gap between the nearest and
            the second token), so that the draw agrees with the nearest token whatever the scale of the distances.
        scale: s itself, fixed, in the place of ``sharpness``.
        temperature: of the softmax whose gradient the counts carry.
        noise: draw counts with Gumbel noise (the paper); without it they are those of the nearest tokens.
        codebook: tokens learn by ``gradient`` (the paper's embedding loss), or are the exponential moving average
            (``ema``) of their latents, as in T2M-GPT; then no other loss moves them, and all norms are the middle of
            ``token_norms``.
        ema_decay: of that average.
    """

    gap: Tensor
    initialised: Tensor
    pairs: Tensor
    recent: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        geometry: Geometry = "hyperbolic",
        curvature: float = 1.0,
        token_norms: tuple[float, float] = (0.97, 1.03),
        latents: Latents = "layer_norm",
        latent_norm: float = 1.0,
        sharpness: float = 20.0,
        scale: float | None = None,
        temperature: float = 0.5,
        noise: bool = True,
        codebook: Learning = "gradient",
        ema_decay: float = 0.99,
    ) -> None:
        """Draw random directions; ``initialise`` puts the tokens among latents."""
        super().__init__()
        if not 0 < token_norms[0] < token_norms[1]:
            raise ValueError(f"token_norms must be two rising bounds above 0, got {token_norms}")
        for name, value in (("temperature", temperature), ("sharpness", sharpness), ("latent_norm", latent_norm)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale must be positive (null takes it from sharpness), got {scale}")
        if curvature <= 0:
            raise ValueError(f"curvature must be positive (geometry: euclidean is the flat case), got {curvature}")
        if geometry == "hyperbolic" and curvature**0.5 * max(token_norms[1], latent_norm) > 20:
            raise ValueError(
                f"norms times sqrt(curvature) must not exceed 20, where float32 overflows; got token_norms"
                f" {token_norms}, latent_norm {latent_norm}, curvature {curvature}"
            )
        if not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {ema_decay}")
        self.num_codes, self.dim, self.geometry, self.curvature = num_codes, dim, geometry, curvature
        self.token_norms, self.latents, self.latent_norm = token_norms, latents, latent_norm
        self.sharpness, self.scale, self.temperature, self.noise = sharpness, scale, temperature, noise
        self.learning, self.ema_decay = codebook, ema_decay
        by_gradient = codebook == "gradient"
        self.direction = nn.Parameter(F.normalize(torch.randn(num_codes, dim), dim=-1), requires_grad=by_gradient)
        self.norm_logit = nn.Parameter(torch.zeros(num_codes), requires_grad=by_gradient)
        self.register_buffer("gap", torch.tensor(0.1))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.register_buffer("pairs", torch.randperm(num_codes)[: num_codes // 2 * 2].view(-1, 2))
        self.register_buffer("recent", torch.zeros(num_codes))
        self.ema_size = None if by_gradient else nn.Buffer(torch.ones(num_codes))
        self.ready = False  # ``initialised`` as Python knows it: asking the tensor would wait for the device
        self.register_load_state_dict_post_hook(_know_whether_ready)

    def codebook(self) -> Float[Tensor, "N D"]:
        """All tokens as tangent vectors, float32 (float64 in a float64 network)."""
        low, high = self.token_norms
        norm = low + (high - low) * _at_least_float32(self.norm_logit).sigmoid()
        return F.normalize(_at_least_float32(self.direction), dim=-1) * norm[:, None]

    def normalise(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The encoder's output as float32 tangent vectors far from the ball's boundary, by the ``latents`` key."""
        features = _at_least_float32(features)
        if self.latents == "layer_norm":
            gain = features.new_full(features.shape[-1:], self.latent_norm / math.sqrt(features.shape[-1]))
            return F.layer_norm(features, features.shape[-1:], gain)
        if self.latents == "unit":
            return F.normalize(features, dim=-1) * self.latent_norm
        norm = (features.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return features * (self.latent_norm / norm).clamp_max(1)

    def distances(self, latents: Float[Tensor, "M D"], codebook: Float[Tensor, "N D"]) -> Float[Tensor, "M N"]:
        """Distance of every latent to every token in the chosen geometry, in float32 whatever the autocast."""
        if self.geometry == "hyperbolic":
            return pairwise_dist(latents, codebook, self.curvature)
        with torch.autocast(latents.device.type, enabled=False):
            latents, codebook = _at_least_float32(latents), _at_least_float32(codebook)
            squared = latents.square().sum(-1)[:, None] + codebook.square().sum(-1) - 2 * latents @ codebook.mT
            return squared.clamp_min(1e-12).sqrt()

    def search(self, latents: Float[Tensor, "*B D"]) -> Int[Tensor, "*B"]:
        """Index of the nearest token, in float32 whatever the autocast."""
        codebook = self.codebook()
        if self.geometry == "hyperbolic":
            return nearest(latents, codebook, self.curvature)
        with torch.autocast(latents.device.type, enabled=False):
            score = _at_least_float32(latents).flatten(0, -2) @ codebook.mT - codebook.square().sum(-1) / 2
            return score.argmax(-1).view(latents.shape[:-1])

    def forward(self, features: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"] | None = None) -> Quantized:
        """Quantise the encoder's output, in float32 whatever the autocast; masked latents do not count."""
        with torch.autocast(features.device.type, enabled=False):
            latents = self.normalise(features)
            codebook = self.codebook()
            distances = self.distances(latents.flatten(0, 1), codebook)
            found = distances.detach().topk(2, dim=-1, largest=False)
            indices = found.indices[:, 0]
            scale = self.sharpness / self.gap if self.scale is None else torch.full_like(self.gap, self.scale)
            noise = _gumbel(distances) if self.noise else None
            counts, chosen = token_counts(
                distances.view(*latents.shape[:2], self.num_codes),
                indices.view(latents.shape[:2]),
                scale,
                self.temperature,
                noise,
                mask,
            )
            return Quantized(
                latents=latents,
                codebook=codebook,
                tokens=F.embedding(indices, codebook.detach()).view_as(latents),
                indices=indices.view(latents.shape[:2]),
                counts=counts,
                agreement=chosen == indices.view(latents.shape[:2]),
                gap=(found.values[:, 1] - found.values[:, 0]).view(latents.shape[:2]),
            )

    @torch.no_grad()
    def follow(self, gap: Float[Tensor, ""]) -> None:
        """Move the running gap towards a step's ``gap`` (its mean over all ranks)."""
        self.gap.lerp_(torch.where(gap.isfinite(), gap, self.gap).clamp_min(1e-6), 0.01)  # one overflow is not for ever

    @torch.no_grad()
    def average(self, sums: Float[Tensor, "N D"], sizes: Float[Tensor, " N"]) -> None:
        """Move each token towards the mean of the latents it stood for; both arguments are sums over all ranks."""
        assert self.ema_size is not None, "only with codebook: ema"
        whole = sums.isfinite().all()
        sums, sizes = torch.where(whole, sums, 0), torch.where(whole, sizes, 0)
        total = self.direction * self.ema_size[:, None]
        total.lerp_(sums, 1 - self.ema_decay)
        self.ema_size.lerp_(sizes, 1 - self.ema_decay)
        self.direction.copy_(
            torch.where((self.ema_size > 1e-5)[:, None], total / self.ema_size[:, None], self.direction)
        )

    @torch.no_grad()
    def revive(self, latents: Float[Tensor, "K D"], least: float) -> None:
        """Put tokens used less than ``least`` times since the last call onto ``latents`` (the same on all ranks).

        Each latent takes one token at most, rows of zeros none: of two tokens in one place one would stay dead.
        """
        dead = self.recent < least
        place = dead.cumsum(0) - 1
        onto = latents[place.clamp(0, len(latents) - 1)]
        moved = dead & (place < len(latents)) & onto.ne(0).any(-1)
        self.direction.copy_(torch.where(moved[:, None], onto, self.direction))
        self.norm_logit.copy_(torch.where(moved, 0, self.norm_logit))
        if self.ema_size is not None:
            self.ema_size.copy_(torch.where(moved, 1, self.ema_size))
        self.recent.zero_()

    @torch.no_grad()
    def initialise(
        self, latents: Float[Tensor, "M D"], how: Start = "kmeans", *, rounds: int = 20, seed: int = 0
    ) -> None:
        """Put the tokens among normalised ``latents``, and the running gap at its value there.

        ``kmeans`` takes the centres of spherical k-means, ``sample`` some of the latents, ``random`` leaves the tokens
        where they are. The same latents and seed give the same tokens, so every rank computes them for itself.
        """
        generator = torch.Generator().manual_seed(seed)
        if how != "random":
            pick = torch.randperm(len(latents), generator=generator).to(latents.device)
            centres = F.normalize(latents[pick[torch.arange(self.num_codes) % len(latents)]], dim=-1)
            for _ in range(rounds if how == "kmeans" else 0):
                with torch.autocast(latents.device.type, enabled=False):
                    index = (latents @ centres.mT).argmax(-1)
                sums = torch.zeros_like(centres).index_add_(0, index, latents)
                size = torch.bincount(index, minlength=self.num_codes)
                spare = torch.randint(len(latents), (self.num_codes,), generator=generator).to(latents.device)
                centres = F.normalize(torch.where((size > 0)[:, None], sums, latents[spare]), dim=-1)
            self.direction.copy_(centres)
            self.norm_logit.zero_()
        two = self.distances(latents[:4096], self.codebook()).topk(2, dim=-1, largest=False).values
        self.gap.copy_((two[:, 1] - two[:, 0]).mean().clamp_min(1e-6))
        self.initialised.fill_(True)
        self.ready = True


def refuse_unplaced(quantize_after: int | None, max_steps: int) -> None:
    """Raise where a run is over before its codebook is placed."""
    if quantize_after is not None and 0 < max_steps <= quantize_after:
        raise ValueError(
            f"model.quantize_after is {quantize_after}, but the run ends at step {max_steps} (trainer.max_steps) with a"
            " random codebook: make it smaller, or null for latents without a codebook"
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise of this shape."""
    uniform = torch.rand_like(like, requires_grad=False).clamp_(1e-20, 1 - 1e-7)
    return uniform.log_().neg_().log_().neg_()


def _know_whether_ready(module: Any, _: Any) -> None:
    module.ready = bool(module.initialised)

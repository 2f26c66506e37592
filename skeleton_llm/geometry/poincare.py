"""The Poincare ball of curvature -c (LLM-AR Eqs. 8-10; Ganea et al. 2018), and its search in tangent coordinates.

``expmap0``, ``logmap0``, ``project`` and ``dist`` are the textbook maps on ball points. What training uses never forms
a ball point: with tangent vectors z, e at 0, r = sqrt(c)|z|, s = sqrt(c)|e|, and u, v their directions,

    sinh^2(sqrt(c) d / 2) = sinh^2(r - s) + sinh(2r) sinh(2s) |u - v|^2 / 4,

whose terms are all positive, where ball points saturate (tanh(r) = 1 in float32 from r = 9). Everything is computed
and returned in at least float32, whatever the autocast: in float16 and bfloat16 ball points lie on the boundary from
tangent norms of 4.5 and 3.5.

B any leading dimensions, M latents, N tokens, D width.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TINY = 1e-15


def expmap0(v: Float[Tensor, "*B D"], c: float = 1.0) -> Float[Tensor, "*B D"]:
    """Tangent vector at 0 to ball point, tanh(sqrt(c)|v|) v / (sqrt(c)|v|) (LLM-AR Eq. 8)."""
    v = _at_least_float32(v)
    norm = v.norm(dim=-1, keepdim=True).clamp_min(_TINY) * c**0.5
    return norm.tanh() / norm * v


def logmap0(y: Float[Tensor, "*B D"], c: float = 1.0) -> Float[Tensor, "*B D"]:
    """Ball point to tangent vector at 0, artanh(sqrt(c)|y|) y / (sqrt(c)|y|) (LLM-AR Eq. 10)."""
    y = _at_least_float32(y)
    norm = y.norm(dim=-1, keepdim=True).clamp_min(_TINY) * c**0.5
    return norm.clamp_max(1 - torch.finfo(y.dtype).eps).atanh() / norm * y


def project(x: Float[Tensor, "*B D"], c: float = 1.0, *, margin: float = 1e-3) -> Float[Tensor, "*B D"]:
    """Points beyond (1 - margin) / sqrt(c) from 0 are brought back to there; Khrulkov et al. 2020 use 1e-3."""
    x = _at_least_float32(x)
    norm = x.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    return x * ((1 - margin) / c**0.5 / norm).clamp_max(1)


def dist(x: Float[Tensor, "*#B D"], y: Float[Tensor, "*#B D"], c: float = 1.0) -> Float[Tensor, "*B"]:
    """Distance of ball points, 2/sqrt(c) arsinh(sqrt(c) |x-y| / sqrt((1-c|x|^2)(1-c|y|^2))) (equal to LLM-AR Eq. 9)."""
    x, y = _at_least_float32(x), _at_least_float32(y)
    gap = (x - y).norm(dim=-1) * c**0.5
    room = (1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1))
    return 2 / c**0.5 * (gap / room.clamp_min(_TINY).sqrt()).asinh()


def tangent_dist(z: Float[Tensor, "*B D"], e: Float[Tensor, "*B D"], c: float = 1.0) -> Float[Tensor, "*B"]:
    """Distance of the ball points of paired tangent vectors; exact for near pairs, gradient finite at distance 0."""
    with torch.autocast(z.device.type, enabled=False):
        z, e = _at_least_float32(z), _at_least_float32(e)
        r, u = _polar(z, c)
        s, v = _polar(e, c)
        q = (r - s).sinh().square() + (2 * r).sinh() * (2 * s).sinh() * (u - v).square().sum(-1) / 4
        return 2 / c**0.5 * (q + torch.finfo(q.dtype).tiny).sqrt().asinh()


def pairwise_dist(z: Float[Tensor, "M D"], e: Float[Tensor, "N D"], c: float = 1.0) -> Float[Tensor, "M N"]:
    """Distance of every pair of tangent vectors by one matrix product, with its gradient by two.

    In float32 a distance below about 5e-4 is rounding; its gradient is 0.
    """
    with torch.autocast(z.device.type, enabled=False):
        return _PairwiseDist.apply(_at_least_float32(z), _at_least_float32(e), c)


def nearest(latents: Float[Tensor, "*B D"], tokens: Float[Tensor, "N D"], c: float = 1.0) -> Int[Tensor, "*B"]:
    """Index of the nearest token for each latent; both are tangent vectors at 0.

    argmin_k d = argmax_k (tanh(2r) u . sinh(2s_k) v_k - 2 sinh^2(s_k)): one matrix product and a bias. The textbook's
    cosh(2s) is this plus 1, which takes short tokens their digits.
    """
    with torch.autocast(latents.device.type, enabled=False), torch.no_grad():
        z, e = _at_least_float32(latents).flatten(0, -2), _at_least_float32(tokens)
        r, s = _norm(z) * c**0.5, _norm(e) * c**0.5
        pull = (2 * r).tanh() / r * c
        along = z @ (((2 * s).sinh() / s)[:, None] * e).mT  # the only work that grows with D
        return (along.mul_(pull[:, None]) - 2 * s.sinh().square()).argmax(-1).view(latents.shape[:-1])


class _PairwiseDist(torch.autograd.Function):
    """Distances of tangent vectors z [M, D], e [N, D] with norms r, s (times sqrt(c)) and directions u, v.

    With q = sinh^2(sqrt(c) d / 2) and H = dL/dd dd/dq every gradient is a product of H with a vector or a matrix:
    dq/dr = sinh 2r cosh 2s - cosh 2r sinh 2s u.v, dq/du = -1/2 sinh 2r sinh 2s v, and the same for s, v. Autograd's own
    way takes ten passes over [M, N] instead of one, and several over [M, D] for the directions, which are never formed.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, e: Tensor, c: float) -> Tensor:
        r, s = _norm(z) * c**0.5, _norm(e) * c**0.5
        # sinh(r - s) for all pairs is a product of rank 2
        q = (torch.stack([r.sinh(), -r.cosh()], -1) @ torch.stack([s.cosh(), s.sinh()])).square_()
        cosine = (z @ e.mT).mul_((c**0.5 / r)[:, None]).mul_(c**0.5 / s)
        q += (1 - cosine).clamp_min_(0).mul_((2 * r).sinh()[:, None] / 2).mul_((2 * s).sinh())
        root = q.sqrt()
        further = (q + 1).sqrt_()
        floor = torch.finfo(q.dtype).eps
        slope = (root * further).clamp_min_(floor**0.5).reciprocal_().masked_fill_(q < floor, 0)
        ctx.save_for_backward(z, e, r, s, cosine, slope)
        ctx.c = c
        # 2 arsinh(root), and log is what CPUs do fast
        return root.add_(q.div_(further.add_(1))).log1p_().mul_(2 / c**0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z, e, r, s, cosine, slope = ctx.saved_tensors
        pull = grads[0] * slope
        turned = pull * cosine
        gradients = []
        for x, here, others, there, weight, part in (
            (z, r, e, s, pull, turned),
            (e, s, z, r, pull.mT, turned.mT),
        ):
            sinh = (2 * there).sinh()
            along, turn = weight @ (2 * there).cosh(), part @ sinh
            across = weight @ ((sinh / there)[:, None] * others)
            both = (2 * here).sinh() / here / 2
            radial = (2 * here).sinh() * along - (2 * here).cosh() * turn + both * turn
            gradients.append(
                across.mul_(-both[:, None] * ctx.c**0.5).addcmul_((radial / here)[:, None], x, value=ctx.c**0.5)
            )
        return gradients[0], gradients[1], None


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm(x: Tensor) -> Tensor:
    """|x| in one pass, above 0; its gradient is its user's business."""
    return torch.linalg.vector_norm(x, dim=-1).clamp_min(_TINY)


def _polar(x: Tensor, c: float) -> tuple[Tensor, Tensor]:
    norm = (x.square().sum(-1) + _TINY**2).sqrt()
    return norm * c**0.5, x / norm[..., None].clamp_min(_TINY)

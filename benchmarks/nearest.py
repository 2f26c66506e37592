"""Nearest-token search, alone and with its losses, against the bare product, vector-quantize-pytorch and geoopt.

python -m benchmarks.nearest
"""

import geoopt
import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from benchmarks.alternate import ratios, show
from skeleton_llm.geometry import expmap0, nearest
from skeleton_llm.losses import codebook_losses


def directions(*shape: int) -> Tensor:
    """Tangent vectors of norm 1."""
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def compare(latents: int, dim: int, codes: int = 512, *, with_geoopt: bool) -> None:
    """Search alone."""
    z, e = directions(latents, dim), directions(codes, dim)
    peer = VectorQuantize(dim=dim, codebook_size=codes).eval()
    ball, z_ball, e_ball = geoopt.PoincareBall(), expmap0(z), expmap0(e)

    def by_geoopt() -> Tensor:
        return ball.dist(z_ball[:, None], e_ball[None]).argmin(-1)

    functions = {
        "bare matrix product (floor)": lambda: z @ e.mT,
        "skeleton_llm.geometry.nearest": lambda: nearest(z, e),
        "skeleton_llm.geometry.nearest and the tokens' vectors": lambda: e[nearest(z, e)],
        "vector-quantize-pytorch, eval forward (search and vectors)": lambda: peer(z[None]),
    }
    if with_geoopt:
        functions["geoopt, distance of every pair and argmin"] = by_geoopt
    with torch.inference_mode():
        show(f"nearest token: {latents} latents, width {dim}, {codes} codes (ratio to the floor)", ratios(functions))


def train(latents: int, dim: int, codes: int = 512) -> None:
    """Search, both codebook losses, and their gradients; the codebook's gradient is gathered by both."""
    z, e = directions(latents, dim).requires_grad_(), directions(codes, dim).requires_grad_()
    ball = geoopt.PoincareBall()

    def ours() -> Tensor:
        pull = codebook_losses(z, e, nearest(z.detach(), e.detach()))
        return pull.embedding + 0.02 * pull.commitment

    def by_geoopt() -> Tensor:
        chosen = e[nearest(z.detach(), e.detach())]
        points, tokens = expmap0(z), expmap0(chosen)
        embedding, commitment = ball.dist(points.detach(), tokens), ball.dist(points, tokens.detach())
        return (embedding.square() + 0.02 * commitment.square()).mean()

    functions = {
        "geoopt's distance to the nearest tokens (floor)": lambda: torch.autograd.grad(by_geoopt(), (z, e)),
        "ours": lambda: torch.autograd.grad(ours(), (z, e)),
    }
    show(f"search, embedding and commitment: {latents} latents, width {dim}, {codes} codes", ratios(functions, 5))


if __name__ == "__main__":
    torch.manual_seed(0)
    compare(4096, 128, with_geoopt=False)
    compare(1024, 512, with_geoopt=True)
    compare(4096, 5120, with_geoopt=False)
    train(4096, 5120)

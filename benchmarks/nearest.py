"""Nearest-token search against the bare matrix product, vector-quantize-pytorch and geoopt.

python -m benchmarks.nearest
"""

import geoopt
import torch
from vector_quantize_pytorch import VectorQuantize

from benchmarks.alternate import ratios, show
from skeleton_llm.geometry import expmap0, nearest


def compare(latents: int, dim: int, codes: int = 512, *, with_geoopt: bool) -> None:
    """One table; latents and tokens are tangent vectors of norm 1."""
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(latents, dim), dim=-1)
    e = torch.nn.functional.normalize(torch.randn(codes, dim), dim=-1)
    peer = VectorQuantize(dim=dim, codebook_size=codes).eval()
    ball, z_ball, e_ball = geoopt.PoincareBall(), expmap0(z), expmap0(e)

    def by_geoopt() -> torch.Tensor:
        return ball.dist(z_ball[:, None], e_ball[None]).argmin(-1)

    functions = {
        "bare matrix product and argmax (floor)": lambda: (z @ e.mT).argmax(-1),
        "skeleton_llm.geometry.nearest": lambda: nearest(z, e),
        "skeleton_llm.geometry.nearest and the tokens' vectors": lambda: e[nearest(z, e)],
        "vector-quantize-pytorch, eval forward (search and vectors)": lambda: peer(z[None]),
    }
    if with_geoopt:
        functions["geoopt, distance of every pair and argmin"] = by_geoopt
    with torch.inference_mode():
        show(f"nearest token: {latents} latents, width {dim}, {codes} codes (ratio to the floor)", ratios(functions))


if __name__ == "__main__":
    compare(4096, 128, with_geoopt=False)
    compare(1024, 512, with_geoopt=True)
    compare(4096, 5120, with_geoopt=False)

"""A stage-1 step with every loss against the same network around vector-quantize-pytorch's VectorQuantize (Euclidean).

python -m benchmarks.stage1_step
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from benchmarks.alternate import ratios, show
from skeleton_llm.losses import WordMMD, codebook_losses, context_loss, zipf_loss, zipf_target
from skeleton_llm.networks import VQVAE, VQVAEConfig


def stepper(parameters: list[torch.nn.Parameter], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One optimiser step."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def compare(width: int, dim: int, batch: int) -> None:
    """One table at 64 frames and NTU's two persons."""
    torch.manual_seed(0)
    config = VQVAEConfig(width=width)
    ours, peer = (VQVAE(config, layout="ntu25", num_persons=2, dim=dim) for _ in range(2))
    quantizer = VectorQuantize(dim=dim, codebook_size=config.num_codes, commitment_weight=0.02)
    x = torch.randn(batch, 64, ours.features.num_channels)
    target, words = zipf_target(config.num_codes), WordMMD(torch.randn(4096, dim), rows=1024)

    def every_loss() -> torch.Tensor:
        out = ours(x)
        pull = codebook_losses(out.latents, out.codebook, out.indices)
        bias = zipf_loss(out.counts.sum(0), target) + context_loss(out.counts) + words(out.codebook)
        return F.smooth_l1_loss(out.reconstruction, x) + pull.embedding + 0.02 * pull.commitment + 0.2 * bias

    def peers_loss() -> torch.Tensor:
        tokens, _, commitment = quantizer(peer.latents(x).float())
        return F.smooth_l1_loss(peer.decode_tokens(tokens).float(), x) + commitment.sum()

    kept = [p for name, p in peer.named_parameters() if not name.startswith("quantizer")]
    functions = {
        "the same network, VectorQuantize, two losses (peer)": stepper(kept, peers_loss),
        "ours: hyperbolic codebook and all six losses": stepper(list(ours.parameters()), every_loss),
    }
    show(f"stage-1 step: width {width}, code width {dim}, batch {batch} (ratio to the peer)", ratios(functions, 5))


if __name__ == "__main__":
    compare(width=128, dim=128, batch=64)
    compare(width=512, dim=1024, batch=16)
    compare(width=512, dim=5120, batch=64)

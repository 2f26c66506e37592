"""Stage 1's losses, forward and backward, against the plain PyTorch form of each and against the bare matrix products.

python -m benchmarks.losses
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.alternate import ratios, show
from skeleton_llm.losses import codebook_losses, context_loss, mmd, word_bandwidths, zipf_loss, zipf_target
from skeleton_llm.networks.usage import token_counts


def backward(loss: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], object]:
    """One value and its gradients."""
    return lambda: torch.autograd.grad(loss(), leaves)


def extra_memory(function: Callable[[], object]) -> float:
    """MiB that a call adds to the process at its peak (Linux: the kernel's own high-water mark)."""

    def status(key: str) -> int:
        return int(next(line for line in Path("/proc/self/status").open() if line.startswith(key)).split()[1])

    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls have freed goes back first
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    function()
    return (status("VmHWM") - before) / 1024


def usage(clips: int, length: int, codes: int = 512) -> None:
    """Counts, Zipf and context losses from distances; the noise is drawn by both."""
    distances = torch.rand(clips, length, codes, requires_grad=True)
    nearest, target = distances.detach().argmin(-1), zipf_target(codes)
    scale, half = torch.tensor(50.0), codes // 2

    def losses(counts: Tensor) -> Tensor:
        return zipf_loss(counts.sum(0), target) + context_loss(counts)

    def ours() -> Tensor:
        noise = torch.rand(clips * length, codes).log_().neg_().log_().neg_()
        return losses(token_counts(distances, nearest, scale, 0.5, noise)[0])

    def plain() -> Tensor:
        counts = F.gumbel_softmax(-scale * distances, 0.5, hard=True).sum(1)
        together = torch.minimum(counts[:, :half, None], counts[:, None, half:]).diagonal(dim1=1, dim2=2).sum(-1)
        return zipf_loss(counts.sum(0), target) - 2 * together.mean() / length

    def literal() -> Tensor:
        counts = F.gumbel_softmax(-scale * distances, 0.5, hard=True).sum(1)
        together = torch.minimum(counts[:, :, None], counts[:, None])[:, range(half), range(half, codes)].sum(-1)
        return zipf_loss(counts.sum(0), target) - 2 * together.mean() / length

    def gumbel() -> Tensor:
        return losses(F.gumbel_softmax(-scale * distances, 0.5, hard=True).sum(1))

    def floor() -> Tensor:
        return (-scale * distances).softmax(-1).sum(1).square().sum()

    functions = {
        "one softmax and its sum (floor)": backward(floor, distances),
        "ours: counts, Zipf, context": backward(ours, distances),
        "F.gumbel_softmax(hard=True), Zipf, context": backward(gumbel, distances),
        "F.gumbel_softmax(hard=True), minimum of the halves by broadcast": backward(plain, distances),
        "F.gumbel_softmax(hard=True), minimum by broadcast (peer)": backward(literal, distances),
    }
    show(f"usage losses: {clips} clips of {length} tokens, {codes} codes", ratios(functions, 3))
    print("  extra memory at the peak, MiB: " + ", ".join(f"{extra_memory(f):.0f}" for f in functions.values()))


def discrepancy(words: int, dim: int, codes: int = 512, *, naive: bool) -> None:
    """MMD of the codebook to the words; the word-word term is computed once and not timed."""
    table, codebook = torch.randn(words, dim) / dim**0.5, (torch.randn(codes, dim) / dim**0.5).requires_grad_()
    widths, word_word = word_bandwidths(table), torch.zeros((), dtype=torch.float64)

    def plain() -> Tensor:
        both = torch.cat([codebook, table])
        squared = both.square().sum(-1)[:, None] + both.square().sum(-1) - 2 * both @ both.mT
        kernel = torch.stack([(-squared / (2 * width)).exp() for width in widths]).sum(0)
        return kernel[:codes, :codes].mean() + kernel[codes:, codes:].mean() - 2 * kernel[:codes, codes:].mean()

    def products() -> Tensor:
        with torch.no_grad():
            return (codebook @ table.mT) @ table

    sample = table[:1024]
    functions: dict[str, Callable[[], object]] = {
        "two bare matrix products (floor)": products,
        "ours, all words": backward(lambda: mmd(codebook, table, widths, word_word), codebook),
        "ours, 1,024 words": backward(lambda: mmd(codebook, sample, widths, word_word), codebook),
    }
    if naive:
        functions["kernels of the joined sets, by autograd (peer)"] = backward(plain, codebook)
    show(f"MMD: {codes} codes, {words} words of width {dim}", ratios(functions, 3))


def pull(latents: int, dim: int, codes: int = 512) -> None:
    """Embedding and commitment, with the gradients to latents and codebook."""
    z, e = torch.randn(latents, dim, requires_grad=True), torch.randn(codes, dim, requires_grad=True)
    indices = torch.randint(codes, (latents,))

    def ours() -> Tensor:
        found = codebook_losses(z, e, indices)
        return found.embedding + 0.02 * found.commitment

    def plain() -> Tensor:
        tokens = F.embedding(indices, e)
        return F.mse_loss(tokens, z.detach()) + 0.02 * F.mse_loss(z, tokens.detach())

    functions = {"ours, one pass": backward(ours, z, e), "two mse_loss by autograd (peer)": backward(plain, z, e)}
    show(f"codebook losses: {latents} latents of width {dim}, {codes} codes", ratios(functions, 5))


if __name__ == "__main__":
    torch.manual_seed(0)
    pull(4096, 5120)
    usage(256, 16)
    discrepancy(32000, 512, naive=False)
    discrepancy(32000, 5120, naive=False)
    discrepancy(4000, 512, naive=True)

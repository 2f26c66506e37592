"""The codebook should lie among the language model's words: maximum mean discrepancy (LLM-AR Eq. 7; Gretton 2012).

Codes U [N, D], words W [V, D]; kernel k(x, y) = mean_i exp(-|x - y|^2 / (2 b_i)) over fixed bandwidths b_i.
MMD^2 = mean k(W, W) + mean k(U, U) - 2 mean k(U, W), biased (V-statistic). Values are accumulated in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
_BLOCK = 4096


def word_bandwidths(words: Float[Tensor, "V D"]) -> Float[Tensor, " K"]:
    """The median squared distance between words (of at most 1,000 spread over the table) times 1/4 to 4."""
    some = words[torch.linspace(0, len(words) - 1, min(len(words), 1000)).long()].float()
    median = torch.pdist(some).square().median()
    return median * torch.tensor(_SCALES, device=words.device)


def _mean_kernel(x: Tensor, y: Tensor, bandwidths: Tensor) -> Tensor:
    """Mean of k(x, y) over all pairs, in blocks of rows of y that are recomputed in the backward pass."""

    def block_sum(left: Tensor, right: Tensor) -> Tensor:
        squared = left.square().sum(-1)[:, None] + right.square().sum(-1) - 2 * left @ right.mT
        squared = squared.clamp_min(0)
        return sum((-squared / (2 * b)).exp().double().sum() for b in bandwidths.tolist()) / len(bandwidths)

    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for block in y.split(_BLOCK):
        total = total + checkpoint(block_sum, x, block, use_reentrant=False, preserve_rng_state=False)
    return total / (len(x) * len(y))


def mmd(
    codebook: Float[Tensor, "N D"],
    words: Float[Tensor, "V D"],
    bandwidths: Float[Tensor, " K"] | None = None,
    word_word: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Squared MMD between codes and words; ``word_word`` is mean k(W, W) where the caller has it already."""
    with torch.autocast(codebook.device.type, enabled=False):
        codes = codebook if codebook.dtype == torch.float64 else codebook.float()
        table = words.to(codes.dtype)
        widths = word_bandwidths(table) if bandwidths is None else bandwidths
        if word_word is None:
            word_word = _mean_kernel(table, table, widths)
        value = word_word + _mean_kernel(codes, codes, widths) - 2 * _mean_kernel(codes, table, widths)
        return value.to(codes.dtype)


class WordMMD(nn.Module):
    """MMD of tangent codes (norm about 1) to a language model's word embeddings.

    The words are centred and divided by their root-mean-square norm, so that both sets have norms about 1: raw tables
    differ in scale, and the loss would only pull the codes' norms. The word-word term is computed once.

    Args:
        words: the input embedding matrix, [V, D].
        rows: words drawn afresh each training step (from torch's generator); null takes all (exact).
    """

    words: Tensor
    bandwidths: Tensor
    word_word: Tensor

    def __init__(self, words: Float[Tensor, "V D"], rows: int | None = None) -> None:
        """Standardise the words and fix the bandwidths."""
        super().__init__()
        if rows is not None and rows < 1:
            raise ValueError(f"mmd_rows must be at least 1 (null takes all words), got {rows}")
        table = words.float() - words.float().mean(0)
        table = table / table.square().sum(-1).mean().sqrt().clamp_min(1e-12)
        self.rows = rows
        self.register_buffer("words", table, persistent=False)
        self.register_buffer("bandwidths", word_bandwidths(table), persistent=False)
        self.register_buffer("word_word", _mean_kernel(table, table, self.bandwidths), persistent=False)

    def forward(self, codes: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        """Squared MMD of ``codes`` to all words; in training, to a fresh sample of them if ``rows`` is set."""
        words = self.words
        if self.training and self.rows is not None and self.rows < len(words):
            words = words[torch.randint(len(words), (self.rows,), device=words.device)]
        return mmd(codes, words, self.bandwidths, self.word_word)

"""The codebook should lie among the language model's words: maximum mean discrepancy (LLM-AR Eq. 7; Gretton 2012).

Codes U [N, D], words W [V, D]; kernel k(x, y) = mean_i exp(-|x - y|^2 / (2 b_i)) over fixed bandwidths b_i.
MMD^2 = mean k(W, W) + mean k(U, U) - 2 mean k(U, W), biased (V-statistic). Values are accumulated in float64. Both
sides are read in blocks: value and gradient come out of the same pass, whose memory does not grow with V.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skeleton_llm.geometry import expmap0

Coordinates = Literal["tangent", "ball"]

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # each twice the one before: one exponential and squarings give all kernels
_BLOCK = 2048


def word_bandwidths(words: Float[Tensor, "V D"]) -> tuple[float, ...]:
    """The median squared distance between words (of at most 1,000 spread over the table) times 1/4 to 4."""
    some = words[torch.linspace(0, len(words) - 1, min(len(words), 1000)).long().to(words.device)].float()
    median = float(torch.pdist(some).square().median())
    return tuple(scale * median for scale in _SCALES)


def mmd(
    codebook: Float[Tensor, "N D"],
    words: Float[Tensor, "V D"],
    bandwidths: Sequence[float] | None = None,
    word_word: Float[Tensor, ""] | None = None,
    squared: Float[Tensor, "N V"] | None = None,
) -> Float[Tensor, ""]:
    """Squared MMD between codes and words.

    Args:
        codebook: where the gradient goes.
        words: fixed.
        bandwidths: each twice the one before; ``word_bandwidths`` by default.
        word_word: mean k(W, W), float64, where the caller has it already.
        squared: |u - w|^2 without gradient where the caller has them already; they are overwritten.
    """
    with torch.autocast(codebook.device.type, enabled=False):
        codes = _at_least_float32(codebook)
        table = words.detach().to(codes.dtype)
        widths = tuple(word_bandwidths(table) if bandwidths is None else bandwidths)
        if word_word is None:
            word_word = mean_kernel(table, table, widths)
        value = word_word + mean_kernel(codes, codes, widths) - 2 * mean_kernel(codes, table, widths, squared)
        return value.to(codes.dtype)


def mean_kernel(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "V D"],
    bandwidths: Sequence[float],
    squared: Float[Tensor, "N V"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of k over all pairs, float64, with its gradient to ``x``; to both sides where ``y`` is ``x``.

    ``squared`` are |x - y|^2 without gradient where the caller has them already; they are overwritten.
    """
    if any(abs(after - 2 * before) > 1e-6 * after for before, after in pairwise(bandwidths)):
        raise ValueError(f"bandwidths must each be twice the one before, got {tuple(bandwidths)}")
    return _MeanKernel.apply(x, y, tuple(bandwidths), squared)


class _MeanKernel(torch.autograd.Function):
    """The gradient to x, sum_y k'(x, y) (x - y) with k' = -mean_i k_i / b_i, is summed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bandwidths: tuple[float, ...], squared: Tensor | None) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        learns = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(x) if learns else x
        for begin in range(0, len(x), _BLOCK):
            rows, pull = x[begin : begin + _BLOCK], gradient[begin : begin + _BLOCK]
            own = _squared_norms(rows)
            for first in range(0, len(y), _BLOCK):
                block = y[first : first + _BLOCK]
                if squared is None:
                    apart = squared_distances(rows, block, own)
                else:
                    apart = squared[begin : begin + _BLOCK, first : first + _BLOCK]
                kernel, slope = _kernel(apart, bandwidths, slope=learns)
                total += kernel.sum(dtype=torch.float64)
                if learns:
                    pull.addcmul_(slope.sum(-1)[:, None], rows).addmm_(slope, block, alpha=-1)
        pairs = len(x) * len(y)
        if learns:
            ctx.save_for_backward(gradient.mul_((2 if y is x else 1) / pairs))
        return total / pairs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def squared_distances(x: Tensor, y: Tensor, own: Tensor) -> Tensor:
    """|x - y|^2 [N, V] by one product, ``own`` being |x|^2 [N]."""
    return torch.addmm(_squared_norms(y), x, y.mT, alpha=-2).add_(own[:, None]).clamp_min_(0)


def _squared_norms(x: Tensor) -> Tensor:
    """|x|^2 [N] in one pass: squares that are written down and summed took a fifth of the product's time."""
    return torch.linalg.vector_norm(x, dim=-1).square_()


def _kernel(squared: Tensor, bandwidths: Sequence[float], *, slope: bool) -> tuple[Tensor, Tensor]:
    """The mean of the kernels, and minus that of k_i / b_i; the widest is the root whose squares are the others."""
    part = squared.mul_(-1 / (2 * bandwidths[-1])).exp_()
    kernel = part.clone()
    slopes = part * (-1 / bandwidths[-1]) if slope else part
    for width in reversed(bandwidths[:-1]):
        part.square_()
        kernel += part
        if slope:
            slopes.add_(part, alpha=-1 / width)
    return kernel.div_(len(bandwidths)), slopes.div_(len(bandwidths)) if slope else kernel


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class WordMMD(nn.Module):
    """MMD of tangent codes (norm about 1) to a language model's word embeddings.

    The words are centred and divided by their root-mean-square norm, so that both sets have norms about 1: raw tables
    differ in scale, and the loss would only pull the codes' norms. The word-word term has no gradient; it is computed
    once, when the value is first asked for.

    Args:
        words: the input embedding matrix, [V, D].
        rows: words drawn afresh each training step (from torch's generator); null takes all (exact).
        coordinates: compare in ``tangent`` space, which is what the language model is fed, or as ``ball`` points.
        curvature: c of the ball.
    """

    def __init__(
        self,
        words: Float[Tensor, "V D"],
        rows: int | None = None,
        *,
        coordinates: Coordinates = "tangent",
        curvature: float = 1.0,
    ) -> None:
        """Standardise the words and fix the bandwidths."""
        super().__init__()
        if rows is not None and rows < 1:
            raise ValueError(f"mmd_rows must be at least 1 (null takes all words), got {rows}")
        table = words.float() - words.float().mean(0)
        table = table / _squared_norms(table).mean().sqrt().clamp_min(1e-12)
        self.rows, self.coordinates, self.curvature = rows, coordinates, curvature
        # no buffers: DDP would send the table, 655 MB at LLaMA-13B's size, to every rank before every step
        self.words = self._placed(table)
        self._mean, self._square = self.words.mean(0), _squared_norms(self.words).mean()
        self.bandwidths = word_bandwidths(self.words)
        self._word_word: Tensor | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> "WordMMD":  # noqa: FBT001, FBT002  (torch's signature)
        """Move or convert the words with the module, as if they were buffers."""
        super()._apply(fn, recurse)
        self.words, self._mean, self._square = fn(self.words), fn(self._mean), fn(self._square)
        self._word_word = None
        return self

    def _placed(self, vectors: Tensor) -> Tensor:
        return expmap0(vectors, self.curvature) if self.coordinates == "ball" else vectors

    def forward(self, codes: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        """Squared MMD of ``codes`` to all words; in training, estimated from a fresh sample if ``rows`` is set."""
        with torch.autocast(codes.device.type, enabled=False):
            if self._word_word is None:
                with torch.inference_mode(mode=False), torch.no_grad():  # a validation may be the first to ask
                    self._word_word = mean_kernel(self.words, self.words, self.bandwidths)
            placed = self._placed(codes)
            if not self.training or self.rows is None or self.rows >= len(self.words):
                return mmd(placed, self.words, self.bandwidths, self._word_word)
            sample = self.words[torch.randint(len(self.words), (self.rows,), device=self.words.device)]
            with torch.no_grad():
                squared = squared_distances(placed, sample, _squared_norms(placed))
            correction = self._correction(placed, sample, squared)
            return mmd(placed, sample, self.bandwidths, self._word_word, squared) - 2 * correction

    def _correction(self, codes: Tensor, sample: Tensor, squared: Tensor) -> Tensor:
        """What a control variate adds to the sample's mean kernel.

        The kernel's part that is linear in |c - w|^2 has a mean over all words that their mean and mean square give;
        its slope is each code's least-squares fit over the sample, a constant for the gradient. It makes the sample as
        good as one four times its size while codes and words lie apart.
        """
        further = self._square - _squared_norms(sample).mean() - 2 * codes @ (self._mean - sample.mean(0))
        with torch.no_grad():
            kernel, _ = _kernel(squared.clone(), self.bandwidths, slope=False)
            centred = squared - squared.mean(-1, keepdim=True)
            slope = (centred * kernel).sum(-1) / centred.square().sum(-1).clamp_min(1e-12)
        return (slope * further).mean()

"""Where tokens and latents lie in the ball."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.usage_watcher import BallWatcher
from callbacks.writers import writers
from skeleton_llm.metrics import NormReport
from skeleton_llm.plotting import plot_poincare_disk


class CodebookMap(BallWatcher):
    """After each validation: the codebook in the Poincare disk, norms of tokens and latents.

    Reads ``indices``, ``mask`` [B, L] and ``latents`` [B, L, D] of the validation step's output.

    Args:
        label_words: the most used tokens that are labelled with the language model's nearest word (by angle, words
            centred as in the MMD loss); its word table then stays in memory.
    """

    def __init__(self, label_words: int = 0) -> None:
        if label_words < 0:
            raise ValueError(f"label_words is a number of tokens (0 for none), got {label_words}")
        self.label_words = label_words
        self.words: Tensor | None = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts, latents = self.usage.compute().cpu(), self.norms.compute()
        for writer in writers(trainer):
            quantizer, step = pl_module.vqvae.quantizer, trainer.global_step
            codebook = quantizer.codebook().cpu()
            norms = codebook.norm(dim=-1)
            writer.add_scalar("norms/token_spread", norms.std() / norms.mean(), step)
            if len(finite := norms[norms.isfinite()]):  # an empty histogram would end the run
                writer.add_histogram("norms/tokens", finite, step)
            if latents.number:
                writer.add_scalar("norms/latent_saturation", latents.saturation, step)
                _add_histogram(writer, "norms/latents", latents, step)
            if codebook.isfinite().all() and quantizer.ready:
                words = self._nearest_words(pl_module.llm, codebook, counts) if self.label_words else None
                figure = plot_poincare_disk(codebook.numpy(), counts.numpy(), quantizer.curvature, words)
                writer.add_figure("codebook/poincare_disk", figure, step)

    def _nearest_words(self, llm: Any, codebook: Tensor, counts: Tensor) -> dict[int, str]:
        """A word for each of the most used tokens."""
        if self.words is None:
            table = llm.words()
            self.words, self.tokenizer = F.normalize(table - table.mean(0), dim=-1), llm.tokenizer()
        most = counts.topk(min(self.label_words, int((counts > 0).sum()))).indices
        nearest = (codebook[most].to(self.words) @ self.words.mT).argmax(-1)
        return {
            token: self.tokenizer.decode([word]).strip()
            for token, word in zip(most.tolist(), nearest.tolist(), strict=True)
        }


def _add_histogram(writer: Any, tag: str, norms: NormReport, step: int) -> None:
    writer.add_histogram_raw(
        tag,
        min=norms.limits[0],
        max=norms.limits[-1],
        num=norms.number,
        sum=norms.total,
        sum_squares=norms.squares,
        bucket_limits=norms.limits,
        bucket_counts=norms.counts,
        global_step=step,
    )

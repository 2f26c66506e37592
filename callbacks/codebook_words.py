"""Which words the codebook's tokens lie beside."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.usage_watcher import UsageWatcher
from callbacks.writers import curve_step, writers
from skeleton_llm.plotting import plot_poincare_disk


class CodebookWords(UsageWatcher):
    """After each validation: the codebook's map with the language model's nearest word beside the most used tokens.

    Nearest is by angle, words centred as in the MMD loss; the word table stays in memory. CodebookMap draws the same
    map without words. Reads ``indices`` and ``mask`` [B, L] of the validation step's output.

    Args:
        num_tokens: how many of the most used tokens are labelled.
    """

    def __init__(self, num_tokens: int = 30) -> None:
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.num_tokens = num_tokens
        self.words: Tensor | None = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts, quantizer = self.usage.compute().cpu(), pl_module.vqvae.quantizer
        if not (found := writers(trainer)) or not quantizer.ready:
            return
        codebook = quantizer.codebook().cpu()
        if not codebook.isfinite().all():
            return
        words = self._nearest_words(pl_module.llm, codebook, counts)
        for writer in found:
            figure = plot_poincare_disk(codebook.numpy(), counts.numpy(), quantizer.curvature, words)
            writer.add_figure("codebook/poincare_disk_words", figure, curve_step(trainer))

    def _nearest_words(self, llm: Any, codebook: Tensor, counts: Tensor) -> dict[int, str]:
        """A word for each of the most used tokens."""
        if self.words is None:
            table = llm.words()
            self.words, self.tokenizer = F.normalize(table - table.mean(0), dim=-1), llm.tokenizer()
        most = counts.topk(min(self.num_tokens, int((counts > 0).sum()))).indices
        nearest = (codebook[most].to(self.words) @ self.words.mT).argmax(-1)
        return {
            token: self.tokenizer.decode([word]).strip()
            for token, word in zip(most.tolist(), nearest.tolist(), strict=True)
        }

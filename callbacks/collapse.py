"""An alarm when few tokens carry all sentences, with the likely cause."""

import math
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from callbacks.usage_watcher import BallWatcher
from callbacks.writers import curve_step, writers
from skeleton_llm.metrics import usage_report

_MARKED = 0.005  # of a norm: twice this spread leaves random directions a perplexity below 50 of 512


class Signs(NamedTuple):
    """What a collapse is judged by.

    ``spread`` is the tokens' norm deviation over their mean, ``shorter`` by what share the used tokens' mean norm lies
    below the dead ones', ``saturation`` the share of latents at the ball's boundary, ``moved`` the mean relative change
    of the tokens' directions since the last validation, ``loss`` the last training step's.
    """

    spread: float
    shorter: float
    saturation: float
    moved: float
    loss: float


def likely_cause(signs: Signs) -> str:
    """The cause and what to change, as the end of a sentence; what explains all the others comes first."""
    if not math.isfinite(signs.loss):
        return f"the loss is {signs.loss}: lower optimization.lr"
    if signs.spread > _MARKED and signs.shorter > _MARKED:
        return (
            f"token norms spread by {100 * signs.spread:.1f} % and the shortest win the search:"
            " narrow network.token_norms"
        )
    if signs.saturation > 0.5:
        return (
            f"{100 * signs.saturation:.0f} % of the latents sit on the ball's boundary:"
            " set network.latents to layer_norm with latent_norm 1, or lower network.curvature"
        )
    if signs.moved > 0.5:
        return f"the codebook moves {100 * signs.moved:.0f} % from one validation to the next: lower optimization.lr"
    return "no sign of norms, saturation or speed: place it on latents after a warm-up (model.quantize_after)"


class CollapseAlarm(BallWatcher):
    """After a validation with a collapsing codebook: one sentence with the likely cause, as a warning and as text.

    Reads ``indices``, ``mask`` [B, L] and ``latents`` [B, L, D] of the validation step's output.

    Args:
        collapse_share: a perplexity below this share of the codebook is a collapse.
    """

    def __init__(self, collapse_share: float = 0.05) -> None:
        if not 0 < collapse_share < 1:
            raise ValueError(f"collapse_share is a share of the codebook between 0 and 1, got {collapse_share}")
        self.collapse_share = collapse_share

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.loss: Tensor | None = None
        self.directions: Tensor | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"]

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts, saturation = self.usage.compute().cpu(), self.norms.compute().saturation
        quantizer = pl_module.vqvae.quantizer
        if trainer.sanity_checking or not trainer.is_global_zero or not quantizer.ready:
            return
        codebook = quantizer.codebook().cpu()
        directions = F.normalize(codebook, dim=-1)
        moved = 0.0 if self.directions is None else float((directions - self.directions).norm(dim=-1).mean())
        self.directions = directions
        report = usage_report(counts)
        if report.used == 0 or report.perplexity >= self.collapse_share * len(counts):
            return
        loss = 0.0 if self.loss is None else float(self.loss)
        spread, shorter = norm_signs(codebook.norm(dim=-1), counts > 0)
        sentence = (
            f"the codebook is collapsing at step {trainer.global_step}: perplexity {report.perplexity:.1f},"
            f" {report.used} of {len(counts)} tokens in use; "
            + likely_cause(Signs(spread, shorter, saturation, moved, loss))
        )
        rank_zero_warn(sentence)
        for writer in writers(trainer):
            writer.add_text("codebook/alarm", sentence, curve_step(trainer))


def norm_signs(norms: Tensor, used: Tensor) -> tuple[float, float]:
    """``spread`` and ``shorter`` of token norms [N], of which some are ``used`` [N]."""
    spread = norms.std() / norms.mean()
    shorter = 1 - norms[used].mean() / norms[~used].mean() if (~used).any() else torch.tensor(0.0)
    return float(spread), float(shorter)

"""Where tokens and latents lie in the ball."""

from typing import Any

import lightning as L
import torch

from callbacks.usage_watcher import BallWatcher
from callbacks.writers import curve_step, writers
from skeleton_llm.metrics import NormReport
from skeleton_llm.plotting import plot_poincare_disk


class CodebookMap(BallWatcher):
    """After each validation: the codebook in the Poincare disk, norms of tokens and latents.

    Reads ``indices``, ``mask`` [B, L] and ``latents`` [B, L, D] of the validation step's output.
    """

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts, latents = self.usage.compute().cpu(), self.norms.compute()
        for writer in writers(trainer):
            quantizer, step = pl_module.vqvae.quantizer, curve_step(trainer)
            codebook = quantizer.codebook().cpu()
            norms = codebook.norm(dim=-1)
            writer.add_scalar("norms/token_spread", norms.std() / norms.mean(), step)
            if len(finite := norms[norms.isfinite()]):  # an empty histogram would end the run
                writer.add_histogram("norms/tokens", finite, step)
            if latents.number:
                writer.add_scalar("norms/latent_saturation", latents.saturation, step)
                _add_histogram(writer, "norms/latents", latents, step)
            if codebook.isfinite().all() and quantizer.ready:
                figure = plot_poincare_disk(codebook.numpy(), counts.numpy(), quantizer.curvature)
                writer.add_figure("codebook/poincare_disk", figure, step)


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

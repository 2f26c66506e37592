"""Watch how the codebook is used over the validation set."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from skeleton_llm.losses import zipf_target
from skeleton_llm.metrics import CodebookUsage, usage_report
from skeleton_llm.plotting import plot_rank_frequency, plot_usage


class CodebookUsageMonitor(L.Callback):
    """After each validation: rank-frequency curve against the Zipf target, usage histogram, dead tokens, Zipf exponent.

    Reads ``indices`` [B, L] of the validation step's output and the module's ``num_codes``.

    Args:
        collapse_share: warn when the perplexity falls below this share of the codebook.
    """

    def __init__(self, collapse_share: float = 0.05) -> None:
        self.collapse_share = collapse_share

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.num_codes: int = pl_module.num_codes
        self.usage = CodebookUsage(self.num_codes)
        self.target = zipf_target(self.num_codes)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.usage.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.usage.update(outputs["indices"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts = self.usage.compute().cpu()
        if trainer.sanity_checking or not trainer.is_global_zero or counts.sum() == 0:
            return
        report = usage_report(counts)
        if report.perplexity < self.collapse_share * self.num_codes:
            rank_zero_warn(
                f"the codebook is collapsing at step {trainer.global_step}: perplexity {report.perplexity:.1f},"
                f" {report.used} of {self.num_codes} tokens in use; place it on latents after a warm-up"
                " (model.quantize_after), narrow network.token_norms or lower optimization.lr"
            )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer, step = logger.experiment, trainer.global_step
                figure = plot_rank_frequency(counts.numpy(), self.target.numpy(), report.exponent)
                writer.add_figure("codebook/rank_frequency", figure, step)
                writer.add_figure("codebook/usage", plot_usage(counts.numpy()), step)
                writer.add_histogram("codebook/times_used", counts, step)
                writer.add_scalar("codebook/dead_tokens", report.dead, step)
                writer.add_scalar("codebook/zipf_exponent", report.exponent, step)

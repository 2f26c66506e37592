"""What the watchers of a codebook have in common: they count its tokens over each validation."""

from typing import Any

import lightning as L

from skeleton_llm.metrics import CodebookUsage, LatentNorms


class UsageWatcher(L.Callback):
    """Counts the tokens of a validation in ``usage``, from ``indices`` and ``mask`` [B, L] of its step's output."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.usage = CodebookUsage(pl_module.num_codes)

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
        self.usage.update(outputs["indices"][outputs["mask"]])


class BallWatcher(UsageWatcher):
    """Also keeps the latents' norms, from ``latents`` [B, L, D], in ``norms``; flat space has no boundary to reach."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        quantizer: Any = pl_module.vqvae.quantizer
        self.norms = LatentNorms(quantizer.curvature if quantizer.geometry == "hyperbolic" else 0.0)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self.norms.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        self.norms.update(outputs["latents"], outputs["mask"])

"""The confusion matrix in TensorBoard."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torchmetrics.classification import MulticlassConfusionMatrix

from skeleton_llm.plotting import plot_confusion


class ConfusionMatrix(L.Callback):
    """Draw it after each validation and after the test, from the steps' ``predictions`` and ``labels`` [B]."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.names: list[str] = trainer.datamodule.class_names
        self.matrix = MulticlassConfusionMatrix(len(self.names))

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.matrix.to(pl_module.device).reset()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.matrix.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.matrix.update(outputs["predictions"], outputs["labels"])

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.matrix.update(outputs["predictions"], outputs["labels"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, "test")

    def _draw(self, trainer: L.Trainer, split: str) -> None:
        counts = self.matrix.compute().cpu().numpy()
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = plot_confusion(counts, self.names)
                logger.experiment.add_figure(f"{split}/confusion", figure, trainer.global_step)

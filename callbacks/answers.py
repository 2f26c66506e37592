"""Which classes are taken for which: in TensorBoard, and after the test as tables in the run folder."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torchmetrics.classification import MulticlassConfusionMatrix

from callbacks.writers import curve_step, writers
from skeleton_llm.metrics import ClassReport, Confused, class_reports, confused_pairs
from skeleton_llm.plotting import plot_confusion

_SHOWN = 20  # pairs in TensorBoard


class AnswerReport(L.Callback):
    """The confusion matrix and the most confused pairs after each validation and after the test.

    Reads ``scores`` [B, C] and ``labels`` [B] of the steps' output, of all ranks. The test also leaves
    ``test_per_class.csv`` and ``test_confused.csv`` in the run folder.
    """

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
        self.matrix.update(outputs["scores"].argmax(-1), outputs["labels"])

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.matrix.update(outputs["scores"].argmax(-1), outputs["labels"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._show(trainer, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._show(trainer, "test")
        if trainer.is_global_zero:
            matrix, folder = self.matrix.compute(), Path(trainer.default_root_dir)
            _write(folder / "test_per_class.csv", ClassReport._fields, class_reports(matrix, self.names))
            _write(folder / "test_confused.csv", Confused._fields, confused_pairs(matrix, self.names))

    def _show(self, trainer: L.Trainer, split: str) -> None:
        matrix = self.matrix.compute()  # by all ranks, which then keep it
        for writer in writers(trainer):
            step = curve_step(trainer)
            writer.add_figure(f"{split}/confusion", plot_confusion(matrix.cpu().numpy(), self.names), step)
            writer.add_text(f"{split}/confused", _listed(confused_pairs(matrix, self.names)[:_SHOWN]), step)


def _listed(pairs: Sequence[Confused]) -> str:
    """A table in Markdown."""
    rows = [f"| {pair.truth} | {pair.answer} | {pair.clips} | {100 * pair.share:.0f} % |" for pair in pairs]
    return "\n".join(["| truth | answer | clips | of the class |", "|---|---|---:|---:|", *rows])


def _write(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """A CSV file that is whole or absent; what does not exist is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    temporary.replace(path)

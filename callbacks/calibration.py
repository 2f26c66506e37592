"""How far the answers' probabilities can be believed, and the temperature that is fitted to them in validation."""

from typing import Any

import lightning as L
from torch import Tensor

from callbacks.writers import curve_step, writers
from skeleton_llm.metrics import ClipScores, fit_temperature, reliability
from skeleton_llm.plotting import plot_reliability


class Calibration(L.Callback):
    """Fit ``network.temperature`` after each validation, never on the test; log the calibration error without and with.

    Reads ``scores`` [B, C] (log-likelihoods), ``labels`` and ``index`` [B] of the steps' output, of all ranks. The
    temperature stays with the network: in checkpoints, in the exported recogniser, in the test; without a validation
    it is 1. Does nothing where the module searches for the best names only (``search``).
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.idle = bool(getattr(pl_module, "search", False))
        self.clips = ClipScores()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clips.to(pl_module.device).reset()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clips.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if not self.idle:
            self.clips.update(outputs["scores"], outputs["labels"], outputs["index"])

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if not self.idle:
            self.clips.update(outputs["scores"], outputs["labels"], outputs["index"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.idle or trainer.sanity_checking:
            return
        scores, labels = self._all()
        temperature = fit_temperature(scores, labels)
        network: Any = pl_module.network
        network.temperature.fill_(temperature)
        pl_module.log("val/temperature", temperature, sync_dist=True)  # the same on all ranks
        self._report(trainer, pl_module, "val", scores, labels)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.idle:
            self._report(trainer, pl_module, "test", *self._all())

    def _all(self) -> tuple[Tensor, Tensor]:
        scores, labels, _ = self.clips.compute()
        return scores.double().cpu(), labels.view(-1).cpu()

    def _report(
        self, trainer: L.Trainer, pl_module: L.LightningModule, split: str, scores: Tensor, labels: Tensor
    ) -> None:
        network: Any = pl_module.network
        temperature = float(network.temperature)
        before, after = (reliability((scores / t).softmax(-1), labels) for t in (1.0, temperature))
        errors = {f"{split}/ece_before": before.error(), f"{split}/ece_after": after.error()}
        pl_module.log_dict(errors, sync_dist=True)
        shown = {f"before, T = 1: ECE {before.error():.3f}": before}
        shown[f"after, T = {temperature:.3g}: ECE {after.error():.3f}"] = after
        for writer in writers(trainer):
            figure = plot_reliability({title: [part.numpy() for part in bins] for title, bins in shown.items()})
            writer.add_figure(f"{split}/reliability", figure, curve_step(trainer))

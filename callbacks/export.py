"""The stage's product, written when training is over."""

from pathlib import Path

import lightning as L


class Export(L.Callback):
    """Ask the module on every rank to write its product into ``folder`` (under the run's) at the end of training.

    Ranks that hold shards of it gather them together; rank 0 alone writes.

    Args:
        folder: name of the product's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.written, self.owed = folder, False, False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """``owed`` by a run that was stopped between its last step and its end: going on, it trains no more."""
        if self.owed:
            self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.export(Path(trainer.default_root_dir) / self.folder)
        self.written, self.owed = True, False

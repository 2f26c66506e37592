"""The stage's product, written when training is over."""

from pathlib import Path

import lightning as L
from safetensors import SafetensorError

from callbacks.settled import settle


class Export(L.Callback):
    """Ask the module on every rank to write its product into ``folder`` (under the run's) at the end of training.

    Ranks that hold shards of it gather them together; rank 0 alone writes. A run that was stopped after its last step
    writes it too, when it is started again and has nothing left to train.

    Args:
        folder: name of the product's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        settle(trainer)

    def on_training_over(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / self.folder
        try:
            pl_module.export(folder)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"{folder}: the product could not be written ({reason}); the checkpoints are whole: make room and start"
                " the same command again"
            ) from error

"""The end of a run, whatever its intervals."""

from pathlib import Path
from typing import Any

import lightning as L


class LastStep(L.Callback):
    """Validate and save at the last step, so that what is exported can be tested again and has its own temperature."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning validates where a run is told to stop

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.checkpoint_callback is not None:
            # again, if the interval fell on this step: it now has the temperature of its own validation
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"step={trainer.global_step}.ckpt")

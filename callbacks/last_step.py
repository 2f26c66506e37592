"""The end of a run, whatever its intervals."""

from typing import Any

import lightning as L


class LastStep(L.Callback):
    """Validate at the last step too, so that what is exported has been measured and has its own temperature."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning validates where a run is told to stop

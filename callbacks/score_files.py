"""What a run says of every clip, on disk: for ensembles and for comparing runs clip by clip."""

from pathlib import Path
from typing import Any

import lightning as L

from skeleton_llm.metrics import ClipScores, SplitScores, write_scores
from skeleton_llm.metrics.ensemble import facts


class ScoreFiles(L.Callback):
    """Write ``scores/val.safetensors`` after each validation and ``scores/test.safetensors`` after the test.

    Reads ``scores`` [B, C], ``labels`` and ``index`` [B] of the steps' output, of all ranks. The files lie in the run
    folder; those of the last validation stay.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.clips = ClipScores()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clips.to(pl_module.device).reset()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clips.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.clips.update(outputs["scores"], outputs["labels"], outputs["index"])

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.clips.update(outputs["scores"], outputs["labels"], outputs["index"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, "test")

    def _write(self, trainer: L.Trainer, split: str) -> None:
        scores, labels, index = self.clips.compute()  # by all ranks
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        data = trainer.datamodule
        of = facts(data.info["content_hash"], data.protocol.name, split, trainer.global_step, data.class_names)
        path = Path(trainer.default_root_dir) / "scores" / f"{split}.safetensors"
        write_scores(path, SplitScores(scores.float(), labels.view(-1), index.view(-1), of))

"""One of two gloo ranks; a signal reaches rank 1 alone, in the middle of accumulation: signalled_ranks.py FOLDER.

LOCAL_RANK, MASTER_ADDR and MASTER_PORT are torchrun's. Leaves ``rank_R.json``: the step that rank R ended at, the
batches that it took, and the backend that ranks agree over.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import distributed

from callbacks import Preemption

NUMBERLESS = SimpleNamespace(device="meta")  # like a GPU that must not be waited for: its tensors have no value to read


class Signalled(BoringModel):
    """Rank 1 is told to stop in batch 4, the second of the second accumulation of three."""

    def training_step(self, batch, batch_idx):
        self.batches = batch_idx + 1
        if batch_idx == 4 and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().training_step(batch, batch_idx)


class Watched(Preemption):
    def on_train_batch_end(self, trainer, pl_module, *args):
        super().on_train_batch_end(trainer, NUMBERLESS, *args)


def run(folder: Path) -> None:
    """Train until the ranks have agreed to leave."""
    model, preemption = Signalled(), Watched()
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[preemption],
        max_steps=20,
        accumulate_grad_batches=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(model)
    finally:
        known = {"step": trainer.global_step, "batches": model.batches}
        known["backend"] = distributed.get_backend(preemption.ranks)
        (folder / f"rank_{trainer.global_rank}.json").write_text(json.dumps(known))


if __name__ == "__main__":
    run(Path(sys.argv[1]))

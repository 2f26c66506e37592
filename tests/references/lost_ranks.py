"""One of two gloo ranks, of which rank 1 is lost: lost_ranks.py FOLDER hang|freeze|fail|backward.

LOCAL_RANK, MASTER_ADDR and MASTER_PORT are torchrun's.
"""

import os
import signal
import sys
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import Preemption, Watchdog


class Lost(BoringModel):
    """Rank 1 gets no further than batch 5."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 5 and self.global_rank == 1:
            (Path(sys.argv[1]) / "lost").touch()
            if sys.argv[2] == "backward":
                self.layer.weight.register_hook(hang)
                return super().training_step(batch, batch_idx)
            if sys.argv[2] == "hang":
                hang()
            if sys.argv[2] == "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            raise ValueError("no such batch | or step")  # a text that once was a separator
        return super().training_step(batch, batch_idx)


def hang(*_):
    time.sleep(600)


if __name__ == "__main__":
    L.Trainer(
        default_root_dir=sys.argv[1],
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        # the other way round than in configs/: ranks meet before the watchdog counts
        callbacks=[Preemption(), Watchdog(patience=6, dead_after=12)],
        max_steps=20,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Lost())

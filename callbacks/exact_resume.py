"""Noise that depends on the step and the rank alone, so that a resumed run draws what the first one would have."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class StepSeed(L.Callback):
    """Seed every generator before each training batch from (seed, batch number, rank).

    Validation, logging and loader start-up may then draw what they like.

    Args:
        seed: of the noise; null takes ``seed_everything``'s.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = torch.initial_seed() if seed is None else seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batch_number = trainer.fit_loop.total_batch_idx
        words = np.random.SeedSequence([self.seed % 2**63, batch_number, trainer.global_rank]).generate_state(3)
        torch.manual_seed(int(words[0]))
        np.random.seed(int(words[1]))  # noqa: NPY002  (the global generator is what others draw from)
        random.seed(int(words[2]))

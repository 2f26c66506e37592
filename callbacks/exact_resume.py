"""Noise that depends on the step and the rank alone, so that a resumed run draws what the first one would have."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch

_TRAINING, _EVALUATION = 0, 1


class StepSeed(L.Callback):
    """Seed every generator before each batch from (seed, batch number, rank).

    Logging and loader start-up may then draw what they like. All validations and the test draw the same, whatever was
    drawn before them, in this process or another.

    Args:
        seed: of the noise; null takes ``seed_everything``'s.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = torch.initial_seed() if seed is None else seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._seed(trainer, _TRAINING, trainer.fit_loop.total_batch_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, _EVALUATION, batch_idx)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, _EVALUATION, batch_idx)

    def _seed(self, trainer: L.Trainer, what: int, batch_number: int) -> None:
        entropy = [self.seed % 2**63, batch_number, trainer.global_rank, *([what] if what else [])]
        words = np.random.SeedSequence(entropy).generate_state(3)
        torch.manual_seed(int(words[0]))
        np.random.seed(int(words[1]))  # noqa: NPY002  (the global generator is what others draw from)
        random.seed(int(words[2]))

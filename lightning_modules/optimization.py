"""AdamW, in 32 or 8 bits, with a warm-up, counted in optimiser steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass
class Optimization:
    """Optimiser and schedule.

    Args:
        optimizer: ``adamw``, or through bitsandbytes ``adamw_8bit``, whose averages take 2 bytes a weight instead of 8,
            or ``paged_adamw_8bit``, which moves them to the CPU's memory when the GPU's is full.
        lr: peak learning rate.
        betas: AdamW's two averages.
        weight_decay: AdamW's.
        warmup_steps: linear rise from 0.
        decay: ``constant``, ``cosine`` (to 2 % at the end of the run) or ``step``.
        decay_steps: where ``step`` multiplies the rate by ``gamma``.
        gamma: factor of ``step``.
    """

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 1000
    decay: Literal["constant", "cosine", "step"] = "constant"
    decay_steps: int = 200_000
    gamma: float = 0.05

    def factor(self, step: int, horizon: int) -> float:
        """Learning rate at ``step`` as a share of the peak."""
        rise = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        if self.decay == "cosine":
            return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * min(step / max(horizon, 1), 1.0))))
        return rise * (self.gamma if self.decay == "step" and step >= self.decay_steps else 1.0)

    def build(self, parameters: Iterable[nn.Parameter], horizon: int) -> Any:
        """What ``configure_optimizers`` returns, over the parameters that learn."""
        trainable = [p for p in parameters if p.requires_grad]
        optimizer = self._class()(
            trainable, lr=self.lr, betas=(self.betas[0], self.betas[1]), weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, horizon))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _class(self) -> Any:
        if self.optimizer == "adamw":
            return torch.optim.AdamW
        # not above: it takes seconds, and reports optional kernels that are missing
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit  # noqa: PLC0415

        return {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}[self.optimizer]

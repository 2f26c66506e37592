"""AdamW, in 32 or 8 bits, or SGD, with a warm-up, counted in optimiser steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import nn


@dataclass
class Optimization:
    """Optimiser and schedule.

    Args:
        optimizer: ``adamw``, or through bitsandbytes ``adamw_8bit``, whose averages take 2 bytes a weight instead of 8,
            or ``paged_adamw_8bit``, which moves them to the CPU's memory when the GPU's is full; ``sgd`` has Nesterov's
            momentum, as graph networks are trained.
        lr: peak learning rate.
        betas: AdamW's two averages; the first is SGD's momentum.
        weight_decay: AdamW's, or SGD's.
        warmup_steps: linear rise from 0.
        decay: ``constant``, ``cosine`` (to 2 % at the end of the run) or ``step``.
        decay_steps: where ``step`` multiplies the rate by ``gamma``, one step or several.
        gamma: factor of ``step``.
    """

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "sgd"] = "adamw"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 1000
    decay: Literal["constant", "cosine", "step"] = "constant"
    decay_steps: int | list[int] = 200_000
    gamma: float = 0.05

    def factor(self, step: int, horizon: int) -> float:
        """Learning rate at ``step`` as a share of the peak."""
        rise = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        if self.decay == "cosine":
            return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * min(step / max(horizon, 1), 1.0))))
        if self.decay == "constant":
            return rise
        places = self.decay_steps if isinstance(self.decay_steps, list) else [self.decay_steps]
        return rise * self.gamma ** sum(step >= place for place in places)

    def build(self, parameters: Iterable[nn.Parameter], horizon: int) -> Any:
        """What ``configure_optimizers`` returns, over the parameters that learn."""
        trainable = [p for p in parameters if p.requires_grad]
        optimizer = self._class()(trainable, lr=self.lr, weight_decay=self.weight_decay, **self._momentum())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, horizon))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rule(self, trainer: L.Trainer) -> None:
        """Put the config's rates and decay in the place of a checkpoint's, which differ after an override."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group |= {"initial_lr": self.lr, "weight_decay": self.weight_decay, **self._momentum()}
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            schedule.base_lrs = [self.lr] * len(schedule.base_lrs)
            rates = [self.lr * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            schedule._last_lr = rates

    def _momentum(self) -> dict[str, Any]:
        if self.optimizer == "sgd":
            return {"momentum": self.betas[0], "nesterov": True}
        return {"betas": (self.betas[0], self.betas[1])}

    def _class(self) -> Any:
        if self.optimizer in ("adamw", "sgd"):
            return {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.optimizer]
        # not above: it takes seconds, and reports optional kernels that are missing
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit  # noqa: PLC0415

        return {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}[self.optimizer]

"""Answers in words against the names that exist."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def normalise_name(text: str) -> str:
    """Lower case, single spaces, no punctuation around or between the words."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


class NameAnswers(Metric):
    """Free answers: share that equal the true name, and share that are no known name at all."""

    full_state_update = False
    right: Tensor
    invalid: Tensor
    total: Tensor

    def __init__(self, class_names: Sequence[str], **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.names = [normalise_name(name) for name in class_names]
        for state in ("right", "invalid", "total"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Sequence[str], labels: Tensor) -> None:
        """Compare texts with the names of ``labels`` [B]."""
        for answer, label in zip(map(normalise_name, answers), labels.tolist(), strict=True):
            self.right += answer == self.names[label]
            self.invalid += answer not in self.names
            self.total += 1

    def compute(self) -> dict[str, Tensor]:
        """``exact_match`` and ``invalid``, shares of all answers."""
        total = self.total.clamp_min(1)
        return {"exact_match": self.right / total, "invalid": self.invalid / total}

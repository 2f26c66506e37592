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

    def update(self, answers: Sequence[str], labels: Tensor, listed: Sequence[Sequence[int]] | None = None) -> None:
        """Compare texts with the names of ``labels`` [B].

        ``listed`` are the only classes in question, of each clip or one list for all; None for all classes.
        """
        rows = listed or [range(len(self.names))]
        rows = rows if len(rows) == len(answers) else [*rows] * len(answers)
        for answer, label, classes in zip(map(normalise_name, answers), labels.tolist(), rows, strict=True):
            self.right += answer == self.names[label]
            self.invalid += answer not in [self.names[known] for known in classes]
            self.total += 1

    def compute(self) -> dict[str, Tensor]:
        """``exact_match`` and ``invalid``, shares of all answers."""
        total = self.total.clamp_min(1)
        return {"exact_match": self.right / total, "invalid": self.invalid / total}


class MeanClassAccuracy(Metric):
    """Mean over the classes that occur of the share of their clips named rightly (Toyota Smarthome's measure).

    torchmetrics' macro average counts a class that never occurs, but was answered once, as 0.
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        for state in ("right", "total"):
            self.add_state(state, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores [B, C] and labels [B]."""
        self.total += torch.bincount(labels, minlength=len(self.total))
        self.right += torch.bincount(labels[scores.argmax(-1) == labels], minlength=len(self.total))

    def compute(self) -> Tensor:
        """The mean, 0 where nothing was seen."""
        seen = self.total > 0
        return ((self.right / self.total.clamp_min(1)) * seen).sum() / seen.sum().clamp_min(1)

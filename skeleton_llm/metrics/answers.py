"""What a confusion matrix tells of each class, and which classes are taken for which. C classes, truth in rows."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor


class ClassReport(NamedTuple):
    """One class; ``accuracy`` is None without clips, ``precision`` where nobody answered with it.

    ``share`` is the share of its clips that went to ``most_confused_with``, the commonest wrong answer.
    """

    name: str
    clips: int
    right: int
    accuracy: float | None
    precision: float | None
    most_confused_with: str | None
    share: float | None


class Confused(NamedTuple):
    """``clips`` of the class ``truth`` were answered with ``answer``, which is ``share`` of that class's clips."""

    truth: str
    answer: str
    clips: int
    share: float


def class_reports(matrix: Int[Tensor, "C C"], names: Sequence[str]) -> list[ClassReport]:
    """A report of every class, in the classes' order."""
    matrix = matrix.cpu()
    clips, answered, right = matrix.sum(1).tolist(), matrix.sum(0).tolist(), matrix.diag().tolist()
    confused, most = (matrix - matrix.diag().diag()).max(1)
    return [
        ClassReport(
            name,
            clips[index],
            right[index],
            accuracy=right[index] / clips[index] if clips[index] else None,
            precision=right[index] / answered[index] if answered[index] else None,
            most_confused_with=names[int(most[index])] if confused[index] else None,
            share=int(confused[index]) / clips[index] if confused[index] else None,
        )
        for index, name in enumerate(names)
    ]


def confused_pairs(matrix: Int[Tensor, "C C"], names: Sequence[str]) -> list[Confused]:
    """Every two classes of which one was taken for the other: most clips first, then the larger share."""
    matrix = matrix.cpu()
    totals = matrix.sum(1).tolist()
    pairs = [
        Confused(names[truth], names[answer], int(matrix[truth, answer]), int(matrix[truth, answer]) / totals[truth])
        for truth, answer in (matrix - matrix.diag().diag()).nonzero().tolist()
    ]
    return sorted(pairs, key=lambda pair: (-pair.clips, -pair.share))

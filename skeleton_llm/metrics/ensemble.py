"""Scores of finished runs, kept clip by clip, and their sum. N clips, C classes, S runs."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skeleton_llm.whole import whole

_HEAVIEST = 3  # of the weights that choose_weights tries


class SplitScores(NamedTuple):
    """What one run says of every clip of a split; ``of`` tells of what and at which step.

    ``rows`` are the clips' rows of the prepared dataset, in their order: by them runs are compared clip for clip.
    """

    scores: Float[Tensor, "N C"]
    labels: Int[Tensor, " N"]
    rows: Int[Tensor, " N"]
    of: dict[str, str]


def write_scores(path: Path, found: SplitScores) -> None:
    """A file that is whole or absent."""
    tensors = {"scores": found.scores, "labels": found.labels, "rows": found.rows}
    with whole(path) as file:
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, found.of))


def read_scores(path: Path) -> SplitScores:
    """The file again.

    Raises:
        FileNotFoundError: the run left none.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the run is not finished, or had no callbacks.ScoreFiles")
    try:
        with safe_open(path, framework="pt") as file:
            scores, labels, rows = (file.get_tensor(name) for name in SplitScores._fields[:3])
            return SplitScores(scores, labels, rows, file.metadata())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); run skeleton-llm test again in its folder") from error


def check_alike(found: Mapping[str, SplitScores]) -> None:
    """Refuse runs of different clips, whose scores cannot be added.

    Raises:
        ValueError: two runs have not the same data, protocol, split or labels.
    """
    (first, one), *others = found.items()
    for name, other in others:
        for key in ("data", "protocol", "split"):
            if one.of[key] != other.of[key]:
                raise ValueError(f"{first} and {name} cannot be added: {key} {one.of[key]} and {other.of[key]}")
        if not (one.labels.equal(other.labels) and one.rows.equal(other.rows)):
            raise ValueError(f"{first} and {name} cannot be added: they hold other clips of the same split")


def ensemble(scores: Sequence[Float[Tensor, "N C"]], weights: Sequence[float]) -> Float[Tensor, "N C"]:
    """The weighted sum of the runs' probabilities (softmax of their scores), in float64."""
    if len(weights) != len(scores):
        raise ValueError(f"{len(weights)} weights for {len(scores)} runs; give one for each")
    if any(weight < 0 or not math.isfinite(weight) for weight in weights) or not sum(weights):
        raise ValueError(f"weights must not be negative, nor all 0, got {list(weights)}")
    total = sum(weights)
    parts = [weight / total * one.double().softmax(-1) for one, weight in zip(scores, weights, strict=True)]
    return torch.stack(parts).sum(0)


def choose_weights(scores: Sequence[Float[Tensor, "N C"]], labels: Int[Tensor, " N"]) -> list[float]:
    """Of all weights from 0 to 3 those that name most of the clips rightly; of equals the evenest, then the lightest.

    To be asked of validation clips, never of the test's.
    """
    best: tuple[int, float, list[float]] | None = None
    for counts in itertools.product(range(_HEAVIEST + 1), repeat=len(scores)):
        if math.gcd(*counts) != 1:  # all 0, or the same as lighter ones
            continue
        weights = [float(weight) for weight in counts]
        right = int((ensemble(scores, weights).argmax(-1) == labels).sum())
        spread = sum((weight / sum(weights)) ** 2 for weight in weights)
        rank = (-right, spread, weights)
        best = rank if best is None else min(best, rank)
    assert best is not None
    return best[2]


def facts(data: str, protocol: str, split: str, step: int, class_names: Sequence[str]) -> dict[str, str]:
    """What ``SplitScores.of`` holds, as safetensors wants it."""
    return {
        "data": data,
        "protocol": protocol,
        "split": split,
        "step": str(step),
        "class_names": json.dumps([*class_names]),
    }

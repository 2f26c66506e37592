"""A cell beside the one it is compared with, and both beside the paper's."""

from typing import NamedTuple

import numpy as np

from skeleton_llm.ablation.findings import Finding
from skeleton_llm.ablation.matrix import Matrix
from skeleton_llm.metrics import Interval, bootstrap_interval

_FEWEST = 3  # seeds, or rounds: fewer do not show how far runs differ by chance


class Accuracy(NamedTuple):
    """Top-1 of a cell: each seed's, or of a single seed each round's, and intervals over its runs, and over clips too.

    A cell with rounds runs once a round and seed, and both are drawn anew. Of a single run there is no interval over
    runs; the other is then over clips alone.
    """

    repeated: list[float]
    over_runs: Interval | None
    over_all: Interval


class Paired(NamedTuple):
    """Top-1 above that of another cell, paired over seeds, rounds and clips, in [-1, 1]; ``clips`` of all rounds."""

    seeds: list[int]
    rounds: int
    clips: int
    difference: Interval


class Comparison(NamedTuple):
    """A cell beside the one it is ``against``; ``paper`` is the paper's difference, in [-1, 1]."""

    against: str
    seeds: list[int]
    rounds: int
    clips: int
    difference: Interval
    paper: float | None

    @property
    def verdict(self) -> str:
        """Whether the sign is the paper's; resolved where the interval leaves 0 out, of enough runs to tell."""
        if self.paper is None or self.paper == 0:
            return ""
        if max(len(self.seeds), self.rounds) < _FEWEST:
            return f"not judged below {_FEWEST} seeds or rounds"
        product = self.difference.mean * self.paper
        if self.difference.low > 0 or self.difference.high < 0:
            return "as in the paper" if product > 0 else "**against the paper**"
        said = "no difference" if product == 0 else "the paper's sign" if product > 0 else "**not the paper's sign**"
        return f"not resolved, {said}"


def accuracy(finding: Finding) -> Accuracy:
    """Of a finished cell."""
    groups = finding.right()
    means = np.array([values.mean(1) for values in groups])  # [R, S]
    over_runs = _interval(groups, clips=False) if means.size > 1 else None
    repeated = means.mean(0) if means.shape[1] > 1 else means[:, 0]
    return Accuracy(repeated.tolist(), over_runs, _interval(groups, clips=True))


def _interval(groups: list[np.ndarray], *, clips: bool) -> Interval:
    """Over all that there are several of: seeds, rounds."""
    return bootstrap_interval(groups, seeds=len(groups[0]) > 1, clips=clips, whole_groups=len(groups) > 1)


def paired(finding: Finding, other: Finding) -> Paired | None:
    """Over the seeds that both have and the clips that both answered; None where there are none.

    Raises:
        ValueError: the cells have not the same rounds.
    """
    seeds = [seed for seed in finding.seeds if seed in other.answers]
    if not seeds:
        return None
    groups = [
        mine - theirs for mine, theirs in zip(finding.right(seeds, other), other.right(seeds, finding), strict=True)
    ]
    counts = [values.shape[1] for values in groups]
    if not all(counts):
        return None
    return Paired(seeds, len(groups), sum(counts), _interval(groups, clips=True))


def compare(finding: Finding, found: dict[str, Finding], matrix: Matrix) -> Comparison | None:
    """With the cell it stands against; None where there is none, or nothing that both answered."""
    against = finding.cell.against
    both = None if against is None or against not in found else paired(finding, found[against])
    if against is None or both is None:
        return None
    theirs = matrix.cells[against].paper
    paper = None if finding.cell.paper is None or theirs is None else (finding.cell.paper - theirs) / 100
    return Comparison(against, *both, paper)

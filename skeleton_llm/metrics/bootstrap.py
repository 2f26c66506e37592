"""How sure a mean over seeds, groups and test clips is, by drawing them again (Efron's percentile bootstrap).

S seeds, N clips, B draws. A value belongs to a seed and a clip: 1 where the answer was right, or the difference of two
such values, which pairs two cells of a table over seeds and clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_AT_ONCE = 4_000_000  # counts in memory


class Interval(NamedTuple):
    """A mean and the bounds that a share of the bootstrap's means lies between."""

    mean: float
    low: float
    high: float


def bootstrap_means(
    groups: Sequence[Float[np.ndarray, "S _"]],
    *,
    seeds: bool,
    clips: bool,
    whole_groups: bool = False,
    draws: int = 10_000,
    seed: int = 0,
) -> Float[np.ndarray, " B"]:
    """Means of values drawn again with replacement, the mean over ``groups`` of each group's mean over seeds and clips.

    Args:
        groups: values [S, N] of the same seeds; each group's clips are drawn apart (an unseen draw's, say).
        seeds: draw the seeds anew.
        clips: draw the clips anew, the same ones for all seeds; with ``seeds``, each on its own (Owen's pigeonhole
            bootstrap), which errs to the wide side.
        whole_groups: draw the groups anew too, on their own again: they stand for many that could have been.
        draws: how often.
        seed: of the draws.

    Raises:
        ValueError: a group is empty.
    """
    if not groups or any(values.size == 0 for values in groups):
        raise ValueError("a bootstrap needs at least one seed and one clip in every group")
    rng = np.random.default_rng(seed)
    count = len(groups[0])
    weights = np.full((draws, count), 1 / count)
    if seeds:
        weights = rng.multinomial(count, weights[0], size=draws) / count
    portions = np.full((draws, len(groups)), 1 / len(groups))
    if whole_groups:
        portions = rng.multinomial(len(groups), portions[0], size=draws) / len(groups)
    total = np.zeros(draws)
    for values, portion in zip(groups, portions.T, strict=True):
        # clips with the same value at every seed need not be told apart: of them only the number drawn matters
        patterns, sizes = np.unique(values, axis=1, return_counts=True)
        number = sizes.sum()
        step = max(1, _AT_ONCE // len(sizes))
        for first in range(0, draws, step):
            part = slice(first, first + step)
            chosen = weights[part]
            share = sizes / number
            drawn = rng.multinomial(number, share, size=len(chosen)) / number if clips else share
            total[part] += portion[part] * ((chosen @ patterns) * drawn).sum(1)
    return total


def bootstrap_interval(
    groups: Sequence[Float[np.ndarray, "S _"]],
    *,
    seeds: bool,
    clips: bool,
    whole_groups: bool = False,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of all values and the bounds that ``level`` of the bootstrap's means lie between (``bootstrap_means``).

    From few it is too narrow: of S seeds, or groups drawn whole, the deviation is small by sqrt((S - 1) / S), and of
    one there is none.
    """
    means = bootstrap_means(groups, seeds=seeds, clips=clips, whole_groups=whole_groups, draws=draws, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([values.mean() for values in groups])), float(low), float(high))

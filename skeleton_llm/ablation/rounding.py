"""Numbers as the report shows them: nothing is made better than it was measured."""

import math
from collections.abc import Sequence

from skeleton_llm.metrics import Interval

SLACK = 1e-6  # 0.819 * 1000 is 818.99...


def down(value: float, digits: int = 1) -> str:
    """Cut off, never rounded up."""
    return f"{math.floor(value * 10**digits + SLACK) / 10**digits:.{digits}f}"


def up(value: float, digits: int = 1) -> str:
    """Of what should be small: errors and deviations."""
    return f"{math.ceil(value * 10**digits - SLACK) / 10**digits:.{digits}f}"


def percent(share: float) -> str:
    """A share in percent, cut off after one digit."""
    return down(100 * share)


def bounds(interval: Interval, digits: int = 1) -> str:
    """An interval of shares in percent, outwards to the next digit."""
    return f"{down(100 * interval.low, digits)} to {up(100 * interval.high, digits)}"


def signed(points: float) -> str:
    """A difference in points with its sign, to the hundredth below."""
    return f"{math.floor(points * 100 + SLACK) / 100:+.2f}"


def deviation(values: Sequence[float], digits: int = 1) -> str:
    """The sample deviation, rounded up; a dash where there is one value."""
    if len(values) < 2:
        return "-"
    middle = sum(values) / len(values)
    return up(math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1)), digits)

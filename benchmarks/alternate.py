"""Time several functions in alternating rounds, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable


def ratios(functions: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, tuple[float, float]]:
    """Median and median absolute deviation, over rounds, of each function's time as a ratio to the first one's."""
    for function in functions.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        taken = {}
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            taken[name] = time.perf_counter() - begin
        floor = next(iter(taken.values()))
        for name, seconds in taken.items():
            found[name].append(seconds / floor)
    middle = {name: statistics.median(values) for name, values in found.items()}
    spread = {name: statistics.median(abs(v - middle[name]) for v in values) for name, values in found.items()}
    return {name: (middle[name], spread[name]) for name in functions}


def show(title: str, found: dict[str, tuple[float, float]]) -> None:
    """Print a small table."""
    print(title)
    for name, (middle, spread) in found.items():
        print(f"  {name:<58}{middle:9.2f} +- {spread:.2f}")

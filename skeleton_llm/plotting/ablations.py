"""Pictures of a table of ablations: curves over seeds, and differences with their intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from skeleton_llm.plotting.codebook import plain

_COLUMNS = 3
_STYLES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """Values [S, K] of S seeds at K steps."""

    steps: np.ndarray
    values: np.ndarray


class Difference(NamedTuple):
    """A cell's difference to the one it is compared with, in points; ``paper`` where the paper has one."""

    name: str
    mean: float
    low: float
    high: float
    paper: float | None


def plot_curves(panels: Mapping[str, Mapping[str, Line]]) -> Figure:
    """A panel for each title, with a line for each name: the mean of its seeds in a band from their least to most."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = {name: (f"C{number % 10}", _STYLES[number // 10 % len(_STYLES)]) for number, name in enumerate(names)}
    rows = -(-len(panels) // _COLUMNS)
    legend = 0.18 * -(-len(names) // 4) + 0.3  # inches
    tall = 2.9 * rows + legend
    figure = Figure(figsize=(4.2 * _COLUMNS, tall))
    for number, (title, lines) in enumerate(panels.items()):
        row, column = divmod(number, _COLUMNS)
        left, below = (column + 0.16) / _COLUMNS, (2.9 * (rows - 1 - row) + legend + 0.45) / tall
        axes = figure.add_axes((left, below, 0.8 / _COLUMNS, 2.1 / tall))
        for name, (steps, values) in lines.items():
            colour, style = looks[name]
            alone = len(steps) == 1
            axes.plot(steps, values.mean(0), marker="o" if alone else "", color=colour, linestyle=style, linewidth=1.2)
            axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
    handles = [figure.axes[0].plot([], [], color=c, linestyle=s)[0] for c, s in looks.values()]
    figure.legend(handles, plain(names), loc="lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def plot_differences(differences: Sequence[Difference], against: str) -> Figure:
    """Each cell's difference with its interval, from top to bottom, and the paper's as a cross."""
    count = len(differences)
    tall, names = 0.3 * count + 1.1, 0.075 * max(len(one.name) for one in differences) + 0.3  # inches
    wide = names + 6.2
    figure = Figure(figsize=(wide, tall))
    axes = figure.add_axes((names / wide, 0.55 / tall, 6 / wide, (0.3 * count + 0.15) / tall))
    axes.axvline(0, color="0.6", linewidth=1)
    for row, one in enumerate(differences):
        axes.plot([one.low, one.high], [row, row], color="C0", linewidth=2, solid_capstyle="butt")
        axes.plot(one.mean, row, "o", color="C0", markersize=5)
        if one.paper is not None:
            axes.plot(one.paper, row, "x", color="C3", markersize=7)
    axes.set_yticks(range(count), plain([one.name for one in differences]), fontsize=9, parse_math=False)
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"points above {plain([against])[0]}: ours (dot, interval), the paper's (cross)", fontsize=9)
    return figure

"""The confusion matrix as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from skeleton_llm.plotting.codebook import plain

_NUMBERED = 30  # classes up to which there is room for numbers


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Shares of each row [C, C], truth in rows, in per cent where there are at most 30 classes.

    The figure grows with the classes and their names, so that every name can be read at its full size. Colours go by
    the square root: a confusion of 5 % is seen beside a diagonal of 95 %.
    """
    count = len(class_names)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell, font = (0.3, 8) if count <= _NUMBERED else (0.17, 7)  # inches, points
    side, names = cell * max(count, 10), 0.0085 * font * max(map(len, class_names)) + 0.45
    bar, gap, above = 0.15, 0.15, 0.3
    whole, tall = names + side + gap + bar + 0.6, names + side + above
    figure = Figure(figsize=(whole, tall))
    axes = figure.add_axes((names / whole, names / tall, side / whole, side / tall))
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
    edges = np.arange(0.5, count - 1)
    axes.hlines(edges, -0.5, count - 0.5, color="0.9", linewidth=0.4)
    axes.vlines(edges, -0.5, count - 0.5, color="0.9", linewidth=0.4)
    height = min(side, 4.0)
    beside = figure.add_axes(((names + side + gap) / whole, (names + side - height) / tall, bar / whole, height / tall))
    figure.colorbar(picture, cax=beside).ax.tick_params(labelsize=font)
    axes.set_title("share of the row", fontsize=font + 1)
    axes.set_xticks(range(count), plain(class_names), rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(count), plain(class_names), fontsize=font, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    if count <= _NUMBERED:
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
            colour = "white" if share[row, column] > 0.35 else "black"
            axes.text(
                column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=7
            )
    return figure

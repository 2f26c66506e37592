"""The confusion matrix as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from skeleton_llm.plotting.codebook import plain


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Row-normalised shares [C, C], truth in rows; numbers are written where there are at most 30 classes."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.32 * len(class_names) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, shrink=0.8, label="share of the row")
    axes.set_xticks(range(len(class_names)), plain(class_names), rotation=90, parse_math=False)
    axes.set_yticks(range(len(class_names)), plain(class_names), parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    if len(class_names) <= 30:
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=6
            )
    return figure

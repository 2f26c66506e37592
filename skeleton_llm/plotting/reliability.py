"""How sure answers are against how many of them are right."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def plot_reliability(panels: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A reliability diagram for each title, side by side, above the share of clips in each bin.

    A panel is (clips, mean confidence, accuracy), each [M], by bins of confidence of equal width from 0 to 1.
    """
    figure = Figure(figsize=(4.2 * len(panels), 5))
    for column, (title, bins) in enumerate(panels.items()):
        clips, confidence, accuracy = (np.asarray(part) for part in bins)
        width, used = 1 / len(clips), clips > 0
        middle = (np.flatnonzero(used) + 0.5) * width
        left, wide = (column + 0.14) / len(panels), 0.82 / len(panels)
        above = figure.add_axes((left, 0.36, wide, 0.56))
        above.plot([0, 1], [0, 1], "--", color="0.4", label="believable")
        above.bar(middle, accuracy[used], width=0.94 * width, color="tab:blue", alpha=0.7, label="right")
        above.plot(confidence[used], accuracy[used], ".", color="black", label="mean of the bin")
        above.set_title(title, fontsize=10)
        above.set_ylabel("share that is right")
        above.legend(loc="upper left", fontsize=8)
        below = figure.add_axes((left, 0.1, wide, 0.2))
        below.bar(middle, clips[used] / max(clips.sum(), 1), width=0.94 * width, color="0.6")
        below.set_xlabel("probability of the answer")
        below.set_ylabel("share of clips")
        for axes in (above, below):
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
    return figure

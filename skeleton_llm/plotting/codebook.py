"""Pictures of how a codebook is used. N codes."""

import numpy as np
from matplotlib.figure import Figure


def plot_rank_frequency(counts: np.ndarray, target: np.ndarray, exponent: float) -> Figure:
    """Frequency of the tokens in use by rank, beside the Zipf target, on logarithmic axes (counts, target: [N])."""
    usage = np.sort(counts)[::-1] / max(counts.sum(), 1)
    usage = usage[usage > 0]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.loglog(np.arange(1, len(target) + 1), target, "--", color="0.4", label="Zipf target")
    axes.loglog(np.arange(1, len(usage) + 1), usage, ".-", label=f"codebook, fitted exponent {exponent:.2f}")
    axes.set_xlabel("rank of the token")
    axes.set_ylabel("share of all tokens")
    axes.set_title(f"{len(usage)} of {len(target)} tokens in use")
    axes.legend()
    return figure


def plot_usage(counts: np.ndarray) -> Figure:
    """Histogram: how many tokens were used how often (counts: [N])."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.unique(np.round(np.geomspace(1, max(counts.max(), 2) + 1, 25)).astype(int))
    axes.bar(0.5, (counts == 0).sum(), width=0.3, color="tab:red", label="dead")
    axes.hist(counts[counts > 0], bins=edges.tolist(), label="in use")
    axes.set_xscale("log")
    axes.set_xlabel("times used (dead tokens at the left)")
    axes.set_ylabel("tokens")
    axes.legend()
    return figure

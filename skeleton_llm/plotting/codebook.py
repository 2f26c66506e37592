"""Pictures of how a codebook is used and where its tokens lie. C classes, N codes, D width.

They are drawn while training waits: margins are given, since matplotlib's own layout draws everything several times.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator


def plot_rank_frequency(
    counts: np.ndarray, target: np.ndarray, exponent: float, divergence: float | None = None
) -> Figure:
    """Frequency of the tokens in use by rank, beside the Zipf target, on logarithmic axes (counts, target: [N]).

    ``divergence`` is the Jensen-Shannon divergence between the two in nats.
    """
    usage = np.sort(counts)[::-1] / max(counts.sum(), 1)
    usage = usage[usage > 0]
    figure, axes = _logarithmic()
    axes.loglog(np.arange(1, len(target) + 1), target, "--", color="0.4", label="Zipf target")
    label = f"codebook, fitted exponent {exponent:.2f}"
    if divergence is not None:
        label += f", JS {divergence:.3f} nats"
    axes.loglog(np.arange(1, len(usage) + 1), usage, ".-", label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())  # they take longer to draw than all the rest
    axes.set_xlabel("rank of the token")
    axes.set_ylabel("share of all tokens")
    axes.set_title(f"{len(usage)} of {len(target)} tokens in use")
    axes.legend(loc="lower left")
    return figure


def plot_usage(counts: np.ndarray) -> Figure:
    """Histogram: how many tokens were used how often (counts: [N])."""
    figure, axes = _logarithmic()
    edges = np.unique(np.round(np.geomspace(1, max(counts.max(), 2) + 1, 25)).astype(int))
    axes.bar(0.5, (counts == 0).sum(), width=0.3, color="tab:red", label="dead")
    axes.hist(counts[counts > 0], bins=edges.tolist(), label="in use")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times used (dead tokens at the left)")
    axes.set_ylabel("tokens")
    axes.legend(loc="upper right")
    return figure


def plain(names: Sequence[str]) -> list[str]:
    """Names in letters that matplotlib's font has; draw them with ``parse_math=False``."""
    return [name.encode("ascii", "backslashreplace").decode() for name in names]


def _logarithmic() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4))
    return figure, figure.add_axes((0.13, 0.13, 0.84, 0.78))


def plot_class_heat_map(table: np.ndarray, class_names: Sequence[str], *, num_tokens: int = 40) -> Figure:
    """P(class | token) of the most used tokens, from left to right by their commonest class (table: counts [C, N])."""
    used = np.argsort(-table.sum(0), kind="stable")[:num_tokens]
    used = used[table[:, used].sum(0) > 0]
    share = table[:, used] / table[:, used].sum(0)
    order = np.lexsort((-share.max(0), share.argmax(0)))
    left, right, below, above = 0.07 * max(map(len, class_names)) + 0.2, 0.1, 0.6, 0.3  # inches
    width, height = 0.2 * max(len(used), 15), 0.18 * max(len(class_names), 10)
    figure = Figure(figsize=(whole := left + width + right, tall := below + height + above))
    axes = figure.add_axes((left / whole, below / tall, width / whole, height / tall))
    axes.imshow(share[:, order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_title("P(class | token), white 0 to blue 1", fontsize=9)
    axes.set_xticks(range(len(used)), [str(token) for token in used[order]], rotation=90, fontsize=7)
    axes.set_yticks(range(len(class_names)), plain(class_names), fontsize=7, parse_math=False)
    axes.set_xlabel(f"token (the {len(used)} most used)")
    return figure


def disk_positions(codebook: np.ndarray, curvature: float = 1.0) -> np.ndarray:
    """Where tangent vectors [N, D] lie in the Poincare disk, [N, 2].

    They are projected onto the plane of the two principal components, signed so that each component's largest place is
    positive, and mapped by ``tanh(sqrt(c) |p|) p / (sqrt(c) |p|)``: what lies near the centre has little in the plane.
    (With the vector's own length for a radius, tokens of tied norms would all lie on one ring.)
    """
    vectors = codebook.astype(np.float64)
    centred = vectors - vectors.mean(0)
    if len(vectors) < vectors.shape[1]:  # the smaller of two matrices with the same strengths
        strength, places = np.linalg.eigh(centred @ centred.T)
        axes = centred.T @ (places[:, :-3:-1] / np.sqrt(strength[:-3:-1].clip(1e-12)))  # [D, 2], of length 1
    else:
        axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    plane = vectors @ axes
    plane = plane * np.where(plane.max(0) >= -plane.min(0), 1, -1)
    length = np.linalg.norm(plane, axis=1, keepdims=True).clip(1e-12) * curvature**0.5
    return np.tanh(length) / length * plane


def plot_poincare_disk(
    codebook: np.ndarray, counts: np.ndarray, curvature: float = 1.0, words: Mapping[int, str] | None = None
) -> Figure:
    """Tokens [N, D] in the Poincare disk: area by usage [N], dead ones as red crosses, some labelled with ``words``."""
    places, dead = disk_positions(codebook, curvature), counts == 0
    edge = np.exp(1j * np.linspace(0, 2 * np.pi, 200)) / curvature**0.5
    figure = Figure(figsize=(6, 6.3))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.91))
    axes.plot(edge.real, edge.imag, color="0.4", linewidth=1)
    x, y = places.T
    area = 300 * counts[~dead] / max(counts.max(), 1) + 4
    axes.scatter(x[~dead], y[~dead], s=area, alpha=0.5, linewidths=0, label="in use, area by usage")
    axes.scatter(x[dead], y[dead], s=16, marker="x", color="tab:red", linewidths=0.8, label="dead")
    for token, word in (words or {}).items():
        axes.annotate(plain([word])[0], 1.08 * places[token], fontsize=7, ha="center", va="center", parse_math=False)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"{len(dead) - dead.sum()} of {len(dead)} tokens in use, two principal directions")
    axes.legend(loc="lower right")
    return figure

"""The report's figures."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from skeleton_llm.ablation.comparison import Comparison
from skeleton_llm.ablation.details import confusion_matrix, own_runs
from skeleton_llm.ablation.findings import Curve, Finding, curves
from skeleton_llm.ablation.matrix import TOKENIZER
from skeleton_llm.ablation.surroundings import class_names
from skeleton_llm.plotting import Difference, Line, plot_confusion, plot_curves, plot_differences

_OF_TOKENIZERS = {
    "train/loss": "loss",
    "train/reconstruction": "reconstruction loss",
    "train/commitment": "commitment loss",
    "train/zipf": "Zipf loss",
    "train/context": "context loss",
    "train/mmd": "MMD",
    "train/agreement": "noisy choice is the nearest token, share",
    "codebook/tokens_alive": "tokens alive",
    "codebook/pair_correlation": "correlation of paired tokens",
    "val/error_m": "validation: error, m",
    "val/perplexity": "validation: perplexity",
    "val/tokens_used": "validation: tokens used",
    "val/js_to_zipf": "validation: JS to Zipf, nats",
    "codebook/zipf_exponent": "validation: exponent of Zipf's law",
}
_OF_ANSWERS = {"train/loss": "loss", "val/top1": "validation: top-1"}


def draw_differences(differences: Sequence[tuple[Finding, Comparison]]) -> Figure:
    """All cells against the one they are compared with, in points."""
    drawn = []
    for finding, compared in differences:
        mean, low, high = (100 * bound for bound in compared.difference)
        paper = None if compared.paper is None else 100 * compared.paper
        other = "" if compared.against == "full" else f" (to {compared.against})"
        drawn.append(Difference(finding.cell.name + other, mean, low, high, paper))
    return plot_differences(drawn, "full, or the cell named")


def draw_curves(found: dict[str, Finding]) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure: of tokenizers, of runs that read them, of runs on skeletons alone."""
    kinds: dict[str, tuple[str, dict[str, str], list[tuple[str, Finding, str]]]] = {
        "tokenizer_curves": ("Tokenizers: mean of the seeds, least to most shaded", _OF_TOKENIZERS, []),
        "answer_curves": ("Runs on action sentences or latents", _OF_ANSWERS, []),
        "skeleton_curves": ("Runs on skeletons", _OF_ANSWERS, []),
    }
    for name, finding in found.items():
        for run in () if finding.cell.rounds else finding.cell.runs:
            reads = TOKENIZER in finding.cell.runs
            kind = "tokenizer_curves" if run == TOKENIZER else "answer_curves" if reads else "skeleton_curves"
            label = name if run in (TOKENIZER, finding.cell.answer) else f"{name}, {run}"
            kinds[kind][2].append((label, finding, run))
    for kind, (caption, titles, members) in kinds.items():
        panels: dict[str, dict[str, Line]] = {title: {} for title in titles.values()}
        for label, finding, run in members:
            seeds = [curves(one, [*titles]) for one in own_runs(finding, run)]
            for tag, title in titles.items():
                if seeds and all(tag in one for one in seeds):
                    panels[title][label] = _line([one[tag] for one in seeds])
        panels = {title: lines for title, lines in panels.items() if lines}
        if panels:
            yield kind, caption, plot_curves(panels)


def _line(seeds: Sequence[Curve]) -> Line:
    """At the steps that all seeds have."""
    steps = sorted(set.intersection(*({*curve} for curve in seeds)))
    return Line(np.array(steps), np.array([[curve[step] for step in steps] for curve in seeds]))


def draw_confusion(found: dict[str, Finding]) -> tuple[str, Figure] | None:
    """Caption and figure of the first cell's confusion matrix over its seeds."""
    finding = next((one for one in found.values() if not one.cell.rounds), None)
    if finding is None:
        return None
    caption = f"Confusions of {finding.cell.name}, all seeds"
    return caption, plot_confusion(confusion_matrix(finding).numpy(), class_names(finding))

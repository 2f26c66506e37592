"""The report's first sections: what the table says, and on what it stands."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skeleton_llm.ablation.comparison import Comparison, accuracy, compare, paired
from skeleton_llm.ablation.document import Heading, Part, Table, Text
from skeleton_llm.ablation.findings import Finding, validation
from skeleton_llm.ablation.matrix import Goal, Matrix
from skeleton_llm.ablation.rounding import SLACK, bounds, deviation, percent, signed
from skeleton_llm.ablation.surroundings import Surroundings, class_names

QUICK = (
    "**Quick runs of a few steps on a part of the clips.** They prove that every cell trains, is tested and reported;"
    " no figure below says anything about any method."
)
HOW_TO_READ = (
    "Top-1 in percent on the test split, each clip answered with the likeliest of all class names (exact closed-set"
    " scores), read once when a run ends; of rounds (unseen classes) the mean over the rounds. Validation is the same"
    " on the clips held out of training, at the last look (of unseen classes: a choice among as many seen ones). The"
    " deviation is the sample deviation over seeds, of a single seed over its rounds. Intervals are percentile"
    " bootstraps of 95 %, 10,000 draws: over runs (seeds, and rounds where there are some, each drawn anew; too narrow"
    " for few: of S seeds or rounds the deviation is small by the square root of (S - 1) / S), and over runs and clips"
    " (all drawn anew, each on its own; with one run the clips alone). The difference"
    " is paired: the same clips, seeds and rounds of both cells, all drawn anew. Accuracies and differences are rounded"
    " down, deviations up, intervals outwards. A sign is resolved where the interval of the difference leaves 0 out."
)
_ANSWERS = (
    "the likeliest of all class names (of unseen classes: of the names that the prompt lists), by the mean over {} of a"
    " clip; free ones, below, are of the clip alone"
)


def summary(found: dict[str, Finding], around: Surroundings) -> str:
    """On what the table stands, in a paragraph."""
    words = {"revision": "Git revision", "data": "data hash", "machine": "machine", "versions": "with"}
    said = [f"{words[name]} `{'`, `'.join(values)}`" for name, values in around.shared.items()]
    mixed = [words[name] for name in ("revision", "data") if len(around.shared[name]) > 1]
    warning = f" **Runs differ in {' and '.join(mixed)}; compare with care.**" if mixed else ""
    have = "1 cell has" if len(found) == 1 else f"{len(found)} cells have"
    return f"{have} a finished seed. {'; '.join(said)}.{warning}"


def what_differs(matrix: Matrix, around: Surroundings) -> list[Part]:
    """The paper's setting beside ours."""
    paper = matrix.paper
    if not paper:
        return []
    rows = [
        ["data", paper.get("data", ""), around.data],
        ["language model", paper.get("llm", ""), around.llm],
        ["poses", paper.get("poses", ""), around.poses],
        ["answers", paper.get("answers", ""), _ANSWERS.format(around.views)],
    ]
    table = Table(["", f"paper: {paper.get('title', '')}", "here"], rows, left=3)
    return [Heading("What differs from the paper"), table]


def main_table(found: dict[str, Finding], matrix: Matrix) -> tuple[Table, list[tuple[Finding, Comparison]]]:
    """Every cell's top-1, its difference and the paper's; and the differences, to be drawn."""
    heads = ["cell", "seeds", "clips", "validation", "top-1", "deviation", "over runs", "over runs and clips"]
    heads += ["difference", "its interval", "paper", "paper's difference", "sign"]
    rows, differences = [], []
    for name, finding in found.items():
        measured, compared = accuracy(finding), compare(finding, found, matrix)
        row = [f"`{name}`: {finding.cell.title}", ", ".join(map(str, finding.seeds)), f"{finding.clips:,}"]
        row += [_mean_percent(validation(finding)), percent(measured.over_all.mean)]
        row += [deviation([100 * value for value in measured.repeated])]
        row += ["-" if measured.over_runs is None else bounds(measured.over_runs), bounds(measured.over_all)]
        if compared is not None:
            differences.append((finding, compared))
        row += _difference(finding, compared)
        row += ["" if finding.cell.paper is None else f"{finding.cell.paper} ({finding.cell.source})"]
        paper = None if compared is None else compared.paper
        row += ["" if paper is None else signed(100 * paper), "" if compared is None else compared.verdict]
        rows.append(row)
    return Table(heads, rows), differences


def _mean_percent(shares: Sequence[float]) -> str:
    return percent(sum(shares) / len(shares)) if shares else "-"


def _difference(finding: Finding, compared: Comparison | None) -> list[str]:
    """The difference and its interval, empty where there is nothing to compare with."""
    if compared is None:
        return ["", ""]
    of = "" if compared.against == "full" else f" to `{compared.against}`"
    if compared.seeds != finding.seeds:
        of += f" (seeds {', '.join(map(str, compared.seeds))})"
    if compared.clips != finding.clips:
        of += f" ({compared.clips:,} clips)"
    return [signed(100 * compared.difference.mean) + of, bounds(compared.difference, 2)]


def goals(found: dict[str, Finding], goal: Goal | None) -> list[Part]:
    """What was aimed at and whether it is met, where the cells for it are there."""
    if goal is None or goal.cell not in found:
        return []
    finding = found[goal.cell]
    measured = accuracy(finding).over_all
    met = 100 * measured.mean + SLACK >= goal.top1
    reached = f"`{goal.cell}` reaches {goal.top1:g}"
    rows = [[reached, percent(measured.mean), bounds(measured), "met" if met else "**missed**"]]
    for name in goal.not_below:
        both = paired(finding, found[name]) if name in found else None
        if both is not None:
            said = [signed(100 * both.difference.mean), bounds(both.difference, 2)]
            met = both.difference.mean >= 0
            rows.append([f"`{goal.cell}` is not below `{name}`", *said, "met" if met else "**missed**"])
        else:
            rows.append([f"`{goal.cell}` is not below `{name}`", "", "", f"`{name}` is not finished"])
    return [Heading("Goals"), Table(["goal, set before the runs", "measured", "its interval", ""], rows)]


def notes(found: dict[str, Finding]) -> list[Part]:
    """What a reader of some cells must know."""
    return [Text(f"`{name}`: {finding.cell.note}") for name, finding in found.items() if finding.cell.note]


def draw_by_draw(found: dict[str, Finding]) -> list[Part]:
    """Of cells with rounds each round, whose classes are those that are tested."""
    rows = []
    for name, finding in found.items():
        if not finding.cell.rounds:
            continue
        names, right, chances = class_names(finding), finding.right(), []
        for number, (overlay, values) in enumerate(zip(finding.cell.rounds, right, strict=False)):
            held = np.unique(finding.answers[finding.seeds[0]][number].labels)
            chances.append(1 / len(held))
            row = [
                f"`{name}`",
                Path(overlay).name,
                ", ".join(f"`{names[label]}`" for label in held),
                str(values.shape[1]),
            ]
            by_seed = 100 * values.mean(1)
            rows.append([*row, percent(chances[-1]), percent(values.mean()), deviation(by_seed.tolist()), ""])
        of_rounds = [values.mean() for values in right]
        row = [f"`{name}`", "all", "", f"{finding.clips:,}", _mean_percent(chances), _mean_percent(of_rounds)]
        rows.append([*row, "", deviation([100 * value for value in of_rounds])])
    heads = ["cell", "round", "classes tested", "clips", "chance", "top-1", "over seeds", "over rounds"]
    about = "Deviations are sample deviations of a round's seeds, and of the rounds' means."
    return [Heading("Round by round"), Text(about), Table(heads, rows, left=3)] if rows else []


def answers_by_length(judged: dict[str, Finding], found: dict[str, Finding], matrix: Matrix) -> list[Part]:
    """Language models' answers again, each name's likelihood divided by its tokens."""
    rows = []
    for name, finding in judged.items():
        measured, compared = accuracy(finding), compare(finding, judged, matrix)
        row = [f"`{name}`", percent(accuracy(found[name]).over_all.mean), percent(measured.over_all.mean)]
        row += [deviation([100 * value for value in measured.repeated]), bounds(measured.over_all)]
        rows.append(row + _difference(finding, compared))
    heads = ["cell", "as above", "by length", "deviation", "over runs and clips", "difference", "its interval"]
    about = (
        "A name's log-likelihood divided by its tokens, so that short names do not win where likelihoods are flat; on"
        " the same test clips, no other reading of them."
    )
    return [Heading("Top-1 by length of name"), Text(about), Table(heads, rows)] if rows else []


def without_repeated(found: dict[str, Finding], matrix: Matrix, around: Surroundings) -> list[Part]:
    """The same without the test clips that are training clips too, where there are such."""
    rows = around.repeated
    heading = Heading("Without the test clips that repeat training clips")
    if rows is None:
        return [heading, Text("The prepared dataset is not here, so that repeated clips could not be looked for.")]
    if len(rows) == 0:
        return [heading, Text("No test clip has the joints of a training clip.")]
    left = {name: finding.without(rows) for name, finding in found.items()}
    left = {name: one for name, one in left.items() if all(len(a.rows) for s in one.answers.values() for a in s)}
    lines = []
    for name, kept_of in left.items():
        kept, compared = accuracy(kept_of), compare(kept_of, left, matrix)
        whole = accuracy(found[name]).over_all.mean
        line = [f"`{name}`", percent(whole), percent(kept.over_all.mean), bounds(kept.over_all)]
        line += _difference(kept_of, compared)
        lines.append(line)
    heads = ["cell", "all test clips", "without", "over runs and clips", "difference", "its interval"]
    said = f"{len(rows):,} test clips have, bit for bit, the joints of a training clip (`skeleton-llm doctor`)."
    return [heading, Text(said), Table(heads, lines)]

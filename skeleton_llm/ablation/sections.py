"""The report's first sections: what the table says, and on what it stands."""

from skeleton_llm.ablation.comparison import Comparison, accuracy, compare
from skeleton_llm.ablation.document import Heading, Part, Table, Text
from skeleton_llm.ablation.findings import Finding
from skeleton_llm.ablation.matrix import Matrix
from skeleton_llm.ablation.rounding import bounds, deviation, percent, signed
from skeleton_llm.ablation.surroundings import Surroundings

QUICK = (
    "**Quick runs of a few steps on a part of the clips.** They prove that every cell trains, is tested and reported;"
    " no figure below says anything about any method."
)
HOW_TO_READ = (
    "Top-1 in percent on the test split, each clip answered with the likeliest of all class names (exact closed-set"
    " scores), read once when a run ends; of rounds (unseen classes) the mean over the rounds. The deviation is the"
    " sample deviation over seeds. Intervals are percentile bootstraps of 95 %, 10,000 draws: over seeds (drawn anew;"
    " too narrow for few seeds, small by the square root of (S - 1) / S), and over seeds and clips (each drawn anew on"
    " its own; with one seed the clips alone). The difference is paired: the same clips and seeds of both cells, both"
    " drawn anew. Accuracies are cut after the last digit and deviations rounded up, intervals outwards, differences to"
    " the nearest hundredth. A sign is resolved where the interval of the difference leaves 0 out."
)


def summary(found: dict[str, Finding], around: Surroundings) -> str:
    """On what the table stands, in a paragraph."""
    words = {"revision": "Git revision", "data": "data hash", "machine": "machine", "versions": "with"}
    said = [f"{words[name]} `{'`, `'.join(values)}`" for name, values in around.shared.items()]
    mixed = [words[name] for name in ("revision", "data") if len(around.shared[name]) > 1]
    warning = f" **Runs differ in {' and '.join(mixed)}; compare with care.**" if mixed else ""
    return f"{len(found)} cells have a finished seed. {'; '.join(said)}.{warning}"


def what_differs(matrix: Matrix, around: Surroundings) -> list[Part]:
    """The paper's setting beside ours."""
    paper = matrix.paper
    if not paper:
        return []
    rows = [
        ["data", paper.get("data", ""), around.data],
        ["language model", paper.get("llm", ""), around.llm],
        ["poses", paper.get("poses", ""), around.poses],
        ["answers", paper.get("answers", ""), "the likeliest of all class names; free ones stand below"],
    ]
    table = Table(["", f"paper: {paper.get('title', '')}", "here"], rows, left=3)
    return [Heading("What differs from the paper"), table]


def main_table(found: dict[str, Finding], matrix: Matrix) -> tuple[Table, list[tuple[Finding, Comparison]]]:
    """Every cell's top-1, its difference and the paper's; and the differences, to be drawn."""
    heads = ["cell", "seeds", "top-1", "deviation", "over seeds", "over seeds and clips", "difference", "its interval"]
    heads += ["paper", "paper's difference", "sign"]
    rows, differences = [], []
    for name, finding in found.items():
        measured, compared = accuracy(finding), compare(finding, found, matrix)
        row = [f"`{name}`: {finding.cell.title}", ", ".join(map(str, finding.seeds)), percent(measured.over_all.mean)]
        row += [deviation([100 * value for value in measured.by_seed])]
        row += ["-" if measured.over_seeds is None else bounds(measured.over_seeds), bounds(measured.over_all)]
        if compared is not None:
            differences.append((finding, compared))
        row += _difference(compared)
        row += ["" if finding.cell.paper is None else f"{finding.cell.paper} ({finding.cell.source})"]
        paper = None if compared is None else compared.paper
        row += ["" if paper is None else signed(100 * paper), "" if compared is None else compared.verdict]
        rows.append(row)
    return Table(heads, rows), differences


def _difference(compared: Comparison | None) -> list[str]:
    """The difference and its interval, empty where there is nothing to compare with."""
    if compared is None:
        return ["", ""]
    of = "" if compared.against == "full" else f" to `{compared.against}`"
    return [signed(100 * compared.difference.mean) + of, bounds(compared.difference, 2)]


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
    for name, finding in left.items():
        kept, compared = accuracy(finding), compare(finding, left, matrix)
        whole = accuracy(found[name]).over_all.mean
        line = [f"`{name}`", percent(whole), percent(kept.over_all.mean), bounds(kept.over_all)]
        line += _difference(compared)
        lines.append(line)
    heads = ["cell", "all test clips", "without", "over seeds and clips", "difference", "its interval"]
    said = f"{len(rows):,} test clips have, bit for bit, the joints of a training clip (`skeleton-llm doctor`)."
    return [heading, Text(said), Table(heads, lines)]

"""The report's further sections: tokenizers, other measures, confusions and costs."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

from skeleton_llm.ablation.document import Heading, Part, Table, Text
from skeleton_llm.ablation.findings import Cost, Finding, cost, results
from skeleton_llm.ablation.matrix import TOKENIZER
from skeleton_llm.ablation.rounding import deviation, down, up
from skeleton_llm.ablation.runs import Run
from skeleton_llm.ablation.surroundings import class_names
from skeleton_llm.metrics import confused_pairs


class Measure(NamedTuple):
    """How a number of a test is shown: times ``factor``, cut after ``digits`` where high is good, else rounded up."""

    title: str
    factor: float = 100
    digits: int = 1
    high_is_good: bool = True


_OF_TOKENIZERS = {
    "test/error_m": Measure("error, cm", high_is_good=False),
    "test/perplexity": Measure("perplexity", 1, 0),
    "test/tokens_used": Measure("tokens used", 1, 0),
    "test/js_to_zipf": Measure("JS to Zipf, nats", 1, 3, high_is_good=False),
}
_OF_ANSWERS = {
    "test/top1": Measure("top-1"),
    "test/top5": Measure("top-5"),
    "test/mean_class_accuracy": Measure("mean of classes"),
    "test/top1_length_normalised": Measure("top-1 by length of name"),
    "test/greedy_exact_match": Measure("free answer right"),
    "test/greedy_invalid": Measure("free answer no class", high_is_good=False),
    "test/ece_before": Measure("calibration error", high_is_good=False),
    "test/ece_after": Measure("the same at the fitted T", high_is_good=False),
}


def own_runs(finding: Finding, name: str) -> list[Run]:
    """The finished runs of that name, of all seeds and rounds, that lie with this cell and with no other."""
    found = []
    for seed, planned in finding.planned.items():
        runs = [runs[name] for runs in planned.rounds if name in runs]
        found += [run for run in runs if f"/{finding.cell.name}/seed{seed}/" in f"/{run.folder.as_posix()}"]
    return found


def _mean(runs: Sequence[Run], key: str, measure: Measure) -> str:
    """Of a test's measure, with its deviation; empty where a run has none."""
    values = [results(run).get(key) for run in runs]
    there = [measure.factor * value for value in values if value is not None]
    if not there or len(there) < len(values):
        return ""
    middle = (down if measure.high_is_good else up)(statistics.mean(there), measure.digits)
    return middle if len(there) == 1 else f"{middle} +- {deviation(there, measure.digits)}"


def tokenizers(found: dict[str, Finding]) -> list[Part]:
    """What each tokenizer measured, where cells have their own."""
    rows = []
    for name, finding in found.items():
        runs = [] if finding.cell.rounds else own_runs(finding, TOKENIZER)
        if runs:
            rows.append([f"`{name}`", *(_mean(runs, key, measure) for key, measure in _OF_TOKENIZERS.items())])
    if not rows:
        return []
    return [Heading("Tokenizers"), Table(["cell", *(measure.title for measure in _OF_TOKENIZERS.values())], rows)]


def other_measures(found: dict[str, Finding]) -> list[Part]:
    """All runs that answer, the ones beside a cell's own answer too."""
    rows = []
    for name, finding in found.items():
        for run_name in finding.cell.runs:
            runs = own_runs(finding, run_name)
            if run_name == TOKENIZER or not runs:
                continue
            rows.append([f"`{name}`", run_name, *(_mean(runs, key, measure) for key, measure in _OF_ANSWERS.items())])
    heads = ["cell", "run", *(measure.title for measure in _OF_ANSWERS.values())]
    return [Heading("Other measures of the runs, in percent"), Table(heads, rows, left=2)] if rows else []


def confusions(found: dict[str, Finding]) -> list[Part]:
    """The three most frequent wrong answers of each cell, over its seeds."""
    rows = []
    for name, finding in found.items():
        names, count = class_names(finding), len(finding.seeds)
        pairs = confused_pairs(confusion_matrix(finding), names)[:3]
        said = [f"`{pair.truth}` -> `{pair.answer}`: {pair.clips}, {down(100 * pair.share, 0)} %" for pair in pairs]
        rows.append([f"`{name}`", str(count), "; ".join(said) or "none"])
    about = "Truth -> answer: clips over all seeds and rounds, and their share of the class's."
    return [Heading("Confusions"), Text(about), Table(["cell", "number of seeds", "most frequent"], rows, left=3)]


def confusion_matrix(finding: Finding) -> torch.Tensor:
    """Counts [C, C] over all seeds and rounds, truth in rows."""
    count = len(class_names(finding))
    matrix = torch.zeros(count, count, dtype=torch.long)
    for rounds in finding.answers.values():
        for one in rounds:
            matrix.index_put_(
                (torch.from_numpy(one.labels), torch.from_numpy(one.answers)), torch.tensor(1), accumulate=True
            )
    return matrix


def costs(found: dict[str, Finding]) -> list[Part]:
    """What each run took; those that lie with another cell stand there."""
    rows = []
    for name, finding in found.items():
        for run_name in finding.cell.runs:
            took = [one for one in map(cost, own_runs(finding, run_name)) if one is not None]
            if took:
                rows.append([f"`{name}`", run_name, str(len(took)), *_costs(took)])
    if not rows:
        return []
    heads = ["cell", "run", "runs", "minutes", "CPU minutes", "peak memory, MiB", "GPU memory, MiB", "energy, kJ"]
    about = (
        "Means over seeds (and rounds), peaks their largest. Minutes are those of the wall clock, in all attempts,"
        " beside whatever else ran; GPU memory is what torch allocated on rank 0; energy is the GPU's own counter, told"
        " where a run had the GPU to itself. A tokenizer that cells share stands with the first of them."
    )
    return [Heading("Cost"), Text(about), Table([*heads, "attempts"], rows, left=2)]


def _costs(took: Sequence[Cost]) -> list[str]:
    gpu, energy = [one.gpu_mib for one in took], [one.joules for one in took]
    return [
        up(statistics.mean(one.seconds for one in took) / 60, 2),
        up(statistics.mean(one.cpu_seconds for one in took) / 60, 2),
        up(max(one.peak_mib for one in took), 0),
        "" if None in gpu else up(max(value for value in gpu if value is not None), 0),
        "" if None in energy else up(statistics.mean(value for value in energy if value is not None) / 1000, 2),
        str(sum(one.attempts for one in took)),
    ]

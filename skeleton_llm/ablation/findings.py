"""What finished cells measured: every test clip's answer over seeds, and a run's facts, costs and curves."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skeleton_llm import run_folder
from skeleton_llm.ablation.matrix import Cell
from skeleton_llm.ablation.runs import Planned, Run
from skeleton_llm.metrics.ensemble import SplitScores, check_alike, ensemble, read_scores

Curve = Mapping[int, float]
_OF_TEST = ("data", "protocol", "class_names")
_SAME = 1e-5  # results are float32's


class Answers(NamedTuple):
    """Of a split's clips: their rows of the prepared dataset, labels and answers, each [N]."""

    rows: np.ndarray
    labels: np.ndarray
    answers: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which were answered rightly, [N] bool."""
        return self.answers == self.labels

    def without(self, rows: np.ndarray) -> "Answers":
        """All but the clips in ``rows``."""
        kept = ~np.isin(self.rows, rows)
        return Answers(*(column[kept] for column in self))


@dataclass(frozen=True)
class Finding:
    """A cell with what its finished seeds answered, round by round."""

    cell: Cell
    planned: Mapping[int, Planned]
    answers: Mapping[int, Sequence[Answers]]

    @property
    def seeds(self) -> list[int]:
        """Those that are finished."""
        return sorted(self.answers)

    @property
    def clips(self) -> int:
        """How many test clips a seed answered, in all rounds."""
        return sum(len(one.rows) for one in self.answers[self.seeds[0]])

    def without(self, rows: np.ndarray) -> "Finding":
        """The same without some clips."""
        left = {seed: [one.without(rows) for one in rounds] for seed, rounds in self.answers.items()}
        return Finding(self.cell, self.planned, left)

    def right(self, seeds: Sequence[int] | None = None, like: "Finding | None" = None) -> list[np.ndarray]:
        """For each round 1 where a clip was answered rightly, 0 elsewhere, [S, N].

        The clips are those of all ``seeds`` (by default the cell's own) and of ``like``, in the order of their rows:
        two cells come out alike.
        """
        chosen = self.seeds if seeds is None else seeds
        found = []
        for number in range(len(self.answers[chosen[0]])):
            mine = [self.answers[seed][number] for seed in chosen]
            others = [] if like is None else [like.answers[seed][number] for seed in chosen]
            common = mine[0].rows
            for one in (*mine[1:], *others):
                common = np.intersect1d(common, one.rows)
            found.append(np.stack([_right(one, np.sort(common)) for one in mine]))
        return found


def _right(one: Answers, rows: np.ndarray) -> np.ndarray:
    order = np.argsort(one.rows)
    place = order[np.searchsorted(one.rows[order], rows)]
    return one.right[place].astype(np.float64)


def collect(planned: Sequence[Planned]) -> tuple[dict[str, Finding], list[str]]:
    """Every cell that has a finished seed, in the matrix' order; and what cannot be read, a sentence each."""
    cells: dict[str, Cell] = {}
    finished: dict[str, dict[int, Planned]] = {}
    answers: dict[str, dict[int, list[Answers]]] = {}
    problems: list[str] = []
    read = [(one, rounds) for one in planned if one.finished and (rounds := _read(one, problems)) is not None]
    tests = Counter(_test(rounds) for _, rounds in read)  # a table is of the test that most of its runs took
    most = tests.most_common(1)
    first = next(((one.name, rounds[0][0]) for one, rounds in read if _test(rounds) == most[0][0]), None)
    tested: dict[str, tuple[str, list[list[int]]]] = {}  # of each cell's first seed its name and each round's clips
    for one, rounds in read:
        assert first is not None
        try:
            for scores in rounds:
                _check_same_test(*first, scores[0])
            clips = [scores[0].rows.tolist() for scores in rounds]
            known, expected = tested.setdefault(one.cell.name, (one.name, clips))
            if clips != expected:
                mine, theirs = (sum(map(len, rows)) for rows in (clips, expected))
                raise ValueError(f"its test has other clips ({mine:,}) than that of {known} ({theirs:,})")
        except ValueError as error:
            problems.append(f"{one.name}: {error}")
        else:
            name = one.cell.name
            answers.setdefault(name, {})[one.seed] = [_together(scores) for scores in rounds]
            cells[name] = one.cell
            finished.setdefault(name, {})[one.seed] = one
    return {name: Finding(cell, finished[name], answers[name]) for name, cell in cells.items()}, problems


def _read(planned: Planned, problems: list[str]) -> list[list[SplitScores]] | None:
    """What answers in each round; None, and a sentence more, where it cannot be read."""
    try:
        for run in planned.runs:
            results(run)
        return [_tested(runs) for runs in answering(planned)]
    except (OSError, ValueError) as error:
        problems.append(f"{planned.name}: {error}")
        return None


def _test(rounds: Sequence[Sequence[SplitScores]]) -> tuple[str, ...]:
    return tuple(rounds[0][0].of[key] for key in _OF_TEST)


def answering(planned: Planned) -> list[list[Run]]:
    """Of each round the run that answers for the cell, or its ensemble's."""
    return [[runs[name] for name in planned.cell.ensemble or (planned.cell.answer,)] for runs in planned.rounds]


def _tested(runs: Sequence[Run]) -> list[SplitScores]:
    """What the test kept of each, of the same clips, and the same as its results say."""
    kept = {str(run.folder): read_scores(run.folder / "scores/test.safetensors") for run in runs}
    check_alike(kept)
    for run, scores in zip(runs, kept.values(), strict=True):
        said, right = results(run).get("test/top1"), float((scores.scores.argmax(1) == scores.labels).double().mean())
        if said is not None and abs(said - right) > _SAME:
            raise ValueError(
                f"{run.folder}/scores/test.safetensors answers {100 * right:.2f} % rightly, results.json says"
                f" {100 * said:.2f} %: it was written by another test than the run's own; remove the run and give the"
                " command again"
            )
    return [*kept.values()]


def _check_same_test(name: str, first: SplitScores, scores: SplitScores) -> None:
    """Refuse what cannot stand in one table with the run ``name``."""
    for key in _OF_TEST:
        if scores.of[key] != first.of[key]:
            raise ValueError(f"its test has {key} {scores.of[key]}, that of {name} {first.of[key]}")
    _, mine, theirs = np.intersect1d(scores.rows.numpy(), first.rows.numpy(), return_indices=True)
    if not scores.labels[mine].equal(first.labels[theirs]):
        raise ValueError(f"its test has other labels of the same clips than that of {name}")


def _together(kept: Sequence[SplitScores]) -> Answers:
    """The likeliest class by the run's scores, or by the sum of several runs' probabilities."""
    one = kept[0]
    scores = one.scores if len(kept) == 1 else ensemble([found.scores for found in kept], [1.0] * len(kept))
    return Answers(one.rows.numpy(), one.labels.numpy(), scores.argmax(1).numpy())


def validation(finding: Finding) -> list[float]:
    """Top-1 of each seed at the last validation, the mean over rounds; empty where a run has none."""
    found = []
    for planned in finding.planned.values():
        rounds = []
        for runs in answering(planned):
            try:
                scores = {str(run.folder): read_scores(run.folder / "scores/val.safetensors") for run in runs}
                check_alike(scores)
            except (OSError, ValueError):
                return []
            rounds.append(float(_together([*scores.values()]).right.mean()))
        found.append(sum(rounds) / len(rounds))
    return found


def results(run: Run) -> dict[str, float]:
    """What its test measured."""
    return run_folder.results(run.folder)


def facts(run: Run) -> dict[str, str]:
    """On what, where and by which command it was made."""
    return run_folder.run_facts(run.folder)


def config(run: Run) -> dict[str, Any]:
    """As it was resolved."""
    return yaml.safe_load((run.folder / "config.yaml").read_text())


def config_digest(run: Run) -> str:
    """The first letters of its config's SHA-256."""
    return hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()[:12]


class Cost(NamedTuple):
    """What a run took in all its attempts; None where nobody told."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    gpu_mib: float | None
    joules: float | None
    attempts: int


def cost(run: Run) -> Cost | None:
    """What the run took; None for one that the table's command did not start."""
    path = run.folder / "cost.jsonl"
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    energy = [line["joules"] for line in lines]
    return Cost(
        sum(line["seconds"] for line in lines),
        sum(line["cpu_seconds"] for line in lines),
        max(line["peak_mib"] for line in lines),
        results(run).get("peak_gpu_mib"),
        None if None in energy else sum(energy),
        len(lines),
    )


def curves(run: Run, tags: Sequence[str]) -> dict[str, Curve]:
    """The logged values of each tag that there is, by step; of a step that was done twice, the later one."""
    events = EventAccumulator(str(run.folder), {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1})
    events.Reload()
    known = {*events.Tags()["scalars"]} & {*tags}
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags if tag in known}

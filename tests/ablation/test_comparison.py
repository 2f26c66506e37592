"""Accuracies and paired differences of findings, against counts by hand."""

import numpy as np
import pytest

from finished_runs import NAMES, write_answers, write_facts
from skeleton_llm.ablation.comparison import Comparison, Paired, accuracy, compare, paired
from skeleton_llm.ablation.findings import Answers, Finding, collect
from skeleton_llm.ablation.matrix import Cell, Matrix
from skeleton_llm.ablation.runs import Planned, Run
from skeleton_llm.metrics import Interval


def cell(name: str, paper: float | None = None, against: str | None = "full", **more) -> Cell:
    given = {"runs": {"stage2": ("stage2",)}, "rounds": (), "answer": "stage2", "ensemble": (), "quick": (), **more}
    return Cell(name, name, **given, against=None if name == against else against, paper=paper, source="x")


def finding(one: Cell, right: dict[int, list[np.ndarray]], rows=None) -> Finding:
    """Of rightness [N] by seed and round."""
    answers = {
        seed: [
            Answers(np.arange(len(values)) if rows is None else rows, np.ones(len(values), int), values.astype(int))
            for values in rounds
        ]
        for seed, rounds in right.items()
    }
    return Finding(one, {}, answers)


def test_a_difference_is_that_of_the_same_clips_and_seeds(rng):
    full = {seed: [rng.random(60) < 0.8] for seed in range(4)}
    other = {seed: [np.where(rng.random(60) < 0.2, False, full.get(seed, full[0])[0])] for seed in (1, 2, 3, 5)}
    found = {"full": finding(cell("full", 91.5), full), "flat": finding(cell("flat", 89.7), other)}
    compared = compare(found["flat"], found, Matrix({f.cell.name: f.cell for f in found.values()}, {}, {}))
    assert compared.seeds == [1, 2, 3]
    by_hand = np.mean([other[seed][0].mean() - full[seed][0].mean() for seed in (1, 2, 3)])
    assert compared.difference.mean == pytest.approx(by_hand)
    assert compared.difference.low < by_hand < compared.difference.high <= 0
    assert compared.paper == pytest.approx(-0.018)
    assert compared.verdict == "as in the paper"
    assert compare(found["full"], found, Matrix({}, {}, {})) is None


def test_clips_are_paired_by_their_rows_whatever_their_order(rng):
    right = rng.random(50) < 0.6
    order = rng.permutation(50)
    one = finding(cell("full"), {0: [right]})
    two = finding(cell("b"), {0: [right[order]]}, rows=order)
    compared = compare(two, {"full": one, "b": two}, Matrix({"full": one.cell, "b": two.cell}, {}, {}))
    assert compared.difference == (0, 0, 0)
    fewer = finding(cell("b"), {0: [right[10:]]}, rows=np.arange(10, 50))
    compared = compare(fewer, {"full": one, "b": fewer}, Matrix({"full": one.cell, "b": fewer.cell}, {}, {}))
    assert compared.difference == (0, 0, 0)
    assert accuracy(fewer).over_all.mean == right[10:].mean()


def test_a_round_without_common_clips_is_no_comparison():
    rounds = [np.ones(3), np.ones(2)]
    one, other = finding(cell("full"), {0: rounds}), finding(cell("b"), {0: rounds})
    apart = {0: [other.answers[0][0], other.answers[0][1]._replace(rows=np.array([7, 8]))]}
    assert paired(other, one) == Paired([0], 2, 5, Interval(0, 0, 0))
    assert paired(Finding(other.cell, {}, apart), one) is None


def test_rounds_count_alike_and_one_run_has_no_interval_over_runs():
    alone = accuracy(finding(cell("full"), {0: [np.ones(10)]}))
    assert (alone.repeated, alone.over_all, alone.over_runs) == ([1.0], (1, 1, 1), None)
    rounds = [np.ones(10), np.zeros(90)]
    drawn = accuracy(finding(cell("unseen"), {0: rounds}))
    assert (drawn.repeated, drawn.over_runs) == ([1.0, 0.0], (0.5, 0, 1))  # either round twice, or both
    both = accuracy(finding(cell("unseen"), {0: rounds, 4: [np.ones(10), np.ones(90)]}))
    assert both.repeated == [0.5, 1.0]
    assert both.over_runs == (0.75, 0, 1)


def test_draws_of_one_seed_tell_a_sign():
    lora = finding(cell("unseen", 62.4, None), {0: [np.arange(40) < right for right in (30, 20, 36, 28, 25)]})
    whole = finding(cell("whole", 37.7, "unseen"), {0: [np.arange(40) < right for right in (14, 12, 21, 9, 8)]})
    matrix = Matrix({one.cell.name: one.cell for one in (lora, whole)}, {}, {})
    compared = compare(whole, {"unseen": lora, "whole": whole}, matrix)
    by_hand = -np.mean([16, 8, 15, 19, 17]) / 40
    assert compared.difference.mean == pytest.approx(by_hand)
    assert (compared.seeds, compared.rounds, compared.verdict) == ([0], 5, "as in the paper")
    assert compared.difference.low < by_hand < compared.difference.high < 0


def test_clips_can_be_left_out(rng):
    right = rng.random(30) < 0.5
    kept = finding(cell("full"), {0: [right]}).without(np.array([3, 4, 29, 77]))
    assert len(kept.answers[0][0].rows) == 27
    assert accuracy(kept).over_all.mean == np.delete(right, [3, 4, 29]).mean()


@pytest.mark.parametrize(
    ("interval", "paper", "said"),
    [
        ((-0.02, -0.03, -0.01), -0.018, "as in the paper"),
        ((0.02, 0.01, 0.03), -0.018, "**against the paper**"),
        ((-0.02, -0.03, 0.01), -0.018, "not resolved, the paper's sign"),
        ((0.02, -0.03, 0.04), -0.018, "not resolved, **not the paper's sign**"),
        ((0.0, 0.0, 0.0), -0.018, "not resolved, no difference"),
        ((0.02, 0.01, 0.03), None, ""),
    ],
)
def test_a_sign_is_resolved_where_the_interval_leaves_nothing_out(interval, paper, said):
    assert Comparison("full", [0, 1, 2], 1, 40, Interval(*interval), paper).verdict == said
    unjudged = "" if paper is None else "not judged below 3 seeds or rounds"
    for seeds, rounds in (([0], 1), ([0, 1], 1), ([0], 2), ([0, 1], 2)):
        assert Comparison("full", seeds, rounds, 40, Interval(*interval), paper).verdict == unjudged


def test_an_ensemble_answers_with_the_largest_sum_of_scores(tmp_path, rng):
    labels = np.arange(24) % len(NAMES)
    streams = {name: rng.integers(0, len(NAMES), 24) for name in "abc"}
    runs = {}
    for name, answers in streams.items():
        write_answers(tmp_path / name, np.arange(24), labels, answers)
        write_facts(tmp_path / name, tmp_path, {})
        runs[name] = Run(tmp_path / name, ())
    a, b = (runs[name].folder for name in "ab")
    one = cell("streams", runs=dict.fromkeys("abc", ("x",)), answer="c", ensemble=("a", "b", "c"))
    found, problems = collect([Planned(one, 0, (runs,)), Planned(one, 1, ({**runs, "a": Run(tmp_path / "none", ())},))])
    assert (found["streams"].seeds, problems) == ([0], [])
    votes = np.sum([np.eye(len(NAMES))[answers] for answers in streams.values()], axis=0)
    agreed = votes.max(1) > 1
    assert agreed.sum() > 10
    np.testing.assert_array_equal(found["streams"].answers[0][0].answers[agreed], votes.argmax(1)[agreed])
    write_answers(tmp_path / "b", np.arange(1, 25), labels, streams["b"])
    found, problems = collect([Planned(one, 0, (runs,))])
    assert found == {}
    assert problems == [f"streams/seed0: {a} and {b} cannot be added: they hold other clips of the same split"]

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from skeleton_llm.geometry import logmap0, project
from skeleton_llm.losses import zipf_target
from skeleton_llm.metrics import (
    CodebookUsage,
    CodeClassCounts,
    LatentNorms,
    MeanClassAccuracy,
    NameAnswers,
    PairCorrelation,
    TokenLifetimes,
    entropy,
    mutual_information,
    normalise_name,
    usage_report,
)
from skeleton_llm.networks import Quantizer


def test_usage_of_uniform_single_and_zipf_tokens():
    report = usage_report(torch.full((64,), 5))
    assert (report.used, report.dead) == (64, 0)
    assert report.perplexity == pytest.approx(64)
    assert report.exponent == pytest.approx(0, abs=1e-9)
    single = torch.zeros(64)
    single[3] = 7
    assert usage_report(single)[:3] == (pytest.approx(1), 1, 63)
    assert math.isnan(usage_report(single).exponent)
    assert usage_report(zipf_target(512) * 1e9).perplexity == pytest.approx(206.7, abs=0.05)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_exponent_of_a_power_law_is_found(exponent):
    counts = torch.tensor(1e9 * np.arange(1, 201) ** -exponent)[torch.randperm(200)]
    assert usage_report(counts).exponent == pytest.approx(exponent, rel=1e-6)


@pytest.mark.parametrize(("codes", "shown"), [(512, 0.79), (1024, 0.82)])
def test_the_target_itself_has_the_exponent_that_the_readme_tells(codes, shown):
    rank = np.arange(1, codes + 1)
    slope, _ = np.polyfit(np.log(rank), -np.log(rank + 2.7), 1, w=rank**-0.5)  # numpy squares its weights
    assert -slope == pytest.approx(shown, abs=0.005)
    assert usage_report(zipf_target(codes) * 1e9).exponent == pytest.approx(-slope, rel=1e-5)


def test_usage_adds_up_over_batches():
    usage = CodebookUsage(8)
    indices = torch.randint(8, (5, 7))
    for row in indices:
        usage.update(row)
    assert usage.compute().equal(torch.bincount(indices.flatten(), minlength=8))


def test_free_answers():
    assert normalise_name(" Sit-Down!\n") == "sit down"
    metric = NameAnswers(["sit down", "stand up"])
    metric.update(["Sit down.", "stand  up", "fly"], torch.tensor([0, 0, 1]))
    result = metric.compute()
    assert result["exact_match"].item() == pytest.approx(1 / 3)
    assert result["invalid"].item() == pytest.approx(1 / 3)


def test_mean_class_accuracy_leaves_out_classes_that_do_not_occur():
    metric = MeanClassAccuracy(4)
    scores = torch.eye(4)[[0, 0, 1, 3, 1]]  # the last class is answered and never true
    metric.update(scores[:3], torch.tensor([0, 0, 0]))
    metric.update(scores[3:], torch.tensor([1, 1]))
    assert metric.compute() == pytest.approx((2 / 3 + 1 / 2) / 2)


def by_hand(table: np.ndarray) -> float:
    """Mutual information cell by cell, in float64."""
    joint, total = table / table.sum(), 0.0
    for row in range(joint.shape[0]):
        for column in range(joint.shape[1]):
            if joint[row, column] > 0:
                total += joint[row, column] * math.log(joint[row, column] / (joint[row].sum() * joint[:, column].sum()))
    return total


def test_mutual_information_of_random_sure_and_independent_tables(rng):
    for _ in range(5):
        table = rng.integers(0, 4, (5, 9)).astype(float)
        assert mutual_information(torch.from_numpy(table)) == pytest.approx(by_hand(table), rel=1e-12)
    assert mutual_information(torch.eye(8) * 3) == pytest.approx(math.log(8)) == entropy(torch.ones(8))
    assert mutual_information(torch.outer(torch.arange(1.0, 4), torch.arange(5.0))) == pytest.approx(0, abs=1e-7)
    assert mutual_information(torch.zeros(3, 4)) == entropy(torch.zeros(3)) == 0


def test_information_is_symmetric_and_at_most_either_entropy(rng):
    table = torch.from_numpy(rng.integers(0, 9, (4, 30)).astype(float))
    assert mutual_information(table) == pytest.approx(mutual_information(table.mT.contiguous()))
    assert mutual_information(table) <= min(entropy(table.sum(0)), entropy(table.sum(1)))


def sentences(rng, clips=40, length=12, codes=10):
    indices = torch.from_numpy(rng.integers(0, codes, (clips, length)))
    mask = torch.from_numpy(rng.random((clips, length)) < 0.7)
    mask[3] = False
    return indices, mask


def test_code_class_counts_leave_out_unknown_classes_and_masked_tokens(rng):
    indices, mask = sentences(rng)
    labels = torch.from_numpy(rng.integers(-1, 3, 40))
    metric, expected = CodeClassCounts(3, 10), np.zeros((3, 10))
    for part in range(0, 40, 16):
        metric.update(indices[part : part + 16], mask[part : part + 16], labels[part : part + 16])
    for clip in range(40):
        for place in range(12):
            if mask[clip, place] and labels[clip] >= 0:
                expected[labels[clip], indices[clip, place]] += 1
    np.testing.assert_array_equal(metric.compute().numpy(), expected)


def test_pair_correlation_is_numpys_and_nan_for_tokens_without_variation(rng):
    indices, mask = sentences(rng)
    pairs = torch.tensor([[0, 1], [2, 7], [3, 3], [4, 11]])
    metric = PairCorrelation(pairs, 12)
    for part in range(0, 40, 16):
        metric.update(indices[part : part + 16], mask[part : part + 16])
    metric.update(indices[:0], mask[:0])
    usage = np.stack(
        [
            np.bincount(row[there], minlength=12) / there.sum()
            for row, there in zip(indices.numpy(), mask.numpy(), strict=True)
            if there.any()
        ]
    )
    expected = [np.corrcoef(usage[:, a], usage[:, b])[0, 1] for a, b in pairs[:3].tolist()]
    np.testing.assert_allclose(metric.compute()[:3], expected, rtol=1e-9)
    assert metric.compute()[3].isnan()  # token 11 is never used


def test_latent_norms_are_those_of_a_histogram(rng):
    latents = torch.from_numpy(rng.normal(size=(6, 5, 4)).astype(np.float32))
    mask = torch.from_numpy(rng.random((6, 5)) < 0.6)
    norms = latents[mask].norm(dim=-1).double().numpy()
    metric = LatentNorms(curvature=4.0)
    metric.update(latents[:4], mask[:4])
    metric.update(latents[4:], mask[4:])
    report = metric.compute()
    assert report.number == len(norms) == sum(report.counts)
    assert (report.total, report.squares) == (pytest.approx(norms.sum()), pytest.approx((norms**2).sum()))
    assert report.saturation == pytest.approx((np.tanh(2 * norms) > 0.998).mean())
    np.testing.assert_array_equal(report.counts[1:], np.histogram(norms, report.limits)[0])


@pytest.mark.parametrize("curvature", [0.5, 1.0, 2.0])
def test_latents_clipped_to_the_balls_margin_are_saturated_and_normalised_ones_are_not(curvature):
    features, mask = torch.randn(4, 6, 64) * 10, torch.ones(4, 6, dtype=torch.bool)
    for latents, norm, share in (("clip", 3.8, 1.0), ("layer_norm", 1.0, 0.0), ("clip", 1.0, 0.0)):
        metric = LatentNorms(curvature)
        quantizer = Quantizer(8, 64, latents=latents, latent_norm=norm / curvature**0.5, curvature=curvature)
        metric.update(quantizer.normalise(features), mask)
        assert metric.compute().saturation == share
    metric = LatentNorms(curvature)
    metric.update(logmap0(project(features, curvature), curvature), mask)  # the paper's literal form
    assert metric.compute().saturation == 1


def test_latents_that_are_not_finite_count_as_saturated():
    metric = LatentNorms()
    metric.update(torch.full((1, 3, 4), torch.nan), torch.tensor([[True, True, False]]))
    assert metric.compute()[:1] + metric.compute()[3:4] == (2, 1)


def test_lifetimes_are_those_of_a_slow_diary(rng):
    lifetimes, patience = TokenLifetimes(6, patience=4), 4
    used_at: dict[int, list[int]] = {token: [] for token in range(6)}
    for step in range(1, 60):
        indices, mask = torch.from_numpy(rng.integers(0, 6, (1, 3))), torch.from_numpy(rng.random((1, 3)) < 0.3)
        lifetimes.update(indices, mask, step)
        for token in set(indices[mask].tolist()):
            used_at[token].append(step)
        for token, steps in used_at.items():
            assert lifetimes.idle(step)[token] == step - (steps[-1] if steps else 0)
            assert lifetimes.alive(step)[token] == bool(steps and step - steps[-1] <= patience)
            starts = [now for before, now in zip([-99, *steps], steps, strict=False) if now - before > patience]
            assert lifetimes.born[token] == (starts[-1] if starts else -1)
        spans = lifetimes.last_used - lifetimes.born
        assert lifetimes.lifetimes(step).equal(spans[lifetimes.alive(step)])


def test_lifetimes_never_look_at_values_while_training():
    lifetimes = TokenLifetimes(6).to("meta")  # has no values: whatever asks for one fails
    indices = torch.zeros(2, 3, dtype=torch.long, device="meta")
    lifetimes.update(indices, indices.bool(), 3)


_RANK = """
import sys, torch
from skeleton_llm.metrics import TokenLifetimes
rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
part = TokenLifetimes(5, patience=10)
part.born.copy_(torch.tensor([[5, 1, 40, -1, 20], [8, 45, -1, -1, 30]][rank]))
part.last_used.copy_(torch.tensor([[48, 2, 49, -1, 22], [50, 46, -1, -1, 31]][rank]))
part.agree(50)
assert part.last_used.tolist() == [50, 46, 49, -1, 31], part.last_used
assert part.born.tolist()[:4] == [5, 45, 40, -1], part.born
torch.distributed.destroy_process_group()  # else its threads may outlive the interpreter, which aborts
"""


def test_two_ranks_agree_on_lifetimes(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, "-c", _RANK, str(tmp_path / "store"), str(rank)], stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for rank in ranks:
        _, error = rank.communicate(timeout=120)
        assert rank.returncode == 0, error.decode()

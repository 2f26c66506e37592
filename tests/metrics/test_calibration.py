import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from skeleton_llm.metrics import ClipScores, expected_calibration_error, fit_temperature, reliability


def draw(clips=600, classes=7, spread=3.0, seed=0):
    """Scores and labels that follow softmax(scores / 2.5)."""
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(clips, classes, generator=generator, dtype=torch.float64)
    return scores, torch.multinomial((scores / 2.5).softmax(-1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_torchmetrics(bins):
    scores, labels = draw()
    probabilities = scores.softmax(-1)
    expected = MulticlassCalibrationError(7, n_bins=bins)(probabilities, labels)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected.item(), abs=1e-6)
    assert expected > 0.1


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.0, 1.0], [0.45, 0.55]])
    labels = torch.tensor([0, 1, 1, 0])
    bins = reliability(probabilities, labels, 4)  # edges 0.25, 0.5, 0.75
    assert bins.clips.tolist() == [0, 0, 1, 3]
    assert bins.accuracy.tolist() == pytest.approx([0, 0, 0, 2 / 3])
    assert bins.confidence.tolist() == pytest.approx([0, 0, 0.55, 0.9])
    assert bins.error() == pytest.approx((0.55 + 3 * (0.9 - 2 / 3)) / 4)
    assert expected_calibration_error(torch.eye(3), torch.arange(3)) == 0  # sure and right: the last bin holds 1
    assert expected_calibration_error(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_best_of_a_grid(seed):
    scores, labels = draw(80, seed=seed)
    grid = torch.logspace(-2, 2, 2001, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(scores / t, labels) for t in grid])
    fitted = fit_temperature(scores, labels)
    assert abs(math.log(fitted / grid[losses.argmin()].item())) <= math.log(10) * 4 / 2000
    assert F.cross_entropy(scores / fitted, labels) <= losses.min()


def test_the_temperature_that_made_the_labels_is_found_and_mends_the_calibration():
    scores, labels = draw(20_000)
    fitted = fit_temperature(scores.float(), labels)
    assert fitted == pytest.approx(2.5, rel=0.03)
    before, after = (expected_calibration_error((scores / t).softmax(-1), labels) for t in (1, fitted))
    assert before > 0.2
    assert after < 0.015
    assert fit_temperature(scores / fitted, labels) == pytest.approx(1, rel=1e-4)


def test_classes_out_of_the_question_change_nothing():
    scores, labels = draw()
    barred = torch.full((len(scores), 3), float("-inf"), dtype=torch.float64)
    wider = torch.cat([scores, barred], dim=1)
    assert fit_temperature(wider, labels) == pytest.approx(fit_temperature(scores, labels), rel=1e-9)
    probabilities = [(s / 1.7).softmax(-1) for s in (wider, scores)]
    assert expected_calibration_error(probabilities[0], labels) == pytest.approx(
        expected_calibration_error(probabilities[1], labels), abs=1e-12
    )


def test_clips_whose_label_is_out_of_the_question_or_without_numbers_do_not_count():
    scores, labels = draw()
    odd = scores[:3].clone()
    odd[0, labels[0]], odd[1, 0], odd[2] = float("-inf"), float("nan"), float("inf")
    mixed = fit_temperature(torch.cat([odd, scores]), torch.cat([labels[:3], labels]))
    assert mixed == pytest.approx(fit_temperature(scores, labels), rel=1e-9)


def test_without_a_mistake_the_scores_stay_and_hopeless_ones_are_flattened():
    scores, _ = draw()
    assert fit_temperature(scores, scores.argmax(-1)) == 1
    assert fit_temperature(scores[:0], torch.zeros(0, dtype=torch.long)) == 1
    assert fit_temperature(scores, scores.argmin(-1)) == pytest.approx(100)


def test_clips_come_back_in_their_order_whatever_the_batches():
    scores, labels = draw(9)
    metric, index = ClipScores(), torch.tensor([4, 17, 3, 5, 90, 1, 2, 30, 31])
    for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
        metric.update(scores[part], labels[part], index[part])
    order = index.argsort()
    for found, given in zip(metric.compute(), (scores, labels, index), strict=True):
        assert found.equal(given[order])

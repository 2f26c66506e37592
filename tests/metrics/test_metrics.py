import math

import numpy as np
import pytest
import torch

from skeleton_llm.losses import zipf_target
from skeleton_llm.metrics import CodebookUsage, MeanClassAccuracy, NameAnswers, normalise_name, usage_report


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

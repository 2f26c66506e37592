"""The bootstrap against enumeration, scipy and loops that draw indices."""

import itertools

import numpy as np
import pytest
from scipy import stats

from skeleton_llm.metrics import bootstrap_interval, bootstrap_means


def test_means_over_clips_have_the_distribution_of_all_resamples():
    values = np.array([[1.0, 0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0]])
    every = np.array([values[:, list(chosen)].mean() for chosen in itertools.product(range(5), repeat=5)])
    found = bootstrap_means([values], seeds=False, clips=True, draws=40_000)
    levels, counts = np.unique(every.round(9), return_counts=True)
    assert set(found.round(9)) <= set(levels)
    shares = [(np.abs(found - level) < 1e-6).mean() for level in levels]
    np.testing.assert_allclose(shares, counts / len(every), atol=0.01)


def test_means_over_seeds_have_the_distribution_of_all_resamples(rng):
    values = rng.integers(0, 2, (3, 40)).astype(float)
    every = [values[list(chosen)].mean() for chosen in itertools.product(range(3), repeat=3)]
    levels, counts = np.unique(np.round(every, 9), return_counts=True)
    found = bootstrap_means([values], seeds=True, clips=False, draws=40_000)
    shares = [(np.abs(found - level) < 1e-6).mean() for level in levels]
    np.testing.assert_allclose(shares, counts / len(every), atol=0.01)


def test_seeds_and_clips_together_are_a_loop_that_draws_both(rng):
    values = rng.integers(-1, 2, (4, 30)).astype(float) + rng.integers(0, 2, (4, 1))
    by_hand = []
    for _ in range(20_000):
        rows, columns = rng.integers(0, 4, 4), rng.integers(0, 30, 30)
        by_hand.append(values[np.ix_(rows, columns)].mean())
    found = bootstrap_means([values], seeds=True, clips=True, draws=20_000)
    quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
    np.testing.assert_allclose(np.quantile(found, quantiles), np.quantile(by_hand, quantiles), atol=0.02)
    assert found.std() == pytest.approx(np.std(by_hand), rel=0.03)


def test_one_seeds_interval_is_scipys(rng):
    right = (rng.random(464) < 0.8).astype(float)
    found = bootstrap_interval([right[None]], seeds=False, clips=True, draws=20_000)
    theirs = stats.bootstrap((right,), np.mean, n_resamples=20_000, method="percentile", rng=rng).confidence_interval
    assert found.mean == right.mean()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_a_paired_difference_is_surer_than_two_means_apart(rng):
    full = rng.random((3, 400)) < rng.random(400)  # clips differ in how hard they are
    other = np.where(rng.random((3, 400)) < 0.05, ~full, full)
    paired = bootstrap_interval([other.astype(float) - full], seeds=False, clips=True)
    theirs = stats.bootstrap(
        (other.mean(0), full.mean(0)),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True, n_resamples=10_000, method="percentile", vectorized=True, rng=rng,
    ).confidence_interval  # fmt: skip
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    apart = [bootstrap_interval([one.astype(float)], seeds=False, clips=True) for one in (full, other)]
    assert paired.high - paired.low < 0.7 * max(one.high - one.low for one in apart)


def test_groups_count_alike_whatever_their_size(rng):
    small, large = np.ones((2, 4)), np.zeros((2, 400))
    found = bootstrap_interval([small, large], seeds=True, clips=True)
    assert found == (0.5, 0.5, 0.5)
    mixed = (rng.random((2, 50)) < 0.5).astype(float)
    means = bootstrap_means([mixed, small], seeds=False, clips=True)
    alone = bootstrap_means([mixed], seeds=False, clips=True)
    assert means.std() == pytest.approx(alone.std() / 2, rel=0.03)


def test_whole_groups_are_a_loop_that_draws_groups_seeds_and_clips(rng):
    groups = [rng.integers(0, 2, (2, size)) * 0.5 + level for size, level in ((20, 0.0), (30, 0.4), (25, 1.0))]
    by_hand = []
    for _ in range(20_000):
        rows = rng.integers(0, 2, 2)
        means = [values[np.ix_(rows, rng.integers(0, values.shape[1], values.shape[1]))].mean() for values in groups]
        by_hand.append(np.mean([means[chosen] for chosen in rng.integers(0, 3, 3)]))
    found = bootstrap_means(groups, seeds=True, clips=True, whole_groups=True, draws=20_000)
    quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
    np.testing.assert_allclose(np.quantile(found, quantiles), np.quantile(by_hand, quantiles), atol=0.02)
    assert found.std() == pytest.approx(np.std(by_hand), rel=0.03)
    fixed = bootstrap_means(groups, seeds=True, clips=True, draws=20_000)
    assert fixed.std() < 0.4 * found.std()


def test_many_clips_are_drawn_in_parts_like_few(rng, monkeypatch):
    values = rng.normal(size=(1, 300))  # every clip has its own value
    whole = bootstrap_means([values], seeds=False, clips=True, draws=2000)
    monkeypatch.setattr("skeleton_llm.metrics.bootstrap._AT_ONCE", 1000)
    parts = bootstrap_means([values], seeds=False, clips=True, draws=2000)
    np.testing.assert_allclose(whole, parts)
    assert whole.std() == pytest.approx(values.std() / 300**0.5, rel=0.05)


def test_nothing_to_draw_from_is_told():
    for groups in ([], [np.zeros((0, 3))], [np.zeros((2, 0))]):
        with pytest.raises(ValueError, match="at least one seed and one clip in every group"):
            bootstrap_means(groups, seeds=True, clips=True)

import pytest
import torch

from skeleton_llm.losses import WordMMD, mmd, word_bandwidths


def naive(u, w, bandwidths):
    both = torch.cat([u, w]).double()
    squared = torch.cdist(both, both).square()
    kernel = sum((-squared / (2 * b.double())).exp() for b in bandwidths) / len(bandwidths)
    n = len(u)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def test_value_and_gradient_equal_the_naive_form():
    generator = torch.Generator().manual_seed(0)
    words, codes = torch.randn(300, 16, generator=generator), torch.randn(20, 16, generator=generator)
    widths = word_bandwidths(words)
    left, right = codes.clone().requires_grad_(), codes.clone().requires_grad_()
    value, truth = mmd(left, words, widths), naive(right, words, widths)
    assert value.item() == pytest.approx(truth.item(), rel=1e-4, abs=1e-6)
    value.backward()
    truth.backward()
    torch.testing.assert_close(left.grad, right.grad.float(), rtol=1e-4, atol=1e-7)


def test_same_sets_have_no_discrepancy_and_far_ones_have():
    words = torch.randn(100, 8)
    assert mmd(words, words).item() == pytest.approx(0, abs=1e-6)
    assert mmd(words + 5, words).item() > 0.5


def test_words_of_any_scale_give_the_same_value_and_samples_scatter_around_it():
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(500, 12, generator=generator) * 0.02 + 0.01
    codes = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator), dim=-1)
    exact = WordMMD(words)(codes)
    torch.testing.assert_close(WordMMD(words * 50)(codes), exact, rtol=1e-3, atol=1e-5)
    torch.manual_seed(0)
    sampled = WordMMD(words, rows=100)
    mean = torch.stack([sampled(codes) for _ in range(200)]).mean()
    assert mean.item() == pytest.approx(exact.item(), abs=5e-3)

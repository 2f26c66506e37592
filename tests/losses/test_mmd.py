import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skeleton_llm.losses import WordMMD, mmd, word_bandwidths


def naive(u, w, bandwidths):
    both = torch.cat([u, w]).double()
    squared = torch.cdist(both, both).square()
    kernel = sum((-squared / (2 * b)).exp() for b in bandwidths) / len(bandwidths)
    n = len(u)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


@pytest.mark.parametrize("rows", [300, 5000])  # less and more than a block
def test_value_and_gradient_equal_the_naive_form(rows):
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    codes = 0.7 * torch.randn(20, 16, generator=generator, dtype=torch.float64)
    widths = word_bandwidths(words)
    left, right = codes.clone().requires_grad_(), codes.clone().requires_grad_()
    truth = naive(right, words, widths)
    truth.backward()
    value = mmd(left, words, widths)
    value.backward()
    assert value.item() == pytest.approx(truth.item(), rel=1e-9)
    torch.testing.assert_close(left.grad, right.grad, rtol=1e-9, atol=1e-12)
    single = codes.float().requires_grad_()
    value = mmd(single, words.float(), widths)
    value.backward()
    assert value.item() == pytest.approx(truth.item(), rel=1e-5)
    assert ((single.grad - right.grad).norm() / right.grad.norm()).item() < 1e-5


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, found.numel() if isinstance(found, torch.Tensor) else 0)
        return found


def test_memory_does_not_grow_with_the_words_and_blocks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    words, codes = (torch.randn(rows, 4, generator=generator, dtype=torch.float64) for rows in (401, 70))
    whole = codes.clone().requires_grad_()
    WordMMD(words).double()(whole).backward()
    monkeypatch.setattr(sys.modules[WordMMD.__module__], "_BLOCK", 32)
    blocked = codes.clone().requires_grad_()
    module = WordMMD(words).double()
    with Largest() as largest:
        module(blocked).backward()
    assert largest.elements <= 401 * 4  # the table; all words against a block of 32 would be 8 times as much
    torch.testing.assert_close(blocked.grad, whole.grad, rtol=1e-10, atol=1e-14)


def test_codes_that_are_words_keep_their_digits_in_single_precision():
    words = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    codes, widths = words[:980], word_bandwidths(words)
    truth = naive(codes, words, widths).item()
    assert truth < 2e-5  # the difference of means near 0.5, of which float32 would keep two or three digits
    assert mmd(codes, words, widths).item() == pytest.approx(truth, rel=1e-5)


def test_bandwidths_that_do_not_double_are_refused():
    with pytest.raises(ValueError, match="must each be twice the one before"):
        mmd(torch.ones(2, 3), torch.ones(2, 3), (1.0, 3.0))


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
    values = torch.stack([sampled(codes) for _ in range(200)])
    # a sample's own words correlate with the fitted slope: a bias of order 1 / rows
    assert abs(values.mean() - exact) < 4 * values.std() / 200**0.5 + 0.05 * exact


def test_the_control_variate_makes_a_sample_as_good_as_a_larger_one():
    generator = torch.Generator().manual_seed(2)
    words = torch.randn(4000, 32, generator=generator) @ torch.diag(torch.linspace(0.2, 2, 32))
    codes = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=-1)

    def gradients(module: WordMMD, correct: bool) -> torch.Tensor:
        found = []
        for seed in range(60):
            torch.manual_seed(seed)
            given = codes.clone().requires_grad_()
            value = module(given)
            if not correct:
                torch.manual_seed(seed)
                sample = module.words[torch.randint(len(module.words), (module.rows,))]
                value = mmd(given, sample, module.bandwidths, torch.zeros((), dtype=torch.float64))
            found.append(torch.autograd.grad(value, given)[0])
        return torch.stack(found)

    given = codes.clone().requires_grad_()
    exact = torch.autograd.grad(WordMMD(words)(given), given)[0]
    module = WordMMD(words, rows=200)
    with_it, without = ((gradients(module, correct=c) - exact).square().mean() for c in (True, False))
    assert without / with_it > 2  # a variance halved is a sample doubled, for one more vector


def test_autocast_changes_nothing():
    generator = torch.Generator().manual_seed(4)
    words = torch.randn(300, 64, generator=generator)
    codes = torch.nn.functional.normalize(torch.randn(10, 64, generator=generator), dim=-1)
    plain = WordMMD(words)(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert WordMMD(words)(codes).equal(plain)


def test_a_validation_may_be_the_first_to_ask():
    module, codes = WordMMD(torch.randn(50, 8), rows=20).double(), torch.randn(4, 8, dtype=torch.float64)
    with torch.inference_mode():
        value = module.eval()(codes)
    given = codes.clone().requires_grad_()
    module.train()(given).backward()
    assert given.grad.isfinite().all()
    assert value.dtype == torch.float64


def test_ball_coordinates_compare_ball_points():
    generator = torch.Generator().manual_seed(3)
    words = torch.randn(200, 8, generator=generator)
    codes = torch.nn.functional.normalize(torch.randn(10, 8, generator=generator), dim=-1)
    module = WordMMD(words, coordinates="ball", curvature=0.5)
    table = (words - words.mean(0)) / (words - words.mean(0)).square().sum(-1).mean().sqrt()
    ball = [torch.tanh(0.5**0.5 * x.norm(dim=-1, keepdim=True)) / 0.5**0.5 * x / x.norm(dim=-1, keepdim=True)
            for x in (codes, table)]  # fmt: skip
    assert module(codes).item() == pytest.approx(naive(ball[0], ball[1], module.bandwidths).item(), rel=1e-4)

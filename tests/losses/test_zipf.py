import math

import pytest
import torch

from skeleton_llm.losses import js_divergence, zipf_loss, zipf_target


def test_target_has_the_papers_constants():
    target = zipf_target(512)
    expected = torch.tensor([0.0532, 0.0419, 0.0346, 0.0294, 0.0256])
    torch.testing.assert_close(target[:5], expected, atol=5e-5, rtol=0)
    assert target[-1].item() == pytest.approx(3.827e-4, rel=1e-3)
    assert (-(target * target.log()).sum()).exp().item() == pytest.approx(206.7, abs=0.05)


def test_divergence_of_uniform_and_collapsed_usage():
    target = zipf_target(512)
    collapsed = torch.zeros(512)
    collapsed[77] = 9.0
    assert zipf_loss(torch.ones(512), target).item() == pytest.approx(0.1675, abs=1e-4)
    assert zipf_loss(collapsed, target).item() == pytest.approx(0.5878, abs=1e-4)


def test_divergence_is_zero_at_the_target_in_any_order_and_ln2_apart():
    target = zipf_target(64)
    assert zipf_loss(target[torch.randperm(64)] * 1000, target).item() == pytest.approx(0, abs=1e-6)
    p, q = torch.zeros(4), torch.zeros(4)
    p[0] = q[1] = 1
    assert js_divergence(p, q).item() == pytest.approx(math.log(2), abs=1e-5)


def test_gradient_is_finite_at_unused_tokens_and_lifts_them():
    counts = torch.zeros(32)
    counts[:3] = 5
    counts.requires_grad_()
    zipf_loss(counts, zipf_target(32)).backward()
    assert counts.grad.isfinite().all()
    assert (counts.grad[3:] < 0).all()


def token_by_token(counts, target):
    """Jensen-Shannon divergence (Eq. 4), the token of each rank looked up by hand; all tokens are used."""
    total = 0.0
    for token, aimed in zip(sorted(range(len(counts)), key=lambda k: -counts[k].item()), target, strict=True):
        share = counts[token] / counts.sum()
        middle = (share + aimed) / 2
        total = total + (share * (share / middle).log() + aimed * (aimed / middle).log()) / 2
    return total


def test_value_and_gradient_equal_the_naive_form():
    counts = 20 * torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    counts.requires_grad_()
    target = zipf_target(24, 1.2, 0.5).double()
    ours, theirs = zipf_loss(counts, target), token_by_token(counts, target)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, counts)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)
    assert torch.autograd.gradcheck(lambda usage: zipf_loss(usage, target), (counts,))

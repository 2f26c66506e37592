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

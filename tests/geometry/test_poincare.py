import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skeleton_llm.geometry import dist, expmap0, logmap0, nearest, pairwise_dist, tangent_dist

CURVATURES = pytest.mark.parametrize("c", [0.3, 1.0, 2.5])


def vectors(count: int, dim: int, norm: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return norm * x / x.norm(dim=-1, keepdim=True)


@CURVATURES
def test_maps_and_distance_agree_with_geoopt(c):
    ball = geoopt.PoincareBall(c=c)
    v, w = vectors(20, 8, 1.1, 0), vectors(20, 8, 0.6, 1)
    torch.testing.assert_close(expmap0(v, c), ball.expmap0(v), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(logmap0(expmap0(v, c), c), v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        dist(expmap0(v, c), expmap0(w, c), c), ball.dist(ball.expmap0(v), ball.expmap0(w)), rtol=1e-6, atol=1e-6
    )


@CURVATURES
def test_tangent_forms_equal_the_distance_of_ball_points(c):
    z, e = vectors(15, 6, 0.9, 2), vectors(7, 6, 1.3, 3)
    truth = dist(expmap0(z, c)[:, None], expmap0(e, c)[None], c)
    torch.testing.assert_close(pairwise_dist(z, e, c), truth, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tangent_dist(z[:7], e, c), truth[:7].diagonal(), rtol=1e-7, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(r=st.floats(0.01, 8.0), s=st.floats(0.01, 8.0), seed=st.integers(0, 10_000), c=st.floats(0.2, 1.0))
def test_nearest_token_equals_brute_force(r, s, seed, c):
    z, e = vectors(16, 24, r, seed), vectors(32, 24, s, seed + 1)
    e = e * torch.linspace(0.95, 1.05, 32, dtype=torch.float64)[:, None]
    brute = torch.stack([tangent_dist(z, token.expand_as(z), c) for token in e], dim=1)
    assert nearest(z, e, c).equal(brute.argmin(1))
    found = brute.gather(1, nearest(z.float(), e.float(), c)[:, None])[:, 0]
    torch.testing.assert_close(found, brute.min(1).values, rtol=1e-5, atol=1e-5)  # float32 may swap equals


@pytest.mark.parametrize("norm", [1e-8, 1e-3, 1.0, 8.0])
def test_gradients_are_finite_also_at_distance_0_and_at_ties(norm):
    z = vectors(4, 5, norm, 0).float().requires_grad_()
    e = torch.cat([z.detach(), z.detach()[:1], torch.zeros(1, 5)]).requires_grad_()
    (pairwise_dist(z, e).sum() + tangent_dist(z, e[:4]).sum()).backward()
    assert z.grad.isfinite().all()
    assert e.grad.isfinite().all()


def test_gradcheck():
    z, e = vectors(3, 4, 0.8, 5).requires_grad_(), vectors(2, 4, 1.1, 6).requires_grad_()
    assert torch.autograd.gradcheck(pairwise_dist, (z, e))

import geoopt
import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skeleton_llm.geometry import dist, expmap0, logmap0, nearest, pairwise_dist, project, tangent_dist

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
def test_projection_agrees_with_geoopt_and_keeps_what_is_inside(c):
    points = torch.cat([vectors(10, 8, 0.3 / c**0.5, 4), vectors(10, 8, 1.7 / c**0.5, 5)])
    theirs = geoopt.manifolds.stereographic.math.project(points, k=torch.tensor(-c, dtype=torch.float64), eps=1e-3)
    torch.testing.assert_close(project(points, c), theirs, rtol=1e-9, atol=1e-9)
    assert project(points, c)[:10].equal(points[:10])
    assert (project(points, c).norm(dim=-1) * c**0.5).max().item() == pytest.approx(0.999, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_and_returned_in_single(dtype):
    tangents = torch.cat([vectors(5, 8, 5.7, 0), vectors(5, 8, 1e-4, 1), torch.zeros(1, 8).double()]).to(dtype)
    points = expmap0(tangents / 4).to(dtype)
    for function, half in ((expmap0, tangents), (logmap0, points), (project, 2 * points)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = function(half)
        assert found.dtype == torch.float32
        assert found.equal(function(half.float()))
    assert dist(points, points.flip(0)).equal(dist(points.float(), points.flip(0).float()))
    assert expmap0(tangents)[:5].norm(dim=-1).max() < 1


def exact_dist(z, e, c: float) -> float:
    """60 digits, by the textbook's formula on ball points."""
    with mpmath.workdps(60):
        root = mpmath.sqrt(c)
        ball = []
        for given in (z, e):
            x = [mpmath.mpf(float(value)) for value in given]
            norm = mpmath.sqrt(sum(value**2 for value in x))
            ball.append([mpmath.tanh(root * norm) / (root * norm) * value for value in x])
        gap = sum((a - b) ** 2 for a, b in zip(*ball, strict=True))
        room = [1 - c * sum(value**2 for value in x) for x in ball]
        return float(mpmath.acosh(1 + 2 * c * gap / (room[0] * room[1])) / root)


@CURVATURES
@pytest.mark.parametrize("norm", [0.01, 1.0, 4.0, 8.0])
def test_distances_hold_where_ball_points_saturate(norm, c):
    z, e = vectors(3, 6, norm, 7), vectors(4, 6, 0.9 * norm, 8)
    truth = torch.tensor([[exact_dist(a, b, c) for b in e] for a in z], dtype=torch.float64)
    torch.testing.assert_close(pairwise_dist(z, e, c), truth, rtol=1e-9, atol=0)
    torch.testing.assert_close(tangent_dist(z, e[:3], c), truth[:, :3].diagonal(), rtol=1e-9, atol=0)
    single = [[exact_dist(a, b, c) for b in e.float()] for a in z.float()]
    torch.testing.assert_close(
        pairwise_dist(z.float(), e.float(), c).double(), torch.tensor(single, dtype=torch.float64), rtol=2e-5, atol=0
    )


@CURVATURES
def test_tangent_forms_equal_the_distance_of_ball_points(c):
    z, e = vectors(15, 6, 0.9, 2), vectors(7, 6, 1.3, 3)
    truth = dist(expmap0(z, c)[:, None], expmap0(e, c)[None], c)
    torch.testing.assert_close(pairwise_dist(z, e, c), truth, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tangent_dist(z[:7], e, c), truth[:7].diagonal(), rtol=1e-7, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(r=st.floats(0.01, 8.0), s=st.floats(0.01, 8.0), seed=st.integers(0, 10_000), c=st.floats(0.1, 2.5))
def test_nearest_token_equals_brute_force(r, s, seed, c):
    z, e = vectors(16, 24, r, seed), vectors(32, 24, s, seed + 1)
    e = e * torch.linspace(0.95, 1.05, 32, dtype=torch.float64)[:, None]
    brute = torch.stack([tangent_dist(z, token.expand_as(z), c) for token in e], dim=1)
    assert nearest(z, e, c).equal(brute.argmin(1))
    found = brute.gather(1, nearest(z.float(), e.float(), c)[:, None])[:, 0]
    torch.testing.assert_close(found, brute.min(1).values, rtol=1e-5, atol=1e-5)  # float32 may swap equals


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.5])
def test_short_vectors_find_their_nearest_token_in_single_precision(spread):
    z, e = vectors(3000, 128, 0.01, 0).float(), vectors(256, 128, 0.01, 1).float()
    e = e * torch.linspace(1 - spread, 1 + spread, 256)[:, None]
    brute = pairwise_dist(z.double(), e.double())
    chosen = brute.gather(1, nearest(z, e)[:, None])[:, 0]
    torch.testing.assert_close(chosen, brute.min(1).values, rtol=1e-6, atol=0)  # the same token, or a tie


@pytest.mark.parametrize("norm", [1e-8, 1e-3, 1.0, 8.0])
def test_gradients_are_finite_also_at_distance_0_and_at_ties(norm):
    z = vectors(4, 5, norm, 0).float().requires_grad_()
    e = torch.cat([z.detach(), z.detach()[:1], torch.zeros(1, 5)]).requires_grad_()
    ball = dist(expmap0(z), expmap0(e[:4])).sum()
    (pairwise_dist(z, e).sum() + tangent_dist(z, e[:4]).sum() + ball).backward()
    assert z.grad.isfinite().all()
    assert e.grad.isfinite().all()


@CURVATURES
def test_gradcheck(c):
    z, e = vectors(3, 4, 0.8, 5).requires_grad_(), vectors(2, 4, 1.1, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: pairwise_dist(a, b, c), (z, e))
    assert torch.autograd.gradcheck(lambda a, b: tangent_dist(a, b, c), (z[:2], e))
    assert torch.autograd.gradcheck(lambda a: expmap0(a, c), (z,))
    assert torch.autograd.gradcheck(lambda a: logmap0(expmap0(a, c), c), (z,))
    inside, outside = (x / c**0.5 for x in (vectors(2, 4, 0.7, 7), vectors(2, 4, 1.5, 8)))
    points = torch.cat([inside, outside]).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: project(a, c), (points,))
    x, y = inside.requires_grad_(), (0.3 * outside).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dist(a, b, c), (x, y))

import pytest
import torch

from skeleton_llm.networks import Quantizer


def sharp(**options) -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(32, 16, **options)


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_forward_and_search_agree_with_brute_force(geometry):
    quantizer = sharp(geometry=geometry, noise=False)
    features = torch.randn(5, 6, 16) * 30
    out = quantizer(features)
    codebook = quantizer.codebook().double()
    latents = quantizer.normalise(features).double()
    torch.testing.assert_close(latents.norm(dim=-1), torch.ones(5, 6, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    if geometry == "euclidean":
        distance = torch.cdist(latents, codebook.expand(5, -1, -1))
    else:  # the ball's own formula on ball points
        ball = [
            torch.tanh(x.norm(dim=-1, keepdim=True)) * x / x.norm(dim=-1, keepdim=True) for x in (latents, codebook)
        ]
        gap = (ball[0][:, :, None] - ball[1]).square().sum(-1)
        room = (1 - ball[0].square().sum(-1))[..., None] * (1 - ball[1].square().sum(-1))
        distance = torch.acosh(1 + 2 * gap / room)
    assert out.indices.equal(distance.argmin(-1))
    assert quantizer.search(quantizer.normalise(features)).equal(out.indices)
    torch.testing.assert_close(out.tokens, quantizer.codebook()[out.indices])


def test_counts_are_whole_sum_to_the_length_and_carry_gradient_to_latents_and_tokens():
    quantizer = sharp()
    features = torch.randn(4, 8, 16, requires_grad=True)
    out = quantizer(features)
    assert out.counts.equal(out.counts.round())
    torch.testing.assert_close(out.counts.sum(-1), torch.full((4,), 8.0))
    out.counts[:, 3].sum().backward()
    assert features.grad.abs().sum() > 0
    assert quantizer.direction.grad.abs().sum() > 0


def test_drawn_usage_agrees_with_the_nearest_token_at_any_scale_of_distances():
    for curvature in (0.1, 1.0):
        quantizer = sharp(curvature=curvature)
        for _ in range(400):  # the running gap settles
            out = quantizer(torch.randn(4, 16, 16))
            quantizer.follow(out.gap)
        assert out.agreement > 0.8


def test_token_norms_stay_within_their_bounds_whatever_is_learned():
    quantizer = sharp(token_norms=(0.5, 1.5))
    with torch.no_grad():
        quantizer.norm_logit.copy_(torch.linspace(-100, 100, 32))
        quantizer.direction.mul_(1e3)
    norms = quantizer.codebook().norm(dim=-1)
    assert norms.min().item() == pytest.approx(0.5, abs=1e-4)
    assert norms.max().item() == pytest.approx(1.5, abs=1e-4)


def test_initialisation_finds_separate_clusters_and_is_the_same_everywhere():
    centres = torch.nn.functional.normalize(torch.randn(32, 16), dim=-1)
    latents = torch.nn.functional.normalize(centres.repeat(20, 1) + 0.01 * torch.randn(640, 16), dim=-1)
    first, second = sharp(), sharp()
    first.initialise(latents)
    torch.rand(7)  # the global generator stands elsewhere
    second.initialise(latents)
    assert first.direction.equal(second.direction)
    assert first.initialised
    assert (
        len(first.search(latents).unique()) > 22
    )  # k-means from samples loses some clusters, random tokens nearly all


def test_everything_stays_float32_under_autocast():
    quantizer = sharp()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(torch.randn(2, 3, 16).bfloat16())
    assert {out.latents.dtype, out.tokens.dtype, out.counts.dtype} == {torch.float32}


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="token_norms must be two rising bounds"):
        Quantizer(4, 4, token_norms=(1.0, 0.5))
    with pytest.raises(ValueError, match="curvature must be positive"):
        Quantizer(4, 4, curvature=-1.0)

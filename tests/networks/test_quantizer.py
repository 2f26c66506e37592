import pytest
import torch

from skeleton_llm.networks import Quantizer
from skeleton_llm.networks.usage import token_counts


def sharp(**options) -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(32, 16, **options)


@pytest.mark.parametrize("token_norms", [(0.97, 1.03), (0.5, 1.5)])
@pytest.mark.parametrize("curvature", [0.0, 0.3, 1.0, 2.5])  # 0 is flat
def test_forward_and_search_agree_with_brute_force(curvature, token_norms):
    geometry = {"geometry": "hyperbolic", "curvature": curvature} if curvature else {"geometry": "euclidean"}
    quantizer = sharp(**geometry, token_norms=token_norms, noise=False)
    quantizer.norm_logit.data.normal_(0, 2)
    features = torch.randn(25, 6, 16) * 30
    out = quantizer(features)
    codebook = quantizer.codebook().double()
    latents = quantizer.normalise(features).double()
    torch.testing.assert_close(latents.norm(dim=-1), torch.ones(25, 6, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    if curvature == 0:
        distance = torch.cdist(latents, codebook.expand(25, -1, -1))
    else:  # the ball's own formula on ball points
        root = curvature**0.5
        ball = [
            torch.tanh(root * x.norm(dim=-1, keepdim=True)) * x / (root * x.norm(dim=-1, keepdim=True))
            for x in (latents, codebook)
        ]
        gap = (ball[0][:, :, None] - ball[1]).square().sum(-1)
        room = (1 - curvature * ball[0].square().sum(-1))[..., None] * (1 - curvature * ball[1].square().sum(-1))
        distance = torch.acosh(1 + 2 * curvature * gap / room) / root
    two = distance.topk(2, dim=-1, largest=False).values
    torch.testing.assert_close(out.gap.double(), two[..., 1] - two[..., 0], rtol=1e-3, atol=1e-5)
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
            quantizer.follow(out.gap.mean())
        assert out.agreement.float().mean() > 0.8


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


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_autocast_changes_nothing(geometry):
    features = torch.randn(40, 25, 16)
    found = []
    for lowered in (False, True):
        quantizer = sharp(geometry=geometry, noise=False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lowered):
            latents = quantizer.normalise(features)
            quantizer.initialise(latents.flatten(0, 1))
            distances = quantizer.distances(latents[0], quantizer.codebook())
            found.append([quantizer.direction, distances, quantizer.search(latents), *quantizer(features)])
    for plain, other in zip(*found, strict=True):
        assert other.dtype == plain.dtype
        assert other.equal(plain)


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_features_of_half_precision_are_quantised_in_single(geometry):
    quantizer, half = sharp(geometry=geometry, noise=False), torch.randn(4, 25, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(half)
    for plain, lowered in zip(quantizer(half.float()), out, strict=True):
        assert lowered.dtype == plain.dtype
        assert lowered.equal(plain)
    assert quantizer.search(half).equal(quantizer.search(half.float()))


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="token_norms must be two rising bounds"):
        Quantizer(4, 4, token_norms=(1.0, 0.5))
    with pytest.raises(ValueError, match="must not exceed 20, where float32 overflows"):
        Quantizer(4, 4, latent_norm=30.0)
    with pytest.raises(ValueError, match="curvature must be positive"):
        Quantizer(4, 4, curvature=-1.0)
    with pytest.raises(ValueError, match=r"scale must be positive \(null takes it from sharpness\), got 0"):
        Quantizer(4, 4, scale=0.0)
    with pytest.raises(ValueError, match="latent_norm must be positive, got -1"):
        Quantizer(4, 4, latent_norm=-1.0)


@pytest.mark.parametrize("noisy", [True, False])
def test_counts_and_their_gradient_equal_the_straight_through_gumbel_softmax(noisy):
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(3, 5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    noise = -(-torch.rand(15, 7, generator=generator, dtype=torch.float64).log()).log() if noisy else None
    mask = torch.rand(3, 5, generator=generator) > 0.3
    scale, weights = torch.tensor(4.0, dtype=torch.float64), torch.randn(3, 7, generator=generator).double()
    counts, chosen = token_counts(distances, distances.argmin(-1), scale, 0.5, noise, mask)
    logits = -distances * scale + (0 if noise is None else noise.view(3, 5, 7))
    soft = (logits / 0.5).softmax(-1)
    hard = torch.nn.functional.one_hot(logits.argmax(-1), 7).double()
    truth = ((hard + soft - soft.detach()) * mask[..., None]).sum(1)
    torch.testing.assert_close(counts, truth, rtol=1e-12, atol=1e-12)
    assert chosen.equal(logits.argmax(-1))
    ours, theirs = (torch.autograd.grad((value * weights).sum(), distances)[0] for value in (counts, truth))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_each_form_of_latents_has_its_norm():
    features = torch.randn(50, 16) * torch.logspace(-2, 2, 50)[:, None]
    for latents in ("layer_norm", "unit"):
        norms = sharp(latents=latents, latent_norm=1.2).normalise(features[20:]).norm(dim=-1)
        torch.testing.assert_close(norms, torch.full((30,), 1.2), rtol=1e-3, atol=0)
    clipped = sharp(latents="clip", latent_norm=3.8).normalise(features)
    short = features.norm(dim=-1) < 3.8
    assert short.any()
    torch.testing.assert_close(clipped[short], features[short])
    torch.testing.assert_close(clipped[~short].norm(dim=-1), torch.full(((~short).sum(),), 3.8))


def test_a_fixed_scale_stands_in_the_place_of_the_running_gap():
    drawn = []
    for scale in (1e-3, 1e3):
        quantizer = sharp(scale=scale)
        quantizer.follow(torch.tensor(100.0))  # without effect
        drawn.append(quantizer(torch.randn(8, 32, 16)).agreement.float().mean().item())
    assert drawn[0] < 0.2
    assert drawn[1] > 0.99


def test_masked_latents_count_for_nothing():
    quantizer = sharp()
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, :4] = True
    mask[1] = True
    out = quantizer(torch.randn(3, 6, 16, requires_grad=True), mask)
    assert out.counts.sum(-1).tolist() == [4, 6, 0]


def test_moving_averages_follow_their_latents_and_nothing_else_moves_them():
    quantizer = sharp(codebook="ema", ema_decay=0.5)
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())
    before = quantizer.direction.clone()
    latents = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    sums, sizes = torch.zeros(32, 16), torch.zeros(32)
    sums[4], sizes[4] = latents.sum(0), 3
    quantizer.average(sums, sizes)
    # T2M-GPT: size <- 0.5 size + 0.5 n, sum <- 0.5 sum + 0.5 sum_n, token = sum / size
    torch.testing.assert_close(quantizer.direction[4], (0.5 * before[4] + 0.5 * sums[4]) / (0.5 + 1.5))
    torch.testing.assert_close(quantizer.direction[5], before[5])
    for _ in range(60):
        quantizer.average(sums, sizes)
    torch.testing.assert_close(quantizer.direction[4], latents.mean(0))
    assert quantizer.direction.isfinite().all()
    norms = quantizer.codebook().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(32))


def test_revival_moves_tokens_that_were_hardly_used_and_starts_counting_anew():
    quantizer = sharp()
    quantizer.recent.copy_(torch.arange(32.0))
    before = quantizer.direction.detach().clone()
    onto = torch.randn(5, 16)
    onto[1] = 0  # padding
    quantizer.revive(onto, least=3.0)
    assert quantizer.direction[[0, 2]].equal(onto[[0, 2]])
    assert quantizer.direction[[1, *range(3, 32)]].equal(before[[1, *range(3, 32)]])
    assert not quantizer.recent.any()
    norms = quantizer.codebook().norm(dim=-1)
    assert norms.min() > 0.96
    quantizer.revive(torch.randn(5, 16), least=1.0)  # all are dead, five have somewhere to go
    assert (quantizer.direction != before).any(-1).sum() == 5  # tokens 0 to 4


def test_what_is_not_finite_leaves_no_trace():
    quantizer = sharp(codebook="ema")
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer.follow(torch.tensor(float("nan")))
    quantizer.average(torch.full((32, 16), float("nan")), torch.ones(32))
    assert quantizer.gap.equal(before["gap"])
    torch.testing.assert_close(quantizer.direction, before["direction"])


def test_the_pairing_is_random_and_kept_with_the_weights():
    one, two = sharp(), Quantizer(32, 16)
    assert one.pairs.flatten().sort().values.equal(torch.arange(32))
    assert not one.pairs.equal(two.pairs)
    assert not one.ready
    one.initialise(torch.randn(64, 16))
    two.load_state_dict(one.state_dict())
    assert two.pairs.equal(one.pairs)
    assert two.ready


def test_the_first_place_is_a_sample_or_random_if_asked():
    latents = torch.nn.functional.normalize(torch.randn(100, 16), dim=-1)
    quantizer = sharp()
    quantizer.initialise(latents, "sample")
    assert (torch.cdist(quantizer.direction, latents).min(-1).values < 2e-3).all()
    quantizer = sharp()
    before = quantizer.direction.detach().clone()
    quantizer.initialise(latents, "random")
    assert quantizer.direction.equal(before)
    assert quantizer.ready

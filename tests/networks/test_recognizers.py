import math

import pytest
import torch
from torch.nn import functional as F

from skeleton_llm.networks import (
    CTRGCN,
    STGCN,
    ConvolutionConfig,
    CTRGCNConfig,
    NearestNeighbour,
    Seen,
    STGCNConfig,
    TemporalClassifier,
    TransformerClassifier,
    TransformerConfig,
)
from skeleton_llm.networks.transformer import sinusoids


def transformer(**changes) -> TransformerClassifier:
    torch.manual_seed(0)
    options = {"width": 16, "depth": 2, "heads": 4, "dropout": 0.0, "per_step": 1, **changes}
    return TransformerClassifier(6, 3, **options).double().eval()


def test_places_are_vaswanis_sinusoids():
    found = sinusoids(50, 8)
    for step in (0, 1, 49):
        for i in range(4):
            angle = step / 10_000 ** (2 * i / 8)
            assert found[step, i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[step, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("per_step", [1, 4])
def test_padding_changes_nothing_and_order_does(per_step):
    network = transformer(per_step=per_step)
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    expected = network(x)
    padded = torch.cat([x, 100 * torch.randn(2, 8, 6, dtype=torch.float64)], dim=1)
    mask = (torch.arange(20) < 12).expand(2, -1)
    torch.testing.assert_close(network(padded, mask), expected)
    gone = mask & torch.tensor([[True], [False]])
    found = network(padded, gone)
    torch.testing.assert_close(found[:1], expected[:1])
    assert found.isfinite().all()  # a clip of which nothing counts too
    assert (network(x.flip(1)) - expected).abs().max() > 1e-3


def test_tokens_of_one_step_share_its_time_and_differ_in_their_place():
    network = transformer(per_step=4)
    seen = []
    network.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(torch.zeros(1, 12, 6, dtype=torch.float64))
    places = seen[0][0] - network.enter.bias
    for token in range(12):
        expected = sinusoids(3, 16)[token // 4].double() + network.place[token % 4]
        torch.testing.assert_close(places[token], expected)


def test_layers_do_not_begin_alike():
    one, two = (layer.linear1.weight for layer in transformer().layers)
    assert not one.equal(two)


def test_a_width_that_does_not_part_into_heads_is_refused():
    with pytest.raises(ValueError, match=r"network\.width must be even and a multiple of network\.heads \(3\), got 16"):
        transformer(heads=3)


def test_a_transformer_learns_an_order():
    torch.manual_seed(0)
    rising = torch.linspace(-1, 1, 8)[None, :, None] + 0.3 * torch.randn(32, 8, 6)
    labels = torch.arange(32) % 2
    x = torch.where(labels[:, None, None] == 1, rising, rising.flip(1))
    network = transformer().float().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    assert (network(x).argmax(-1) == labels).all()


def test_the_nearest_clip_is_that_of_plain_loops(rng):
    known, labels = torch.from_numpy(rng.normal(size=(40, 5, 3))), torch.from_numpy(rng.integers(0, 4, 40))
    network = NearestNeighbour(5).double()  # nobody knows a clip of the last class
    network.remember(known, labels)
    asked = torch.from_numpy(rng.normal(size=(7, 5, 3)))
    scores = network(asked)
    for clip, row in zip(asked, scores, strict=True):
        apart = [(one - clip).square().mean().sqrt().item() for one in known]
        nearest = min(range(40), key=apart.__getitem__)
        assert row.argmax() == labels[nearest]
        for label in range(4):
            of_class = min(a for a, one in zip(apart, labels.tolist(), strict=True) if one == label)
            assert -row[label].item() == pytest.approx(of_class)
    assert (scores[:, 4] == -torch.inf).all()
    assert network(known).argmax(-1).equal(labels)
    assert not network.state_dict()


SKELETONS, TOKENS = Seen("kinect20", 60, None), Seen("kinect20", 128, 4)


def test_configs_build_what_they_say():
    convolution = ConvolutionConfig(width=24, depth=1, dropout=0.3).build(SKELETONS, 7)
    assert isinstance(convolution, TemporalClassifier)
    assert convolution(torch.randn(2, 16, 60)).shape == (2, 7)
    assert convolution.encoder(torch.randn(2, 16, 60)).shape == (2, 4, 24)  # frames are merged by four
    assert ConvolutionConfig(width=24).build(TOKENS, 7).encoder(torch.randn(2, 16, 128)).shape == (2, 16, 24)
    assert convolution.head[0].p == 0.3
    built = TransformerConfig(width=24, depth=3, heads=2, dropout=0.1).build(TOKENS, 7)
    assert isinstance(built, TransformerClassifier)
    assert (len(built.layers), built.width, len(built.place)) == (3, 24, 4)
    assert (built.layers[0].self_attn.num_heads, built.layers[0].dropout.p, built.head[1].p) == (2, 0.1, 0.1)
    assert len(TransformerConfig().build(SKELETONS, 7).place) == 1
    spatial = STGCNConfig(width=12, kernel=5, dropout=0.4).build(Seen("ntu25", 6, None), 7)
    assert isinstance(spatial, STGCN)
    assert (spatial.blocks[0].time.conv.kernel_size, spatial.blocks[9].dropout.p) == ((5, 1), 0.4)
    assert (spatial.blocks[0].values.in_channels, spatial.head[1].in_features) == (6, 48)
    refined = CTRGCNConfig(width=12, dropout=0.2).build(Seen("ntu25", 9, None), 7)
    assert isinstance(refined, CTRGCN)
    assert (refined.blocks[0].joints.values.in_channels, refined.head[1].in_features, refined.head[0].p) == (9, 48, 0.2)


def test_configs_refuse_what_builds_nothing():
    with pytest.raises(ValueError, match=r"network\.kernel must be odd, got 4"):
        STGCNConfig(kernel=4)
    with pytest.raises(ValueError, match=r"network\.width must be a multiple of 4, got 6"):
        CTRGCNConfig(width=6)

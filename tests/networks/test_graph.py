import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skeleton_llm.networks import CTRGCN, STGCN, JointStreams
from skeleton_llm.networks.ctr_gcn import MultiScaleTime, TopologyRefinement
from skeleton_llm.networks.graph import ConvNorm, GraphNetwork, adjacency
from skeleton_llm.networks.st_gcn import STGCNBlock
from skeleton_llm.skeletons import layouts
from skeleton_llm.skeletons.layouts import LAYOUTS, Layout, find_layout

NAMES = ("ntu25", "kinect20", "coco17")


def build(kind: type, layout: str = "kinect20", *, classes: int = 6, width: int = 8, seed: int = 0) -> GraphNetwork:
    torch.manual_seed(seed)
    options = {"kernel": 9} if kind is STGCN else {}
    return kind(layout, 3, classes, width=width, dropout=0.0, **options)


def stirred(network: GraphNetwork) -> GraphNetwork:
    """All weights and averages away from where they begin, so that none is hidden by a 0 or a 1."""
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.mul_(0.5 + torch.rand_like(tensor))
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return network.eval()


@pytest.fixture
def small_layout(monkeypatch) -> Layout:
    """A chain of three with one more at its end: 1 and 3 hang on 0, 2 hangs on 1."""
    made = Layout("small", ("a", "b", "c", "d"), ((1, 0), (2, 1), (3, 0)), 0, 0, 0, 0, 0)
    monkeypatch.setitem(layouts.LAYOUTS, "small", made)
    return made


def test_weights_of_neighbours_by_hand(small_layout):
    found = adjacency(small_layout.name)
    assert found[0].equal(torch.eye(4))
    assert found[1].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert found[2].tolist() == [[0, 0.5, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert build(STGCN, "small").blocks[9].graph.equal(found)
    assert build(CTRGCN, "small").blocks[9].joints.graph.equal(found)


@pytest.mark.parametrize(("kind", "classes", "millions"), [(STGCN, 60, 3.10), (CTRGCN, 120, 1.46)])
def test_numbers_of_weights_are_the_published_ones(kind, classes, millions):
    # with NTU's 25 joints; ST-GCN's figure is EfficientGCN's (Song et al. 2022), CTR-GCN's its own, of NTU RGB+D 120
    network = build(kind, "ntu25", classes=classes, width=64)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def products(network: GraphNetwork, frames: int) -> dict[str, float]:
    """Billions of multiplications for a clip of two persons, by operation."""
    clip, persons = torch.randn(1, frames, 2, 25, 3), torch.ones(1, 2, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(clip, persons)
    return {str(name): count / 2e9 for name, count in counter.get_flop_counts()["Global"].items()}


def test_numbers_of_products_are_the_published_ones():
    # published counters take a multiplication with its addition as one; that of ST-GCN's figure (of 300 frames, in
    # Shift-GCN's paper and later ones) leaves out the product with the graph, CTR-GCN's (of 64) does not
    spatial = products(build(STGCN, "ntu25", classes=60, width=64), 60)
    assert 300 / 60 * spatial["aten.convolution"] == pytest.approx(16.3, rel=0.01)
    refined = build(CTRGCN, "ntu25", classes=120, width=64)
    ours = sum(products(refined, 64).values())
    compared = 0.0  # the authors compare joints in every frame and take the mean after that
    for index, block in enumerate(refined.blocks):
        frames = 64 if index <= 4 else 32 if index <= 7 else 16
        compared += 2 * block.joints.target.weight.numel() * 2 * frames * 25 / 1e9
    assert ours + compared == pytest.approx(1.97, rel=0.02)
    assert ours < 0.92 * 1.97


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_joints_do_not_matter(kind, name, monkeypatch):
    layout = find_layout(name)
    order = torch.randperm(layout.num_joints, generator=torch.Generator().manual_seed(2))
    place = order.argsort().tolist()  # joint j of the layout is joint place[j] of the shuffled one
    shuffled = Layout(
        "shuffled",
        tuple(layout.joints[j] for j in order.tolist()),
        tuple((place[child], place[parent]) for child, parent in layout.bones),
        *(place[j] for j in (layout.root, 0, 0, 0, 0)),
    )
    monkeypatch.setitem(layouts.LAYOUTS, "shuffled", shuffled)
    one, two = stirred(build(kind, name).double()), build(kind, "shuffled").double().eval()
    state = two.state_dict()
    for key, value in one.state_dict().items():
        if value.shape[-2:] == (layout.num_joints, layout.num_joints):  # a weight for each edge
            state[key] = value[..., order, :][..., order]
        elif key.startswith("norm.") and value.dim():  # one for each joint's coordinates
            state[key] = value.view(layout.num_joints, -1)[order].flatten()
        else:
            state[key] = value
    two.load_state_dict(state)
    clips, persons = torch.randn(2, 16, 2, layout.num_joints, 3, dtype=torch.float64), torch.ones(2, 2).bool()
    expected = one(clips, persons)
    torch.testing.assert_close(two(clips[..., order, :], persons), expected)
    assert not torch.allclose(two(clips, persons), expected)


def test_topology_refinement_is_the_papers_equation_in_plain_loops():
    torch.manual_seed(0)
    inputs, outputs, frames, joints, kinds = 5, 3, 4, 6, 2
    layer = TopologyRefinement(torch.rand(kinds, joints, joints), inputs, outputs).double()
    layer.strength.data.fill_(0.7)
    for layer_part in (layer.target, layer.source, layer.values, layer.expand):
        layer_part.bias.data.normal_()
    x = torch.randn(2, inputs, frames, joints, dtype=torch.float64)
    compared = layer.target.out_features // kinds
    expected = torch.zeros(2, outputs, frames, joints, dtype=torch.float64)
    for row in range(2):
        for k in range(kinds):
            part = slice(k * compared, (k + 1) * compared)
            of = slice(k * outputs, (k + 1) * outputs)
            for u in range(joints):
                for v in range(joints):
                    left, right = (
                        torch.stack([side.weight[part] @ x[row, :, t, j] + side.bias[part] for t in range(frames)])
                        for side, j in ((layer.target, u), (layer.source, v))
                    )
                    refined = layer.expand.weight[of, :, 0, 0] @ (left.mean(0) - right.mean(0)).tanh()
                    weight = layer.graph[k, u, v] + 0.7 * (refined + layer.expand.bias[of])
                    for t in range(frames):
                        value = layer.values.weight[of, :, 0, 0] @ x[row, :, t, v] + layer.values.bias[of]
                        expected[row, :, t, u] += weight * value
    torch.testing.assert_close(layer(x, None), expected)


def test_spatial_convolution_is_the_papers_equation_in_plain_loops():
    torch.manual_seed(0)
    graph = torch.rand(3, 4, 4)
    block = STGCNBlock(graph, 2, 5, stride=1, kernel=1, dropout=0.0, residual=False).double().eval()
    block.importance.data.uniform_(0.5, 2)
    nn.init.dirac_(block.time.conv.weight)  # the time convolution gives back what it gets
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    expected = torch.zeros(1, 5, 3, 4, dtype=torch.float64)
    for k in range(3):
        weight, bias = block.values.weight[5 * k : 5 * k + 5, :, 0, 0], block.values.bias[5 * k : 5 * k + 5]
        for t in range(3):
            for u in range(4):
                for v in range(4):
                    edge = graph[k, u, v].double() * block.importance[k, u, v]
                    expected[0, :, t, u] += edge * (weight @ x[0, :, t, v] + bias)
    shrunk = (1 + 1e-5) ** -0.5  # an untouched batch norm's
    torch.testing.assert_close(block(x, None), expected.relu() * shrunk**2)


def test_gradients_of_topology_refinement_are_those_of_its_values():
    torch.manual_seed(0)
    layer = TopologyRefinement(torch.rand(2, 3, 3), 3, 2).double()
    layer.strength.data.fill_(0.5)
    x = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False]])
    parameters = list(layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, None), (x, *parameters))
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, mask), (x, *parameters))


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_gradients_of_the_first_norm_are_those_of_its_values(kind, small_layout):
    network = stirred(build(kind, small_layout.name).double()).train()
    clips, persons = torch.randn(3, 16, 1, 4, 3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.bool)

    def logits(weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(network, {"norm.weight": weight, "norm.bias": bias}, (clips, persons))

    assert torch.autograd.gradcheck(logits, tuple(network.norm.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_every_weight_gets_a_finite_gradient(kind):
    network = stirred(build(kind)).train()
    network(torch.randn(4, 16, 1, 20, 3), torch.ones(4, 1, dtype=torch.bool)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # a bias before batch norm moves nothing: the mean is taken away again
        if not name.endswith(("conv.bias", "values.bias", "expand.bias", "target.bias", "source.bias")):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(kind, training):
    network = stirred(build(kind).double()).train(training)
    clips, persons = torch.randn(3, 16, 2, 20, 3, dtype=torch.float64), torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    expected = network(clips, persons)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    averages = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.load_state_dict(before, strict=False)
    network.zero_grad()
    padded = torch.cat([clips, 100 * torch.randn(3, 8, 2, 20, 3, dtype=torch.float64)], dim=1)
    found = network(padded, persons, torch.arange(24).expand(3, -1) < 16)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-7)  # blocks begin with a scale of 1e-6
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, averages[name])


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_clips_of_different_lengths_in_one_batch_are_as_alone(kind):
    network = stirred(build(kind).double())
    clips, persons = torch.randn(2, 16, 1, 20, 3, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    found = network(clips, persons, torch.arange(16) < torch.tensor([[8], [16]]))
    torch.testing.assert_close(found[:1], network(clips[:1, :8], persons[:1]))
    torch.testing.assert_close(found[1:], network(clips[1:], persons[1:]))


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_persons_are_averaged_and_absent_ones_do_not_count(kind):
    network = stirred(build(kind).double())
    clip = torch.randn(1, 16, 3, 20, 3, dtype=torch.float64)
    one, two = (network(clip[:, :, [person]], torch.ones(1, 1).bool()) for person in (0, 2))
    both = network(clip, torch.tensor([[True, False, True]]))
    torch.testing.assert_close(both, (one + two) / 2)  # the head is linear
    torch.testing.assert_close(network(clip[:, :, [2, 1, 0]], torch.tensor([[True, False, True]])), both)


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_a_batch_without_clips_and_a_clip_without_persons_have_logits(kind):
    network = build(kind).eval()
    assert network(torch.zeros(0, 16, 1, 20, 3), torch.zeros(0, 1, dtype=torch.bool)).shape == (0, 6)
    nobody = network(torch.zeros(1, 16, 1, 20, 3), torch.zeros(1, 1, dtype=torch.bool))
    torch.testing.assert_close(nobody[0], network.head[1].bias)


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_network(kind, name):
    network = build(kind, name).eval()
    clips = torch.randn(2, 12, 2, find_layout(name).num_joints, 3)
    logits = network(clips, torch.ones(2, 2, dtype=torch.bool))
    assert logits.shape == (2, 6)
    assert logits[0].ne(logits[1]).all()


def heard(network: nn.Module) -> list[list[int]]:
    """For each quarter of the channels, in which output frames a change of input frame 16 shows."""
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no rectifier is shut
    x = torch.rand(1, 8, 32, 3)
    changed = x.clone()
    changed[:, :, 16] += 1
    apart = (network.eval()(changed, None) - network(x, None)).abs().amax((0, 3))  # [channels, frames]
    return [part.amax(0).gt(1e-6).nonzero()[:, 0].tolist() for part in apart.chunk(4)]


def test_time_is_seen_at_the_papers_scales():
    near, far, most, plain = heard(MultiScaleTime(8, stride=1))
    assert near == [14, 15, 16, 17, 18]
    assert far == [12, 14, 16, 18, 20]
    assert most == [15, 16, 17]
    assert plain == [16]
    near, far, most, plain = heard(MultiScaleTime(8, stride=2))
    assert (near, far, most, plain) == ([7, 8, 9], [6, 7, 8, 9, 10], [8], [8])
    assert heard(ConvNorm(8, 8, 9))[0] == [*range(12, 21)]


def test_refinement_begins_with_the_bodys_graph_and_blocks_with_their_shortcuts():
    network = build(CTRGCN)
    assert [block.joints.strength.item() for block in network.blocks] == [0.0] * 10
    assert all(torch.allclose(block.norm.weight, torch.tensor(1e-6)) for block in network.blocks)


def by_hand(joints: Tensor, layout: Layout, stream: str) -> Tensor:
    out = torch.zeros_like(joints)
    if stream.startswith("bone"):
        for child, parent in layout.bones:
            out[..., child, :] = joints[..., child, :] - joints[..., parent, :]
    else:
        out = joints.clone()
    if stream.endswith("motion"):
        for frame in reversed(range(1, joints.shape[1])):
            out[:, frame] -= out[:, frame - 1].clone()
        out[:, 0] = 0
    return out


def test_streams_are_joints_bones_and_their_motion():
    layout = find_layout("ntu25")
    joints, streams = torch.randn(2, 5, 2, 25, 3), ("joint", "bone", "motion", "bone_motion")
    found = JointStreams("ntu25", streams)(joints)
    assert found.shape == (2, 5, 2, 25, 12)
    for name, part in zip(streams, found.split(3, dim=-1), strict=True):
        torch.testing.assert_close(part, by_hand(joints, layout, name))
        torch.testing.assert_close(JointStreams("ntu25", [name])(joints), part)


def test_a_joint_with_two_parents_has_no_bone(monkeypatch):
    made = Layout("knot", ("a", "b", "c"), ((1, 0), (1, 2)), 0, 0, 0, 0, 0)
    monkeypatch.setitem(layouts.LAYOUTS, "knot", made)
    with pytest.raises(ValueError, match="'b' has two bones to a parent"):
        JointStreams("knot", ["bone"])


@pytest.mark.parametrize("kind", [STGCN, CTRGCN])
def test_networks_tell_a_raised_left_hand_from_a_raised_right_one(kind):
    network = build(kind, classes=2)
    torch.manual_seed(0)
    clips, labels = 0.1 * torch.randn(8, 8, 1, 20, 3), torch.arange(8) % 2
    hands = [find_layout("kinect20").joints.index(f"{side} hand") for side in ("left", "right")]
    for clip, label in zip(clips, labels.tolist(), strict=True):
        clip[:, 0, hands[label], 1] += torch.linspace(0, 1, 8)
    persons = torch.ones(8, 1, dtype=torch.bool)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(clips, persons), labels).backward()
        optimizer.step()
    assert (network(clips, persons).argmax(-1) == labels).all()

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from ranks import on_two_ranks
from references import recognizer_ranks
from safetensors.torch import load_file

from datamodules import SkeletonDataModule
from lightning_modules import LitNearestNeighbour, LitSkeletonRecognizer
from skeleton_llm.cli.main import main
from skeleton_llm.metrics import MeanClassAccuracy, read_scores
from skeleton_llm.networks import (
    VQVAE,
    ActionTokenizer,
    ConvolutionConfig,
    CTRGCNConfig,
    RecognizerConfig,
    STGCNConfig,
    TransformerConfig,
    VQVAEConfig,
)
from skeleton_llm.skeletons import Preprocess
from small_runs import recognizer_arguments, run

ROOT = Path(__file__).parents[2]
NAMES = [f"action {index}" for index in range(7)]
NETWORKS = [
    ConvolutionConfig(width=8, depth=1),
    TransformerConfig(width=8, depth=1, heads=2),
    STGCNConfig(width=4, kernel=3),
    CTRGCNConfig(width=4),
]


def ids(value: object) -> str:
    return type(value).__name__


def clips(frames: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    persons = torch.tensor([[True, True], [True, False], [True, True]])
    return torch.randn(3, frames, 2, 25, 3) * persons[:, None, :, None, None], persons


def write_tokenizer(folder: Path, **changes) -> str:
    """A tokenizer that nobody trained."""
    torch.manual_seed(0)
    config = VQVAEConfig(width=8, depth=1, num_codes=16, tokens_per_step=2, **changes)
    vqvae = VQVAE(config, layout="ntu25", num_persons=2, dim=12)
    ActionTokenizer(vqvae, Preprocess(frames=16), {"dataset": {"name": "synthetic"}}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_what_stands_behind_a_clips_end_changes_nothing(network: RecognizerConfig):
    module = LitSkeletonRecognizer("ntu25", 2, NAMES, network).eval()
    joints, persons = clips()
    lengths = torch.tensor([16, 9, 5])  # no whole steps
    expected = module(joints, persons, lengths)
    assert expected.shape == (3, 7)
    other = joints + 50.0 * (torch.arange(16) >= lengths[:, None])[..., None, None, None]
    torch.testing.assert_close(module(other, persons, lengths), expected)
    longer = torch.cat([other, other], dim=1)
    torch.testing.assert_close(module(longer, persons, lengths), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(joints[:1], persons[:1]), expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_answers_in_bfloat16_are_near_those_in_float32(network: RecognizerConfig):
    module = LitSkeletonRecognizer("ntu25", 2, NAMES, network).eval()
    joints, persons = clips()
    for lengths in (None, torch.tensor([16, 9, 5])):
        expected = module(joints, persons, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(joints, persons, lengths)
        assert (found - expected).abs().max() < 0.1 * (expected.max() - expected.min())
        assert found.isfinite().all()


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
@pytest.mark.parametrize("stream", ["joint", "bone", "motion", "bone_motion"])
def test_every_network_reads_every_stream(network: RecognizerConfig, stream: str):
    module = LitSkeletonRecognizer("ntu25", 2, NAMES, network, streams=[stream]).eval()
    joints, persons = clips()
    logits = module(joints, persons)
    # where a body stands matters to joints alone, and so does what its pose is as long as nothing moves
    moved = joints + 0.5 * torch.ones(3) * persons[:, None, :, None, None]
    assert module(moved, persons).allclose(logits, atol=1e-5) == (stream != "joint")
    still = joints[:, :1].expand_as(joints)
    assert module(still, persons).allclose(module(0.5 * still, persons), atol=1e-5) == stream.endswith("motion")


@pytest.mark.parametrize("source", ["latents", "sentences"])
@pytest.mark.parametrize("network", NETWORKS[:2], ids=ids)
def test_tokens_reach_a_network_as_vectors_of_deviation_1(tmp_path, source, network):
    folder = write_tokenizer(tmp_path)
    module = LitSkeletonRecognizer("ntu25", 2, NAMES, network, source, tokenizer=folder).eval()
    joints, persons = clips()
    tokenizer = ActionTokenizer.from_pretrained(folder)
    vectors = (tokenizer.latents if source == "latents" else tokenizer.embed)(joints, persons)[0]
    assert vectors.shape == (3, 4 * 2, 12)
    x = vectors * 12**0.5
    if isinstance(network, ConvolutionConfig):
        x = x.reshape(3, 4, 24)  # both tokens of a step side by side
    torch.testing.assert_close(module(joints, persons), module.network(x))
    lengths = torch.tensor([16, 8, 12])
    found = module(joints, persons, lengths)
    torch.testing.assert_close(found[1:2], module(joints[1:2, :8], persons[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS[:2], ids=ids)
def test_sentences_of_two_persons_are_read_one_after_the_other(tmp_path, network):
    folder = write_tokenizer(tmp_path, persons="sentences")
    module = LitSkeletonRecognizer("ntu25", 2, NAMES, network, "sentences", tokenizer=folder).eval()
    joints, persons = clips()
    tokens, mask = module.tokenizer.sentences(joints, persons)
    found = module(joints, persons)
    for row in range(3):
        x = module.tokenizer.vectors(tokens[row][mask[row]]) * 12**0.5
        x = x[None] if isinstance(network, TransformerConfig) else x.reshape(1, -1, 24)
        torch.testing.assert_close(found[row : row + 1], module.network(x), rtol=1e-4, atol=1e-5)


def test_what_does_not_go_together_is_refused(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"set model\.tokenizer to its folder"):
        LitSkeletonRecognizer("ntu25", 2, NAMES, source="latents")
    with pytest.raises(ValueError, match="graph cannot read sentences; set"):
        LitSkeletonRecognizer("ntu25", 2, NAMES, CTRGCNConfig(), "sentences", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"set model\.streams to null"):
        LitSkeletonRecognizer("ntu25", 2, NAMES, source="latents", streams=["bone"], tokenizer=tokenizer)
    for streams in ([], ["bone", "bone"]):
        with pytest.raises(ValueError, match="each once, got"):
            LitSkeletonRecognizer("ntu25", 2, NAMES, streams=streams)


def test_a_run_of_a_graph_network_leaves_measures_and_scores_that_agree(small_data, tmp_path):
    more = ["--model.init_args.network.init_args.width", "4", "--model.init_args.streams", "[bone, motion]"]
    run(recognizer_arguments(small_data, tmp_path, "ctr_gcn", *more))
    results = json.loads((tmp_path / "results.json").read_text())
    measures = {"top1", "top5", "mean_class_accuracy"}
    assert {f"test/{name}" for name in measures} <= {*results}
    found = read_scores(tmp_path / "scores/test.safetensors")
    data = SkeletonDataModule(str(small_data), "synthetic_xsub")
    assert found.labels.tolist() == data.labels[data.rows["test"]].tolist()
    assert (found.of["split"], found.of["step"], found.of["data"]) == ("test", "6", data.info["content_hash"])
    assert results["test/top1"] == pytest.approx((found.scores.argmax(-1) == found.labels).double().mean().item())
    few = found.scores.topk(5).indices == found.labels[:, None]
    assert results["test/top5"] == pytest.approx(few.any(1).double().mean().item())
    classes = MeanClassAccuracy(20)
    classes.update(found.scores, found.labels)
    assert results["test/mean_class_accuracy"] == pytest.approx(classes.compute().item())
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(len(found.labels)))
    assert read_scores(tmp_path / "scores/val.safetensors").of["step"] == "6"
    weights = load_file(tmp_path / "network/weights.safetensors")
    assert weights["network.blocks.0.joints.values.weight"].shape == (3 * 4, 6, 1, 1)


@pytest.mark.slow
def test_a_stopped_run_of_a_graph_network_ends_as_one_that_was_not(small_data, tmp_path, monkeypatch):
    more = ["--model.init_args.network.init_args.width", "4", "--data.init_args.preprocess.frames", "16"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(recognizer_arguments(small_data, whole, "st_gcn", *more))
    step, before = LitSkeletonRecognizer.training_step, signal.getsignal(signal.SIGTERM)

    def interrupted(self, batch, batch_idx):
        if batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LitSkeletonRecognizer, "training_step", interrupted)
        with pytest.raises(SystemExit):
            run(recognizer_arguments(small_data, stopped, "st_gcn", *more))
    run(recognizer_arguments(small_data, stopped, "st_gcn", *more))
    signal.signal(signal.SIGTERM, before)
    one, two = (load_file(folder / "network/weights.safetensors") for folder in (whole, stopped))
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize("source", ["skeleton", "sentences"])
def test_nearest_neighbours_are_those_of_a_plain_search(small_data, tmp_path, source):
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    more = ["--data.init_args.preprocess.frames", "16"]
    if source == "sentences":
        more += ["--model.init_args.source", source, "--model.init_args.tokenizer", tokenizer]
        more += ["--model.init_args.streams", "null"]
    run(recognizer_arguments(small_data, tmp_path / "run", "nearest", *more))
    found = read_scores(tmp_path / "run/scores/test.safetensors")
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=Preprocess(frames=16))
    weights = load_file(tmp_path / "run/network/weights.safetensors")
    if source == "skeleton":
        module = LitNearestNeighbour("ntu25", 2, data.class_names, streams=["joint"])
        module.load_state_dict(weights)
    else:
        module = LitNearestNeighbour("ntu25", 2, data.class_names, source, tokenizer=tokenizer)
    seen = {}
    for split in ("train", "test"):
        rows = data.batches(split)
        batch = rows.__getitems__([(-1, index) for index in range(len(rows))])
        seen[split] = module._sequence(batch["joints"], batch["persons"], None)[0].flatten(1).double(), batch["labels"]
    (known, labels), (asked, _) = seen["train"], seen["test"]
    nearest = [int((known - clip).square().sum(1).argmin()) for clip in asked]
    assert found.scores.argmax(-1).tolist() == labels[nearest].tolist()


def test_nearest_neighbours_need_clips_of_one_length(small_data, tmp_path, capsys):
    more = ["--data.init_args.preprocess.length", "whole"]
    assert main(recognizer_arguments(small_data, tmp_path, "nearest", *more)) == 2
    assert "set data.preprocess.length to resize" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_ranks(small_data, tmp_path_factory) -> Path:
    """What two ranks leave of both kinds of network, with and without batch norm."""
    folder = tmp_path_factory.mktemp("ranks")
    codes, errors = on_two_ranks("recognizer_ranks.py", small_data, folder)
    assert codes == [0, 0], errors
    return folder


@pytest.mark.slow
def test_two_ranks_give_the_gradients_and_metrics_of_one_with_the_doubled_batch(small_data, tmp_path, two_ranks):
    recognizer_ranks.run(str(small_data), tmp_path / "convolution.pt", 1, "convolution")
    one, two = (torch.load(folder / "convolution.pt", weights_only=True) for folder in (tmp_path, two_ranks))
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, msg=name)
    assert json.loads(two["metrics"]) == pytest.approx(json.loads(one["metrics"]))
    left, right = (read_scores(folder / "convolution/scores/val.safetensors") for folder in (tmp_path, two_ranks))
    assert left.labels.equal(right.labels)
    torch.testing.assert_close(left.scores, right.scores)


@pytest.mark.slow
def test_two_ranks_evaluate_the_network_that_the_checkpoint_holds(small_data, two_ranks):
    found = torch.load(two_ranks / "ctr_gcn.pt", weights_only=True)
    assert found["before"] > 1e-4  # each rank's batch norm saw other clips
    assert found["after"] == 0
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=Preprocess(frames=16))
    data.rows["val"] = data.rows["val"][:21]
    module = LitSkeletonRecognizer("ntu25", 2, data.class_names, CTRGCNConfig(width=4), streams=["joint"]).double()
    module.load_state_dict(found["state"])
    batch = data.batches("val").__getitems__([(-1, index) for index in range(21)])
    expected = module.eval()(batch["joints"].double(), batch["persons"]).log_softmax(-1)
    kept = read_scores(two_ranks / "ctr_gcn/scores/val.safetensors")
    torch.testing.assert_close(kept.scores, expected.float())
    assert kept.labels.equal(batch["labels"])
    right = (expected.argmax(-1) == batch["labels"]).double().mean().item()
    assert json.loads(found["metrics"])["val/top1"] == pytest.approx(right)

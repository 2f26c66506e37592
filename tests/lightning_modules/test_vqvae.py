import json
import os
import signal
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import on_two_ranks
from references import stage1_by_hand
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import SkeletonDataModule
from lightning_modules import LitVQVAE
from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.main import main
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.language import LanguageModel
from skeleton_llm.networks import VQVAEConfig
from skeleton_llm.skeletons import Augmentation, Preprocess
from small_runs import stage1_arguments

ROOT = Path(__file__).parents[2]


def on_one_and_two_ranks(data: Path, out: Path, *cases: str) -> None:
    codes, errors = on_two_ranks("two_ranks.py", data, out, *cases)
    assert codes == [0, 0], errors


def assert_one_is_two_with_the_doubled_batch(out: Path, case: str) -> None:
    one, two = (torch.load(out / f"{case}_{ranks}.pt", weights_only=True) for ranks in (1, 2))
    assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-5)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert (two["gradients"][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name
    assert two["codebooks"][0].equal(two["codebooks"][1])
    left, right = (json.loads(found["metrics"]) for found in (one, two))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if name in ("val/tokens_used", "val/dead_tokens"):  # a latent between two tokens may fall either way
            assert abs(right[name] - value) <= 2
        else:
            counted = name in ("val/perplexity", "val/js_to_zipf", "val/zipf", "val/loss")
            assert right[name] == pytest.approx(value, rel=0.02 if counted else 1e-3, abs=1e-3), name
    assert_watched_alike(out / f"{case}_1", out / f"{case}_2")


def test_two_ranks_give_the_gradients_losses_and_metrics_of_one_with_the_doubled_batch(small_data, tmp_path):
    on_one_and_two_ranks(small_data, tmp_path, "plain")
    assert_one_is_two_with_the_doubled_batch(tmp_path, "plain")


@pytest.mark.slow
def test_so_do_ragged_sentences_and_averages_and_codebooks_are_the_same_after_50_steps(small_data, tmp_path):
    on_one_and_two_ranks(small_data, tmp_path, "ragged", "running", "fifty_ragged", "fifty_ema")
    for case in ("ragged", "running"):
        assert_one_is_two_with_the_doubled_batch(tmp_path, case)
    for case in ("fifty_ragged", "fifty_ema"):
        found = torch.load(tmp_path / f"{case}_2.pt", weights_only=True)
        codebooks = found["codebooks"]
        assert found["revived"] > 0
        assert codebooks[0].equal(codebooks[1])
        norms = codebooks.view(2, 32, -1).norm(dim=-1)
        assert norms.min() > 0.96  # nobody was revived onto padding


def assert_watched_alike(one: Path, two: Path) -> None:
    """What all watchers write of a run on two ranks is what they write of it on one."""
    left, right = (EventAccumulator(str(folder), size_guidance={"images": 0}).Reload() for folder in (one, two))
    for kind in ("scalars", "histograms", "images"):
        assert set(left.Tags()[kind]) == set(right.Tags()[kind])
    kinds = {tag.split("/")[0] for tag in left.Tags()["images"]}
    assert kinds == {"codebook", "tokens", "reconstructions"}
    for tag in left.Tags()["scalars"]:
        theirs, ours = (found.Scalars(tag)[-1].value for found in (left, right))
        tokens = tag.endswith(("tokens", "tokens_used", "tokens_alive"))  # again, either way
        assert ours == pytest.approx(theirs, abs=2 if tokens else 1e-3, rel=0.02), tag
    assert left.Histograms("codebook/times_used")[-1].histogram_value.sum > 0
    for tag in left.Tags()["histograms"]:
        theirs, ours = (found.Histograms(tag)[-1].histogram_value for found in (left, right))
        assert abs(ours.num - theirs.num) <= 2, tag
        for name in ("sum", "sum_squares", "min", "max"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=2, rel=0.02), (tag, name)


def stands_alone(module: LitVQVAE, data: SkeletonDataModule, monkeypatch) -> dict:
    """Give the module a trainer of one rank at step 0; what it logs is found in the dict."""
    logged = {}
    module.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0, max_steps=10, datamodule=data)
    module.setup("fit")
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    return logged


CHANGED = {
    "embedding_weight": 0.9, "commitment_weight": 0.3, "zipf_weight": 0.4, "context_weight": 0.05, "mmd_weight": 0.6,
    "zipf_alpha": 1.3, "zipf_beta": 1.1, "zipf_momentum": 0.7, "context_scale": "sum", "mmd_rows": 100,
    "mmd_coordinates": "ball", "denoise": True,
}  # fmt: skip
CURVED = {"curvature": 2.5, "token_norms": (0.5, 1.5), "temperature": 0.7, "scale": 3.0}


@pytest.mark.parametrize(
    ("options", "network", "length"),
    [({}, {}, "resize"), (CHANGED, CURVED, "whole"), ({"zipf_momentum": 0.4}, {"geometry": "euclidean"}, "resize")],
    ids=["defaults", "changed", "flat"],
)
def test_loss_and_gradients_are_the_weighted_sum_written_by_hand(small_data, monkeypatch, options, network, length):
    torch.manual_seed(0)
    words = torch.randn(300, 128)
    monkeypatch.setattr(LanguageModel, "words", lambda self: words)
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=Preprocess(length=length))
    config = VQVAEConfig(width=16, depth=1, num_codes=32, tokens_per_step=2, noise=False, **network)
    module = LitVQVAE("ntu25", 2, network=config, **options).double()
    module.vqvae.quantizer.initialise(torch.randn(64, 128, dtype=torch.float64))
    module.vqvae.quantizer.norm_logit.data.normal_()
    logged = stands_alone(module, data, monkeypatch)
    running = module.zipf_target.clone()
    clips = data.batches("train", Augmentation(noise=0.05))
    for step in range(2):  # the running usage goes on from the first to the second
        batch = clips.__getitems__([(0, 4 * step + i) for i in range(4)])
        assert ("clean" in batch) == options.get("denoise", False)
        batch = {name: part.double() if part.is_floating_point() else part for name, part in batch.items()}
        found = []
        for ours in (True, False):
            torch.manual_seed(step)  # of the words that are drawn
            terms = None if ours else stage1_by_hand.losses(module.vqvae, batch, words, running, options | network)
            loss = module.training_step(batch, step)["loss"] if ours else terms["loss"]
            found.append(torch.autograd.grad(loss, list(module.vqvae.parameters())))
        for name, value in terms.items():
            assert logged[f"train/{name}"].item() == pytest.approx(value.item(), rel=1e-9), name
        for (name, _), ours, theirs in zip(module.vqvae.named_parameters(), *found, strict=True):
            assert (ours - theirs).norm() <= 1e-6 * theirs.norm(), name


def test_the_codebook_is_placed_at_its_step_and_counts_from_then_on(small_data, monkeypatch):
    torch.manual_seed(0)
    data = SkeletonDataModule(str(small_data), "synthetic_xsub")
    network = VQVAEConfig(width=16, depth=1, num_codes=32)
    options = {"quantize_after": 3, "initialisation": "sample", "sample_clips": 40, "mmd_rows": 64}
    module = LitVQVAE("ntu25", 2, network=network, **options)
    logged, quantizer = stands_alone(module, data, monkeypatch), module.vqvae.quantizer
    module.on_fit_start()
    batch = data.batches("train").__getitems__([(0, i) for i in range(4)])
    before = quantizer.direction.detach().clone()
    module.trainer.global_step = 2
    module.on_train_batch_start(batch, 2)
    loss = module.training_step(batch, 2)["loss"]
    channels = module.vqvae.features(batch["joints"], batch["persons"])
    latents = quantizer.normalise(module.vqvae.latents(channels))
    autoencoded = F.smooth_l1_loss(module.vqvae.decode_tokens(latents), channels)
    assert loss.item() == pytest.approx(autoencoded.item(), rel=1e-5)
    assert quantizer.direction.equal(before)
    module.trainer.global_step = 3
    module.on_train_batch_start(batch, 3)
    sample = data.training_sample(40)
    with torch.no_grad():
        latents, _ = module.vqvae.normalised_latents(sample["joints"], sample["persons"])
    assert len(sample["joints"]) == 40
    assert (torch.cdist(quantizer.direction, latents.flatten(0, 1)).min(-1).values < 5e-3).all()
    assert module.training_step(batch, 3)["loss"] > logged["train/reconstruction"] + 0.01
    placed = quantizer.direction.detach().clone()
    module.on_train_batch_start(batch, 4)  # once for all
    assert quantizer.direction.equal(placed)


class Syncs(TorchDispatchMode):
    """Names every operation that would make the host wait for a device: values read, sizes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "bincount")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        index = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        if name.startswith(self.WAITING) or any(t is not None and t.dtype == torch.bool for t in index):
            calls = traceback.extract_stack()
            counting = any("torch/optim/" in call.filename for call in calls)  # AdamW's steps lie on the host, always
            if not counting:
                self.found.append(f"{name} in {calls[-4].filename}:{calls[-4].lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("length", ["resize", "whole"])
@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_the_training_step_never_waits_for_the_device(small_data, length, codebook, monkeypatch):
    torch.manual_seed(0)
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=Preprocess(length=length), batch_size=4)
    network = VQVAEConfig(width=16, depth=1, num_codes=32, codebook=codebook)
    module = LitVQVAE("ntu25", 2, network=network, mmd_rows=64, revive_every=1, zipf_momentum=0.5)
    module.vqvae.quantizer.initialise(torch.randn(64, module.vqvae.dim))
    module.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    batch = data.batches("train").__getitems__([(0, i) for i in range(4)])
    module.training_step(batch, 0)["loss"].backward()  # once, for what is computed once
    with Syncs() as syncs:
        module.training_step(batch, 1)["loss"].backward()
        module.on_after_backward()
        module.on_before_optimizer_step(None)
    assert syncs.found == []
    with Syncs() as syncs:  # the test can fail
        (torch.ones(3).sum().item(), torch.ones(3)[torch.ones(3) > 0])
    assert syncs.found[0].startswith("_local_scalar_dense")
    assert len(syncs.found) == 2


def test_no_step_of_a_run_with_the_shipped_callbacks_waits_for_the_device(small_data, tmp_path, monkeypatch, capsys):
    """Between two times of logging: the loop, the module, every callback, the optimiser and the progress bar."""
    syncs, begin = Syncs(), LitVQVAE.on_train_batch_start

    def watched(self, batch, batch_idx):
        if batch_idx == 4:  # the codebook stands since step 2
            syncs.__enter__()
        if batch_idx == 8:
            syncs.__exit__(None, None, None)
        begin(self, batch, batch_idx)

    monkeypatch.setattr(LitVQVAE, "on_train_batch_start", watched)
    steps = ["--trainer.max_steps=10", "--trainer.val_check_interval=10", "--trainer.log_every_n_steps=10"]
    more = ["--trainer.enable_progress_bar=true", "--model.init_args.mmd_rows=64"]
    apart = "--data.init_args.num_workers=1"  # clips are read elsewhere: their tensors lie on the host
    assert main(stage1_arguments(small_data, tmp_path, *steps, *more, apart)) == 0
    assert syncs.found == []
    drawn = capsys.readouterr().out
    assert "train/loss" in drawn
    assert "train/error_m" in drawn


@pytest.mark.slow
def test_the_step_compiles_as_one_graph_and_gives_the_same(small_data):
    script = f"""
import torch
from types import SimpleNamespace
from datamodules import SkeletonDataModule
from datamodules import SkeletonDataModule
from lightning_modules import LitVQVAE
from skeleton_llm.networks import VQVAEConfig
data = SkeletonDataModule({str(small_data)!r}, "synthetic_xsub", batch_size=4)
batch = data.batches("train").__getitems__([(0, i) for i in range(4)])
real = torch.compile
torch.compile = lambda f, **options: real(f, backend="aot_eager", **options)  # inductor takes minutes
found = []
for compiled in (False, True):
    torch.manual_seed(0)
    module = LitVQVAE("ntu25", 2, network=VQVAEConfig(width=16, depth=1, num_codes=32, noise=False), compile=compiled)
    module.vqvae.quantizer.initialise(torch.randn(64, module.vqvae.dim))
    module.trainer = SimpleNamespace(world_size=1, global_step=0)
    module.log = lambda *args, **kwargs: None
    loss = module.training_step(batch, 0)["loss"]
    loss.backward()
    if compiled:
        # the step before the codebook stands, noise, validation and its smaller last batch
        module.vqvae.quantizer.noise = True
        for ready in (True, False):
            module.vqvae.quantizer.ready = ready
            module.train().training_step(batch, 0)["loss"].backward()
            for size in (4, 3, 2):
                module.eval().validation_step({{name: tensor[:size] for name, tensor in batch.items()}}, 0)
        module.vqvae.zero_grad()
        module.vqvae.quantizer.noise, module.vqvae.quantizer.ready = False, True
        module.train().training_step(batch, 0)["loss"].backward()
    found.append((loss.detach(), {{n: p.grad for n, p in module.vqvae.named_parameters()}}))
torch.testing.assert_close(found[0][0], found[1][0])
for name, gradient in found[0][1].items():
    torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-6)
from torch._dynamo.utils import counters
assert not counters["graph_break"], counters["graph_break"]
assert counters["stats"]["unique_graphs"] <= 8, counters["stats"]  # one more would be refused
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_logs_every_measure_and_exports_a_tokenizer(small_data, tmp_path):
    folder = tmp_path / "stage1"
    assert main(stage1_arguments(small_data, folder, "--trainer.log_every_n_steps", "1")) == 0
    events = EventAccumulator(str(folder))
    events.Reload()
    measures = {
        "loss", "reconstruction", "embedding", "commitment", "context", "mmd", "agreement", "error_m", "latent_norm",
        "token_norm",
    }  # fmt: skip
    scalars = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in {*measures, "zipf"}} <= scalars
    assert {f"val/{name}" for name in {*measures, "js_to_zipf", "perplexity", "tokens_used", "dead_tokens"}} <= scalars
    assert {"codebook/rank_frequency", "codebook/usage"} <= set(events.Tags()["images"])
    norms = [event.value for event in events.Scalars("val/latent_norm")]
    assert norms == pytest.approx([1.0] * len(norms), abs=0.01)
    tokenizer = ActionTokenizer.from_pretrained(folder / "tokenizer")
    assert (tokenizer.dim, tokenizer.num_codes) == (128, 32)
    assert tokenizer.vqvae.quantizer.initialised
    assert tokenizer.info["dataset"]["name"] == "synthetic"
    assert json.loads((folder / "results.json").read_text())["test/error_m"] > 0


def test_the_continuous_ablation_never_quantises(small_data, tmp_path):
    overlay = ["--config", str(ROOT / "configs/ablation/continuous.yaml"), "--trainer.max_steps", "3"]
    assert main(stage1_arguments(small_data, tmp_path, *overlay)) == 0
    assert not ActionTokenizer.from_pretrained(tmp_path / "tokenizer").vqvae.quantizer.ready


def test_a_finished_run_says_so_and_a_changed_one_is_refused(small_data, tmp_path, capsys):
    folder = tmp_path / "stage1"
    assert main(stage1_arguments(small_data, folder)) == 0
    capsys.readouterr()
    assert main(stage1_arguments(small_data, folder)) == 0
    assert f"finished: {folder}" in capsys.readouterr().out
    assert main(stage1_arguments(small_data, folder, "--data.init_args.seed", "5")) == 2
    assert "data.init_args.seed (0 -> 5)" in capsys.readouterr().err
    assert "data: " in (folder / "environment.txt").read_text()
    (folder / "results.json").unlink()
    assert newest_checkpoint(folder / "checkpoints").name == "step=6.ckpt"  # though it saves every 250 steps


STATEFUL = ["--model.init_args.network.codebook=ema", "--model.init_args.revive_every=2"]
STATEFUL += ["--model.init_args.zipf_momentum=0.8", "--data.init_args.preprocess.length=window"]


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(small_data, tmp_path, monkeypatch, capsys, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)  # with two threads, sums would differ from run to run
    more = STATEFUL
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(stage1_arguments(small_data, whole, *more)) == 0
    step = LitVQVAE.training_step

    def interrupted(self, batch, batch_idx):
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(LitVQVAE, "training_step", interrupted)
        with pytest.raises(SystemExit) as left:
            main(stage1_arguments(small_data, stopped, *more))
    assert left.value.code == 85
    assert newest_checkpoint(stopped / "checkpoints").name == "step=1.ckpt"
    assert main(stage1_arguments(small_data, stopped, *more, "--model.init_args.zipf_weight", "0.3")) == 2
    assert "model.init_args.zipf_weight (0.2 -> 0.3)" in capsys.readouterr().err
    assert main(stage1_arguments(small_data, stopped, *more)) == 0
    assert "going on from" in capsys.readouterr().err
    signal.signal(signal.SIGTERM, before)
    one, two = (ActionTokenizer.from_pretrained(folder / "tokenizer").fingerprint() for folder in (whole, stopped))
    assert one == two


def test_unfinished_and_foreign_files_are_no_checkpoints(tmp_path):
    torch.save({"global_step": 3}, tmp_path / "a.ckpt")
    torch.save({"global_step": 5}, tmp_path / "b.ckpt")
    (tmp_path / "c.ckpt").write_bytes((tmp_path / "b.ckpt").read_bytes()[:200])
    torch.save({"no": "step"}, tmp_path / "d.ckpt")
    (tmp_path / "last.ckpt").symlink_to("nowhere.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "b.ckpt"


@pytest.mark.filterwarnings("ignore:Total length of .DataLoader. across ranks is zero")
def test_a_run_without_validation_clips_ends(small_data, tmp_path):
    assert main(stage1_arguments(small_data, tmp_path, "--data.init_args.val_fraction", "0")) == 0
    assert (tmp_path / "tokenizer/config.json").is_file()

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import LitVQVAE
from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.fit import newest_checkpoint
from skeleton_llm.cli.main import main
from small_runs import stage1_arguments

ROOT = Path(__file__).parents[2]


def test_two_ranks_give_the_weights_and_metrics_of_one_with_the_doubled_batch(small_data, tmp_path):
    found = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        script = [sys.executable, str(ROOT / "tests/references/two_ranks.py"), str(small_data), str(out), str(ranks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        found[ranks] = torch.load(out, weights_only=True)
    for name, tensor in found[1]["weights"].items():
        torch.testing.assert_close(
            found[2]["weights"][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    one, two = (json.loads(found[ranks]["metrics"]) for ranks in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name in ("val/tokens_used", "val/dead_tokens"):  # a latent between two tokens may fall either way
            assert abs(two[name] - value) <= 2
        else:
            counted = name in ("val/perplexity", "val/js_to_zipf", "val/zipf", "val/loss")
            assert two[name] == pytest.approx(value, rel=0.02 if counted else 1e-3, abs=1e-3), name


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
    assert newest_checkpoint(folder / "checkpoints") is None  # six steps are fewer than a checkpoint's interval


@pytest.mark.parametrize(("workers", "stop"), [("0", 3), ("2", 3), ("0", 0)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    small_data, tmp_path, monkeypatch, capsys, request, workers, stop
):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2 if stop == 0 else 1)  # with two threads, sums would differ from run to run
    more = ["--data.init_args.num_workers", workers]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(stage1_arguments(small_data, whole, *more)) == 0
    step = LitVQVAE.training_step

    def interrupted(self, batch, batch_idx):
        if batch_idx == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(LitVQVAE, "training_step", interrupted)
        with pytest.raises(SystemExit) as left:
            main(stage1_arguments(small_data, stopped, *more))
    assert left.value.code == 85
    assert newest_checkpoint(stopped / "checkpoints").name == f"step={stop + 1}.ckpt"
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

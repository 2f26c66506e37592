"""The promise of the first page: both stages from nothing, then a name; minutes long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_both_stages_on_synthetic_data_reach_80_percent_on_held_out_subjects(tmp_path):
    command = [str(Path(sys.executable).with_name("skeleton-llm"))]

    def call(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def fit(stage: str, *more: str) -> str:
        configs = [
            "--config",
            str(ROOT / f"configs/{stage}.yaml"),
            "--config",
            str(ROOT / "configs/data/synthetic.yaml"),
        ]
        folder = ["--trainer.default_root_dir", f"runs/demo/{stage}", "--trainer.enable_progress_bar", "false"]
        return call("fit", *configs, *folder, *more)

    call("prepare", "synthetic")
    # half batches, fewer steps, one validation, 256 test clips, sentences read once: a machine may be slow
    small = ["--data.init_args.batch_size", "32", "--trainer.val_check_interval", "1000000"]
    small += ["--trainer.limit_test_batches", "8"]
    shorter = ["--trainer.max_steps", "300", "--model.init_args.quantize_after", "120"]
    assert "next: make stage2" in fit("stage1", *small, *shorter)
    shorter = ["--trainer.max_steps", "250", "--model.init_args.tokenizer", "runs/demo/stage1/tokenizer"]
    shorter += ["--model.init_args.inputs.repeat", "1"]
    assert "next: skeleton-llm recognize" in fit("stage2", *small, *shorter)
    results = json.loads((tmp_path / "runs/demo/stage2/results.json").read_text())
    assert results["test/top1"] >= 0.8
    assert results["test/greedy_exact_match"] >= 0.8
    subprocess.run([sys.executable, "-m", "skeleton_llm.skeletons.synthetic", "clip.npy"], cwd=tmp_path, check=True)
    answer = json.loads(call("recognize", "clip.npy", "--json", "--gif", "clip.gif"))
    assert answer["name"] == answer["top"][0][0]
    assert (tmp_path / "clip.gif").stat().st_size > 10_000

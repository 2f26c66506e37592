"""What a run learned, written as a folder without training."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from skeleton_llm import ActionTokenizer, Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.skeletons import PreparedDataset
from small_runs import ROOT, run, stage1_arguments, stage2_arguments


def often(folder, stage, steps):
    """An overlay that keeps every checkpoint of so many steps."""
    callbacks = yaml.safe_load((ROOT / f"configs/{stage}.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"].endswith("callbacks.Checkpoints"):
            callback["init_args"] |= {"every": steps, "newest": 99}
    (folder / f"{stage}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return ["--config", str(folder / f"{stage}.yaml")]


@pytest.fixture(scope="module")
def runs(small_data, tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    run(stage1_arguments(small_data, base / "stage1", *often(base, "stage1", 3)))
    tokenizer = base / "stage1" / "tokenizer"
    run(stage2_arguments(small_data, base / "stage2", tokenizer, *often(base, "stage2", 2)))
    clips = PreparedDataset.open(small_data)
    return SimpleNamespace(
        base=base, stage1=base / "stage1", stage2=base / "stage2", clips=[clips.clip(3), clips.clip(77)]
    )


def tensors(folder):
    return {file.relative_to(folder): load_file(file) for file in folder.rglob("*.safetensors")}


def equal(one, two):
    assert one.keys() == two.keys()
    for file in one:
        assert one[file].keys() == two[file].keys()
        assert all(one[file][name].equal(two[file][name]) for name in one[file]), file


def close(folder, other, clips):
    for one, two in zip(
        *(Recognizer.from_pretrained(which).recognize(clips) for which in (folder, other)), strict=True
    ):
        assert [name for name, _ in one.top] == [name for name, _ in two.top]
        assert [p for _, p in one.top] == pytest.approx([p for _, p in two.top], abs=1e-4)


def test_the_newest_checkpoint_gives_the_folder_that_the_run_wrote(runs, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["export", str(runs.stage2), "--out", str(out)]) == 0
    assert f"next: skeleton-llm recognize FILE --model {out}" in capsys.readouterr().out
    equal(tensors(out), tensors(runs.stage2 / "recognizer"))
    for name in ("llm.json", "run.json", "README.md", "tokenizer/config.json", "tokenizer/dataset.json"):
        assert (out / name).read_text() == (runs.stage2 / "recognizer" / name).read_text(), name
    assert list(out.parent.iterdir()) == [out]


def test_an_earlier_checkpoint_is_another_recogniser_that_was_not_tested(runs, tmp_path):
    path = runs.stage2 / "checkpoints" / "step=2.ckpt"
    assert path != newest_checkpoint(path.parent)
    assert main(["export", str(path), "--out", str(tmp_path / "out")]) == 0
    saved = torch.load(path, weights_only=True)["state_dict"]
    (weights,) = [v for k, v in tensors(tmp_path / "out").items() if k.name == "input_map.safetensors"]
    assert weights["weight"].equal(saved["network.input_map.weight"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not tested" in card
    assert "model-index" not in card


def test_merged_it_answers_alike_and_holds_a_language_model(runs, tmp_path):
    out, again = tmp_path / "merged", tmp_path / "again"
    assert main(["export", str(runs.stage2), "--out", str(out), "--merge"]) == 0
    close(out, runs.stage2 / "recognizer", runs.clips)
    assert AutoModelForCausalLM.from_pretrained(out / "llm").config.hidden_size == 128
    assert "merged into the language model, which `llm/` holds in float32" in (out / "README.md").read_text()
    assert main(["export", str(runs.stage2 / "recognizer"), "--out", str(again), "--merge"]) == 0
    equal(tensors(again), tensors(out))


def test_the_card_says_what_it_is_of_what_and_how_good(runs, small_data):
    folder = runs.stage2 / "recognizer"
    card, results = ModelCard.load(folder / "README.md"), json.loads((runs.stage2 / "results.json").read_text())
    assert card.data.library_name == "skeleton-llm"
    assert card.data.base_model == "built-in"
    assert {"skeleton-based-action-recognition", "lora"} <= set(card.data.tags)
    by_name = {result.metric_name: result for result in card.data.eval_results}
    assert by_name["top-1"].metric_value == pytest.approx(results["test/top1"], abs=1e-6)
    assert by_name["top-1"].dataset_type == "synthetic"
    assert by_name["top-1"].dataset_name == "synthetic_xsub"
    assert by_name["expected calibration error at the fitted T"].metric_value == pytest.approx(
        results["test/ece_after"], abs=1e-6
    )
    data = PreparedDataset.open(small_data)
    environment = (runs.stage2 / "environment.txt").read_text()
    revision = next(line for line in environment.splitlines() if line.startswith("revision: ")).partition(": ")[2]
    for said in (
        data.info["content_hash"],
        "layout ntu25",
        "| seed | 0 |",
        f"| revision | {revision} |",
        f"{results['test/top1']:.4f}",
        "    skeleton-llm fit --config ",
        f"--data.init_args.folder {small_data}",
        "Recognizer.from_pretrained",
        "| input | codes, with a map, 2 times |",
        *(f"- {name}" for name in data.info["class_names"]),
    ):
        assert said in card.text, said


def test_a_stage_1_run_gives_its_tokenizer(runs, tmp_path, capsys):
    out = tmp_path / "tokenizer"
    assert main(["export", str(runs.stage1), "--out", str(out)]) == 0
    one, two = (ActionTokenizer.from_pretrained(folder) for folder in (out, runs.stage1 / "tokenizer"))
    assert one.fingerprint() == two.fingerprint()
    assert (out / "dataset.json").read_text() == (runs.stage1 / "tokenizer" / "dataset.json").read_text()
    assert main(["export", str(runs.stage1), "--out", str(tmp_path / "merged"), "--merge"]) == 1
    assert "--merge is for stage 2's recogniser" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_sentence(runs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text((runs.stage2 / "config.yaml").read_text())
    damaged = tmp_path / "run" / "checkpoints" / "step=4.ckpt"
    damaged.write_bytes(newest_checkpoint(runs.stage2 / "checkpoints").read_bytes()[:5000])
    out, product = str(tmp_path / "out"), str(runs.stage2 / "recognizer")
    gone = ["--data.init_args.folder", "data/gone"]
    for arguments, said in (
        ([str(runs.stage2), "--out", out, *gone], "is looked for from here: export where the run was made, or say"),
        ([str(tmp_path / "none"), "--out", out], "none: no such folder or checkpoint"),
        ([str(runs.base), "--out", out], f"name {runs.stage1} or {runs.stage2}"),
        ([str(tmp_path / "run"), "--out", out], "holds no whole checkpoint"),
        ([str(damaged), "--out", out], "step=4.ckpt: no whole checkpoint"),
        ([str(runs.stage2), "--out", str(tmp_path / "full")], "something is there already; name a new folder"),
        ([str(runs.stage2), "--out", str(tmp_path / "full" / "file" / "out")], "out: cannot be written ("),
        ([str(runs.stage2), "--out", out, "--llm", str(tmp_path / "none")], "none' is no folder here"),
        ([product, "--out", out, "--seed", "1"], "a recogniser is no run; leave them away"),
    ):
        assert main(["export", *arguments]) == 1, said
        printed = capsys.readouterr()
        (error,) = (line for line in printed.err.splitlines() if not line.endswith("is damaged and passed over"))
        assert said in error
        assert printed.out == ""
    assert main(["export", str(runs.stage2), "--out", out, "--model.init_args.tuning.r", "3"]) == 1
    assert "has other weights than" in capsys.readouterr().err
    assert main(["export", str(runs.stage2), "--out", out, "--model.init_args.nothing", "1"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "run"]

"""Which run goes on, and from where."""

import json
import os
import shutil

import pytest
import torch
import yaml

from skeleton_llm.ablation.slots import REFUSED
from skeleton_llm.cli.main import main
from skeleton_llm.cli.resume import changes, newest_checkpoint, refuse_another, refuse_changes
from small_runs import stage1_arguments, stage2_arguments


class Trap:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def runs(small_data, tmp_path_factory):
    """Both stages, finished."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(stage1_arguments(small_data, folder / "stage1")) == 0
    assert main(stage2_arguments(small_data, folder / "stage2", folder / "stage1/tokenizer")) == 0
    return folder


def test_the_newest_whole_checkpoint_is_found(tmp_path, capsys):
    for step in (3, 20):
        torch.save({"global_step": step}, tmp_path / f"step={step}.ckpt")
    (tmp_path / "step=30.ckpt").write_bytes((tmp_path / "step=20.ckpt").read_bytes()[:-100])
    torch.save({"no": "step"}, tmp_path / "step=40.ckpt")
    torch.save({"global_step": 50}, tmp_path / "best.ckpt")  # of the middle of a step
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    torch.save({"global_step": 60}, elsewhere / "step=60.ckpt")
    (tmp_path / "step=60.ckpt").symlink_to(elsewhere / "step=60.ckpt")
    (tmp_path / "last.ckpt").symlink_to("nowhere.ckpt")
    shards = tmp_path / "step=25.ckpt"
    shards.mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "step=20.ckpt"
    assert "step=30.ckpt is damaged and passed over" in capsys.readouterr().err
    torch.save({"global_step": 25, "shards": {}}, shards / "meta.pt")
    assert newest_checkpoint(tmp_path) == shards


def test_a_folder_of_checkpoints_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    torch.save({"global_step": 3}, tmp_path / "real/step=3.ckpt")
    (tmp_path / "checkpoints").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="checkpoints is a link, and none is followed"):
        newest_checkpoint(tmp_path / "checkpoints")


def test_a_run_that_was_moved_is_the_same_run_and_what_is_no_record_is_named(runs, small_data, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(runs / "stage1", moved)
    assert main(stage1_arguments(small_data, moved)) == 0
    assert f"finished: {moved}" in capsys.readouterr().out
    for name, junk in (("run.json", "["), ("run.json", "[]"), ("run.json", "{}"), ("config.yaml", "[")):
        (moved / name).write_text(junk)
        assert main(stage1_arguments(small_data, moved)) == 2
        assert f"{moved / name} " in capsys.readouterr().err


def test_a_checkpoint_that_would_run_code_is_refused_before_anything_starts(small_data, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({"global_step": 9, "code": Trap(tmp_path / "trap")}, folder / "step=9.ckpt")
    assert main(stage1_arguments(small_data, tmp_path)) == 2
    assert "step=9.ckpt holds more than tensors and plain values" in capsys.readouterr().err
    assert not (tmp_path / "trap").exists()


def test_what_lightnings_own_requeueing_left_is_refused(small_data, tmp_path, capsys):
    torch.save({"global_step": 9}, tmp_path / "hpc_ckpt_1.ckpt")
    assert main(stage1_arguments(small_data, tmp_path)) == 2
    assert "hpc_ckpt_1.ckpt was written by Lightning's own requeueing" in capsys.readouterr().err


def test_what_slurm_is_asked_for_is_no_part_of_a_run():
    then = {"trainer": {"max_steps": 5, "callbacks": [{"class_path": "A"}]}, "slurm": {"time": "1:00:00"}}
    now = {"trainer": {"max_steps": 6, "callbacks": []}, "slurm": {"time": "2:00:00"}, "ckpt_path": "x"}
    assert changes(then, now) == ["trainer.callbacks.0.class_path (A -> None)", "trainer.max_steps (5 -> 6)"]


@pytest.mark.parametrize("refuse", [refuse_changes, refuse_another])
def test_a_table_knows_a_refusal_and_leaves_its_advice_for_one_run_away(refuse, tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path} {REFUSED} .*a \\(1 -> 2\\); give "):
        refuse(tmp_path, ["a (1 -> 2)"])


def test_a_changed_run_goes_on_knowingly_and_the_change_is_kept(small_data, runs, tmp_path, capsys):
    folder = tmp_path / "stage1"
    assert main(stage1_arguments(small_data, folder)) == 0
    rates = {"lr": 5e-4, "weight_decay": 0.3}
    more = ["--trainer.max_steps", "7"]
    more += [f"--model.init_args.optimization.{name}={value}" for name, value in rates.items()]
    assert main(stage1_arguments(small_data, folder, *more)) == 2
    error = capsys.readouterr().err
    assert "trainer.max_steps (6 -> 7)" in error
    assert "--override-config" in error
    shown = ["--override-config", "--trainer.enable_progress_bar", "true"]
    assert main(stage1_arguments(small_data, folder, *more, *shown)) == 0
    captured = capsys.readouterr()
    assert "7/7" in captured.out  # and not the one step that was left
    assert "going on from step 6 (" in captured.err
    assert "finished:" in captured.out
    assert "trainer.max_steps (6 -> 7)" in (folder / "overrides.txt").read_text()
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest.name == "step=7.ckpt"
    (group,) = torch.load(newest, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == rates["weight_decay"]
    assert group["initial_lr"] == rates["lr"]  # and not the checkpoint's
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"] == 7
    assert (folder / "results.step=6.json").is_file()
    assert main(stage1_arguments(small_data, folder, *more, *shown[1:])) == 0  # the new config is the run's now


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data", "another dataset (its content hash)"),
        ("llm", "another base model (its fingerprint)"),
        ("tokenizer", "another action tokenizer (its fingerprint)"),
        ("world_size", "another number of ranks"),
    ],
)
def test_a_run_on_other_things_than_it_began_with_is_refused(small_data, runs, capsys, name, said):
    folder = runs / "stage2"
    identity = json.loads((folder / "run.json").read_text())
    assert {*identity} == {"data", "llm", "tokenizer", "world_size"}
    results = (folder / "results.json").read_text()
    arguments = stage2_arguments(small_data, folder, runs / "stage1/tokenizer")
    (folder / "run.json").write_text(json.dumps(identity | {name: "other"}))
    try:
        if name == "world_size":
            assert main(arguments) == 0  # the results of a finished run are what they are
            (folder / "results.json").unlink()
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    finally:
        (folder / "run.json").write_text(json.dumps(identity))
        (folder / "results.json").write_text(results)

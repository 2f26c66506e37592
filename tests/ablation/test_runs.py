"""Which runs a matrix comes to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from skeleton_llm.ablation import Setting, plan, read_matrix, unique_runs

ROOT = Path(__file__).parents[2]
MATRIX = {
    "quick": {"every": ["ablation/new_words"], "stage1": ["ablation/no_noise"], "rounds": 1},
    "cells": {
        "full": {"title": "all", "runs": {"stage1": ["stage1"], "stage2": ["stage2"]}},
        "flat": {"title": "flat", "runs": {"stage1": ["stage1", "ablation/euclidean"], "stage2": ["stage2"]}},
        "whole": {"title": "all weights", "runs": {"stage1": ["stage1"], "stage2": ["stage2", "ablation/full_tuning"]}},
        "unseen": {
            "title": "unseen",
            "runs": {"stage1": ["stage1"], "stage2": ["stage2"]},
            "rounds": ["unseen/draw0", "unseen/draw1"],
            "against": None,
        },
        "bones": {
            "title": "classifier",
            "runs": {"bone": ["recognizer", "--model.init_args.streams=[bone]"]},
            "quick": ["ablation/late_latents"],
        },
    },
}


@pytest.fixture
def matrix(tmp_path):
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(MATRIX, sort_keys=False))
    return read_matrix(tmp_path / "matrix.yaml", ROOT / "configs")


@pytest.fixture
def setting(monkeypatch):
    monkeypatch.chdir(ROOT)
    return Setting(ROOT / "runs/ablations/nw_ucla", "nw_ucla", ROOT / "configs")


def configs(run) -> list[str]:
    return [given for key, given in zip(run.arguments, run.arguments[1:], strict=False) if key == "--config"]


def test_equal_tokenizers_are_one_run_in_the_first_cell_that_has_it(matrix, setting):
    full, flat, whole, unseen, bones = plan(matrix, [0], setting)
    home = setting.folder
    assert full.rounds[0]["stage1"] is whole.rounds[0]["stage1"]
    assert whole.rounds[0]["stage1"].folder == home / "full/seed0/stage1"
    assert whole.rounds[0]["stage2"].folder == home / "whole/seed0/stage2"
    assert flat.rounds[0]["stage1"].folder == home / "flat/seed0/stage1"
    assert [one["stage2"].folder for one in unseen.rounds] == [
        home / f"unseen/seed0/draw{draw}/stage2" for draw in (0, 1)
    ]
    assert [run.folder.relative_to(home).as_posix() for run in unique_runs([whole, full, bones])] == [
        "full/seed0/stage1",
        "whole/seed0/stage2",
        "full/seed0/stage2",
        "bones/seed0/bone",
    ]
    assert len(unique_runs(plan(matrix, [0, 1], setting))) == 2 * (2 + 2 + 1 + 4 + 1)


def test_quick_runs_are_those_that_answer(matrix, setting):
    flat = matrix.cells["flat"]
    beside = replace(flat, runs={"stage1": flat.runs["stage1"], "beside": ("recognizer",), "stage2": ("stage2",)})
    for quick, runs in ((False, ["stage1", "beside", "stage2"]), (True, ["stage1", "stage2"])):
        (one,) = plan(replace(matrix, cells={"flat": beside}), [0], replace(setting, quick=quick))
        assert [*one.rounds[0]] == runs


def test_a_cell_may_have_fewer_seeds_than_the_table(matrix, setting):
    cells = {name: replace(cell, seeds=1 if name == "unseen" else None) for name, cell in matrix.cells.items()}
    planned = plan(replace(matrix, cells=cells), [0, 1], setting)
    assert [one.name for one in planned if not one.wanted] == ["unseen/seed1"]


def test_a_run_is_a_command_as_one_would_type_it(matrix, setting):
    whole = plan(matrix, [3], setting)[2].rounds[0]["stage2"]
    assert " ".join(whole.arguments) == (
        "--config configs/stage2.yaml --config configs/data/nw_ucla.yaml --config configs/ablation/full_tuning.yaml"
        " --seed_everything 3 --data.init_args.seed 3"
        " --model.init_args.tokenizer runs/ablations/nw_ucla/full/seed3/stage1/tokenizer"
        " --trainer.default_root_dir runs/ablations/nw_ucla/whole/seed3/stage2 --trainer.enable_progress_bar false"
    )
    assert whole.needs is not None
    assert whole.needs.folder == setting.folder / "full/seed3/stage1"


def test_what_makes_the_cell_stands_behind_what_the_user_gives(matrix, setting):
    given = {"overlays": ("mine.yaml",), "of_base": {"stage2": ("large.yaml",)}, "llm": "my/llm", "more": ("--a", "b")}
    own = Setting(setting.folder, "utd_mhad", setting.shipped, **given)
    _, _, whole, _, bones = plan(matrix, [0], own)
    given_last = ["configs/data/utd_mhad.yaml", "mine.yaml", "large.yaml", "configs/ablation/full_tuning.yaml"]
    assert configs(whole.rounds[0]["stage2"]) == ["configs/stage2.yaml", *given_last]
    assert configs(whole.rounds[0]["stage1"])[-1] == "mine.yaml"
    assert "my/llm" in whole.rounds[0]["stage1"].arguments
    assert "my/llm" not in bones.rounds[0]["bone"].arguments  # has none
    assert bones.rounds[0]["bone"].arguments[-3:] == ("--model.init_args.streams=[bone]", "--a", "b")


def test_quick_runs_are_small_and_of_one_round(matrix, setting):
    quick = Setting(setting.folder, "synthetic", setting.shipped, quick=True)
    full, flat, _, unseen, bones = plan(matrix, [0], quick)
    assert configs(bones.rounds[0]["bone"])[-1] == "configs/ablation/late_latents.yaml"
    assert len(unseen.rounds) == 1
    assert configs(flat.rounds[0]["stage1"])[-1] == "configs/ablation/euclidean.yaml"
    assert configs(full.rounds[0]["stage1"])[-2:] == [
        "configs/ablation/new_words.yaml",
        "configs/ablation/no_noise.yaml",
    ]
    assert configs(full.rounds[0]["stage2"])[-1] == "configs/ablation/new_words.yaml"


def test_a_finished_run_is_known_by_its_command_and_the_text_of_its_yaml(matrix, setting, tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1")
    own = Setting(tmp_path / "runs", "nw_ucla", setting.shipped, overlays=(str(tmp_path / "mine.yaml"),))
    run = plan(matrix, [0], own)[0].rounds[0]["stage1"]
    run.folder.mkdir(parents=True)
    assert not run.finished
    assert not run.as_asked
    (run.folder / "results.json").write_text("{}")
    run.note()
    assert run.finished
    assert run.as_asked
    elsewhere = replace(run, arguments=tuple(one.replace("configs/", f"{ROOT}/configs/") for one in run.arguments))
    assert elsewhere.as_asked
    (tmp_path / "mine.yaml").write_text("a: 2")
    assert not run.as_asked
    more = Setting(tmp_path / "runs", "nw_ucla", setting.shipped, more=("--trainer.max_steps", "5"))
    assert not plan(matrix, [0], more)[0].rounds[0]["stage1"].as_asked


def test_a_finished_run_is_known_by_its_clips_and_its_tokenizer(matrix, setting, tmp_path):
    (tmp_path / "clips").mkdir()
    about, tokenizer = tmp_path / "clips/dataset.json", tmp_path / "runs/full/seed0/stage1/tokenizer/model.safetensors"
    about.write_text('{"content_hash": "5f5f"}')
    (tmp_path / "mine.yaml").write_text(f"data: {{init_args: {{folder: {tmp_path / 'clips'}}}}}")
    for own in (
        Setting(tmp_path / "runs", "nw_ucla", setting.shipped, more=("--data.init_args.folder", str(about.parent))),
        Setting(tmp_path / "runs", "nw_ucla", setting.shipped, more=(f"--data.init_args.folder={about.parent}",)),
        Setting(tmp_path / "runs", "nw_ucla", setting.shipped, overlays=(str(tmp_path / "mine.yaml"),)),
    ):
        run = plan(matrix, [0], own)[0].rounds[0]["stage2"]
        for file in (tokenizer, run.folder / "results.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
        run.note()
        assert run.as_asked
        for file in (about, tokenizer):
            kept = file.read_text()
            file.write_text('{"content_hash": "6a6a"}')
            assert not run.as_asked
            file.write_text(kept)
            assert run.as_asked


def test_what_an_earlier_revision_did_not_note_is_not_asked_for(matrix, setting, tmp_path):
    own = Setting(tmp_path / "runs", "nw_ucla", setting.shipped)
    run = plan(matrix, [0], own)[0].rounds[0]["stage1"]
    run.folder.mkdir(parents=True)
    run.note()
    (noted,) = json.loads((run.folder / "asked.json").read_text())
    (run.folder / "asked.json").write_text(json.dumps({key: noted[key] for key in ("arguments", "configs")}))
    assert run.as_asked
    run.note(compared=True)
    assert len(json.loads((run.folder / "asked.json").read_text())) == 2


def test_a_damaged_note_is_none(matrix, setting, tmp_path):
    run = plan(matrix, [0], Setting(tmp_path / "runs", "nw_ucla", setting.shipped))[0].rounds[0]["stage1"]
    run.folder.mkdir(parents=True)
    (run.folder / "asked.json").write_text("[{")
    assert not run.as_asked
    assert not run.otherwise

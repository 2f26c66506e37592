"""The command from its matrix to its report, with a command that stands in for ``skeleton-llm fit``."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from transformers import AutoTokenizer

import skeleton_llm.cli.ablate
from finished_runs import NAMES, write_answers, write_curves, write_facts
from skeleton_llm.ablation import Crew, read_matrix
from skeleton_llm.cli.main import configs, main
from skeleton_llm.language.loading import BUILT_IN
from skeleton_llm.metrics import bootstrap_interval
from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips

MATRIX = {
    "paper": {
        "title": "A Paper",
        "data": "their clips",
        "llm": "their model",
        "poses": "their poses",
        "recipe": {"stage1": "stage1", "stage2": "stage2"},
    },
    "goals": {"synthetic": {"top1": 99, "not_below": ["flat", "whole"]}},
    "quick": {"every": ["ablation/tiny"], "stage1": [], "rounds": 1},
    "cells": {
        "full": {
            "title": "all parts",
            "runs": {"stage1": ["stage1"], "stage2": ["stage2"]},
            "paper": 91.5,
            "source": "Table 1",
        },
        "flat": {
            "title": "flat codebook",
            "runs": {"stage1": ["stage1", "ablation/euclidean"], "stage2": ["stage2", "ablation/no_noise"]},
            "paper": 89.7,
            "source": "Table 7",
        },
        "whole": {
            "title": "all weights",
            "note": "read with care",
            "runs": {"stage1": ["stage1"], "stage2": ["stage2", "ablation/full_tuning"]},
        },
        "unseen": {
            "title": "unseen classes",
            "runs": {"stage1": ["stage1"], "stage2": ["stage2"]},
            "rounds": ["unseen/draw0", "unseen/draw1"],
            "against": None,
            "paper": 62.4,
            "source": "unseen",
        },
        "unseen_whole": {
            "title": "unseen classes, all weights",
            "runs": {"stage1": ["stage1"], "stage2": ["stage2", "ablation/full_tuning"]},
            "rounds": ["unseen/draw0", "unseen/draw1"],
            "seeds": 1,
            "against": "unseen",
            "paper": 37.7,
            "source": "unseen",
        },
    },
}


@pytest.fixture(scope="module")
def repeating(tmp_path_factory) -> Path:
    """40 test clips from row 100 on, two of which have the joints of training clips."""
    folder = tmp_path_factory.mktemp("data") / "repeating"
    clips = list(synthetic_clips(subjects=4))
    train = [clip for clip in clips if clip.subject != 3][:100]
    test = [clip for clip in clips if clip.subject == 3][:40]
    test[3], test[17] = (replace(test[at], joints=train[at].joints) for at in (3, 17))
    about = {"name": "synthetic", "layout": "ntu25", "class_names": CLASS_NAMES, "num_persons": 2}
    write_dataset(folder, [*train, *test], source="synthetic", **about)
    return folder


@pytest.fixture
def ablate(monkeypatch, tmp_path, repeating, capsys):
    """The command in an empty folder; gives the exit code, what it said, and the lines on the error channel."""
    command = [sys.executable, str(Path(__file__).parents[1] / "finished_runs.py")]
    monkeypatch.setattr(skeleton_llm.cli.ablate, "Crew", partial(Crew, command=command))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(MATRIX, sort_keys=False))

    def run(*more: str, data: Path = repeating) -> tuple[int, str, str]:
        given = ["--data", "synthetic", "--matrix", "matrix.yaml", "--jobs", "2", *more]
        code = main(["ablate", *given, "--data.init_args.folder", str(data)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def report() -> str:
    return Path("runs/ablations/synthetic/report.md").read_text()


def row(text: str, start: str) -> list[str]:
    """The cells of the first line of a table that starts so."""
    (line, *_) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_table_is_run_once_and_grows_with_seeds(ablate):
    code, said, _ = ablate("--seeds", "2", "--cells", "full", "whole")
    assert code == 0
    assert "0 of 6 runs are finished; 2 side by side" in said
    assert said.count("begins") == said.count("finished in") == 6
    assert row(report(), "`full`: ")[1] == "0, 1"
    code, said, _ = ablate("--seeds", "2", "--cells", "full", "whole", "--no-report")
    assert (code, said.count("begins")) == (0, 0)
    assert "6 of 6 runs are finished" in said
    code, said, _ = ablate("--seeds", "3", "--cells", "full", "flat", "--no-report")
    assert (code, said.count("begins")) == (0, 2 + 3 * 2)
    assert row(report(), "`full`: ")[1] == "0, 1"
    assert ablate("--report-only")[0] == 0
    assert row(report(), "`full`: ")[1] == "0, 1, 2"


def test_the_reports_numbers_are_those_of_the_clips(ablate):
    ablate("--seeds", "3", "--cells", "full", "flat")
    text = report()
    home = Path("runs/ablations/synthetic")
    right = {}
    for cell in ("full", "flat"):
        kept = [load_file(home / f"{cell}/seed{seed}/stage2/scores/test.safetensors") for seed in range(3)]
        right[cell] = np.stack([one["scores"].argmax(1) == one["labels"] for one in kept]).astype(float)
    full, flat = right["full"], right["flat"]
    main_row = row(text, "`flat`: flat codebook")
    shown = int(1000 * flat.mean() + 1e-6) / 10
    assert main_row[2:5] == ["40", "80.0", f"{shown:.1f}"]  # of 10 validation clips 7, 8 and 9 are right
    assert float(main_row[5]) == pytest.approx(100 * flat.mean(1).std(ddof=1), abs=0.1)
    difference = flat - full
    assert float(main_row[8]) == pytest.approx(100 * difference.mean(), abs=0.011)
    interval = bootstrap_interval([difference], seeds=True, clips=True)
    low, high = map(float, main_row[9].split(" to "))
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.011)
    assert main_row[10:12] == ["89.7 (Table 7)", "-1.80"]
    resolved = interval.low > 0 or interval.high < 0
    assert resolved != main_row[12].startswith("not resolved")
    assert (difference.mean() < 0) == (main_row[12] in ("as in the paper", "not resolved, the paper's sign"))
    kept = np.delete(flat, [3, 17], axis=1)
    assert "2 test clips have, bit for bit, the joints of a training clip" in text
    assert row(text[text.index("## Without") :], "`flat` | ")[2] == f"{int(1000 * kept.mean() + 1e-6) / 10:.1f}"


def test_goals_are_met_or_missed(ablate):
    ablate("--seeds", "2", "--cells", "full", "flat")
    text = report()
    goal = row(text, "`full` reaches 99")
    assert goal[1:] == [*(row(text, "`full`: all parts")[at] for at in (4, 7)), "**missed**"]
    other = row(text, "`full` is not below `flat`")
    difference = row(text, "`flat`: flat codebook")[8]
    assert float(other[1]) == pytest.approx(-float(difference), abs=0.011)
    assert other[3] == ("**missed**" if other[1].startswith("-") else "met")
    assert row(text, "`full` is not below `whole`")[3] == "`whole` is not finished"


def test_unseen_classes_are_told_round_by_round(ablate):
    ablate("--seeds", "2", "--cells", "unseen", "full")
    text, rounds = report(), []
    for draw in ("draw0", "draw1"):
        runs = [Path(f"runs/ablations/synthetic/unseen/seed{seed}/{draw}/stage2") for seed in range(2)]
        rounds.append(np.mean([json.loads((run / "results.json").read_text())["test/top1"] for run in runs]))
        shown = row(text, f"`unseen` | {draw}")
        assert shown[2:5] == [", ".join(f"`{name}`" for name in NAMES), "40", "25.0"]
        assert float(shown[5]) == pytest.approx(100 * rounds[-1], abs=0.1)
    last = row(text, "`unseen` | all")
    assert float(last[5]) == pytest.approx(100 * np.mean(rounds), abs=0.1)
    assert float(last[7]) == pytest.approx(100 * np.std(rounds, ddof=1), abs=0.1)
    assert "`unseen/seed0`" not in text


def test_a_cell_that_repeats_itself_has_one_seed_unless_more_are_named(ablate):
    code, said, _ = ablate("--seeds", "2", "--cells", "unseen", "unseen_whole")
    assert (code, said.count("begins")) == (0, 2 * 2 * 2 + 2)
    home, text = Path("runs/ablations/synthetic"), report()
    shown = row(text, "`unseen_whole`: ")
    assert shown[1] == "0"
    right = {}
    for cell, seeds in (("unseen", (0, 1)), ("unseen_whole", (0,))):
        kept = [
            [load_file(home / f"{cell}/seed{seed}/draw{draw}/stage2/scores/test.safetensors") for seed in seeds]
            for draw in range(2)
        ]
        right[cell] = [np.stack([one["scores"].argmax(1) == one["labels"] for one in of]).astype(float) for of in kept]
    draws = [values.mean() for values in right["unseen_whole"]]
    assert float(shown[5]) == pytest.approx(100 * np.std(draws, ddof=1), abs=0.1)
    for cell, found in (("unseen_whole", shown), ("unseen", row(text, "`unseen`: "))):
        over = bootstrap_interval(right[cell], seeds=cell == "unseen", clips=False, whole_groups=True)
        low, high = map(float, found[6].split(" to "))
        assert (low, high) == pytest.approx((100 * over.low, 100 * over.high), abs=0.11)
    difference = np.mean(draws) - np.mean([values[0].mean() for values in right["unseen"]])
    assert float(shown[8].split(" ")[0]) == pytest.approx(100 * difference, abs=0.011)
    assert shown[8].endswith(" to `unseen`")
    assert shown[12] == "not judged below 3 seeds or rounds"
    assert "`unseen_whole` (seed" not in text[text.index("Not begun") :].splitlines()[0]
    assert "--seeds 1 --cells unseen_whole" in text
    code, said, _ = ablate("--seeds", "2", "--only", "unseen_whole/seed1")
    assert (code, said.count("begins")) == (0, 2)
    assert row(report(), "`unseen_whole`: ")[1] == "0, 1"
    assert "--only unseen_whole/seed0 unseen_whole/seed1" in report()
    ablate("--seeds", "1", "--report-only")
    assert row(report(), "`unseen_whole`: ")[1] == "0, 1"


def test_likelihoods_are_divided_by_the_tokens_of_names(ablate):
    ablate("--seeds", "1", "--cells", "full", "whole")
    text = report()
    words = AutoTokenizer.from_pretrained(BUILT_IN)
    tokens = np.array([len(words(f" {name}")["input_ids"]) + 1 for name in NAMES])
    assert len({*tokens.tolist()}) > 1
    kept = load_file("runs/ablations/synthetic/whole/seed0/stage2/scores/test.safetensors")
    by_length = ((kept["scores"] / tokens).argmax(1) == kept["labels"]).mean()
    plainly = (kept["scores"].argmax(1) == kept["labels"]).mean()
    shown = row(text[text.index("## Top-1 by length of name") :], "`whole`")
    assert shown[1:3] == [f"{int(1000 * share + 1e-6) / 10:.1f}" for share in (plainly, by_length)]
    assert by_length != plainly


def test_scores_of_another_test_than_the_runs_own_are_not_read(ablate):
    ablate("--seeds", "2", "--cells", "full")
    stage2 = Path("runs/ablations/synthetic/full/seed1/stage2")
    answers = np.zeros(40, int)
    write_answers(stage2, np.arange(100, 140), np.arange(40) % len(NAMES), answers)
    ablate("--report-only")
    assert row(report(), "`full`: ")[1] == "0"
    assert f"Not read: full/seed1: {stage2}/scores/test.safetensors answers" in report()
    (stage2 / "results.json").write_text(json.dumps({"test/top1": 0.25}))
    write_answers(stage2, np.arange(100, 140), np.arange(40) % len(NAMES), answers, data="6a6a")
    ablate("--report-only")
    assert "Not read: full/seed1: its test has data 6a6a, that of full/seed0 5f5f" in report()
    write_answers(stage2, np.arange(100, 140), (np.arange(40) + 1) % len(NAMES), answers)
    ablate("--report-only")
    assert "Not read: full/seed1: its test has other labels of the same clips than that of full/seed0" in report()
    fewer = np.arange(20)  # as with --trainer.limit_test_batches
    write_answers(stage2, 100 + fewer, fewer % len(NAMES), answers[:20])
    ablate("--report-only")
    assert "Not read: full/seed1: its test has other clips (20) than that of full/seed0 (40)" in report()
    assert row(report(), "`full`: ")[1:3] == ["0", "40"]


def test_a_report_with_other_options_says_so_and_gives_no_command(ablate):
    ablate("--cells", "full")
    assert "Made by other options" not in report()
    command = "`skeleton-llm ablate --data synthetic --folder runs/ablations/synthetic --matrix matrix.yaml --seeds 1"
    command += " --cells full"
    assert command in report()
    overlay = str(configs() / "ablation/night.yaml")
    ablate("--report-only", "--config", overlay)
    assert "**Made by other options than this report was asked with" in report()
    assert command not in report()
    for run in ("stage1", "stage2"):  # as SLURM's runs are
        Path(f"runs/ablations/synthetic/full/seed0/{run}/asked.json").unlink()
    ablate("--report-only")
    assert "Made by other options" not in report()
    ablate("--report-only", "--config", overlay)
    assert "**Made by other options than this report was asked with" in report()
    _, said, _ = ablate("--plan", "--cells", "full", "--config", overlay)
    assert said.count("finished by other options runs/ablations/synthetic/full/seed0/") == 2
    code, _, error = ablate("--slurm", "--cells", "full", "--config", overlay)
    assert code == 2
    assert error.startswith(
        "error: finished by other options or configs: runs/ablations/synthetic/full/seed0/stage1 and 1 more; give"
    )


def test_a_finished_run_that_fit_found_to_be_the_same_is_of_both_commands(ablate):
    overlay = str(configs() / "ablation/night.yaml")
    ablate("--cells", "full")
    for more in ([], ["--config", overlay]):
        assert ablate("--cells", "full", *more)[0] == 0
        assert "Made by other options" not in report()
    assert len(Path("runs/ablations/synthetic/full/seed0/stage2/cost.jsonl").read_text().splitlines()) == 1
    code, said, _ = ablate("--cells", "full", "--test.fail", "full")
    assert code == 1
    home = "runs/ablations/synthetic/full/seed0/stage1"
    assert (
        f"{home}: is finished, but not by this command: error: {home} holds a run with another config: a (1 -> 2); give"
        f" its own options, or another --folder ({home}/log.txt)"
    ) in said
    assert "Made by other options" in report()
    for run in ("stage1", "stage2"):  # as SLURM's runs are
        Path(f"runs/ablations/synthetic/full/seed0/{run}/asked.json").unlink()
    assert ablate("--cells", "full", "--config", overlay)[0] == 0
    for more in ([], ["--config", overlay]):
        ablate("--report-only", *more)
        assert "Made by other options" not in report()


def test_seeds_that_have_others_missing_before_them_are_named_in_the_command(ablate):
    ablate("--seeds", "2", "--only", "full/seed1")
    assert "--matrix matrix.yaml --seeds 2 --only full/seed1" in report()


def test_a_table_is_of_the_data_that_most_runs_are_of(ablate):
    ablate("--seeds", "3", "--cells", "full")
    stage2 = Path("runs/ablations/synthetic/full/seed0/stage2")
    kept = load_file(stage2 / "scores/test.safetensors")
    write_answers(stage2, kept["rows"], kept["labels"], kept["scores"].argmax(1), data="6a6a")
    ablate("--report-only")
    assert row(report(), "`full`: ")[1] == "1, 2"
    assert "Not read: full/seed0: its test has data 6a6a, that of full/seed1 5f5f" in report()


def test_damaged_scores_of_validation_are_no_figure(ablate):
    ablate("--seeds", "1", "--cells", "full")
    assert row(report(), "`full`: ")[3] == "70.0"
    Path("runs/ablations/synthetic/full/seed0/stage2/scores/val.safetensors").write_text("damaged")
    assert ablate("--report-only")[0] == 0
    assert row(report(), "`full`: ")[3] == "-"


def test_configs_are_shown_whole_once_and_then_by_what_differs(ablate):
    ablate("--cells", "full", "flat", "whole")
    text = report()
    home = "runs/ablations/synthetic"
    assert text.count("max_steps: 6") == 2  # stage 1 and stage 2 of full
    whole = text[text.index(f"config of {home}/full/seed0/stage2") :]
    assert whole[: whole.index("</details>")].count("max_steps: 6") == 1
    changed = text[text.index(f"config of {home}/flat/seed0/stage1, beside that of {home}/full/seed0/stage1") :]
    assert changed[: changed.index("</details>")].splitlines()[2:4] == [
        "    trainer.overlays.2: (absent) -> euclidean",
        "",
    ]
    assert f"config of {home}/whole/seed0/stage1" not in text  # which is full's
    assert "default_root_dir: " not in changed[: changed.index("</details>")]


def test_the_report_names_what_differs_what_it_cost_and_how_it_was_made(ablate):
    ablate("--seeds", "1")
    text, page = report(), Path("runs/ablations/synthetic/report.html").read_text()
    assert "| data | their clips | synthetic, synthetic_xsub: 100 training and 40 test clips |" in text
    assert "| language model | their model | built-in, 1,311,872 weights |" in text
    assert "| poses | their poses | 3D, 25 joints (ntu25) |" in text
    assert row(text, "stage1 | `trainer.max_steps`") == ["stage1", "`trainer.max_steps`", "`1000`", "`6`"]
    assert "| stage2 | `model.init_args.llm.name` |" not in text  # the same
    assert row(text, "`full` | 12.3") == ["`full`", "12.3", "99", "120", "0.031"]
    assert row(text, "`full` | stage1 | 1")[2] == "1"
    assert row(text, "`unseen` | stage1 | 2")[2] == "2"  # two rounds
    assert f"`{NAMES[0]}` -> `{NAMES[1]}`: " in text
    assert "skeleton-llm ablate --data synthetic --folder runs/ablations/synthetic --matrix matrix.yaml" in text
    assert "revision: abc1234" in text
    assert "data: 5f5f" in text
    assert "skeleton-llm fit --config " in text
    assert "Quick runs" not in text
    assert "`whole`: read with care" in text
    for figure in ("differences", "tokenizer_curves", "answer_curves", "confusion"):
        assert f"figures/{figure}.svg" in text
        assert Path(f"runs/ablations/synthetic/figures/{figure}.svg").read_text().startswith("<svg")
    assert page.count("data:image/svg+xml;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_only_what_is_finished_is_reported_and_the_rest_is_named(ablate):
    code, said, _ = ablate("--seeds", "2", "--cells", "full", "flat", "--test.fail", "flat/seed1")
    assert code == 1
    assert "failed: runs/ablations/synthetic/flat/seed1/stage1: ended with exit code 2: error: told to fail" in said
    assert "flat/seed1/stage2: not begun, since runs/ablations/synthetic/flat/seed1/stage1 failed" in said
    text = report()
    assert (row(text, "`full`: ")[1], row(text, "`flat`: ")[1]) == ("0, 1", "0")
    assert row(text, "`flat/seed1`")[1].startswith("`runs/ablations/synthetic/flat/seed1/stage1`")
    assert "`whole`: " not in text
    assert "Not begun: `whole` (seeds 0, 1), `unseen` (seeds 0, 1), `unseen_whole` (seed 0)." in text
    before = sorted(Path("runs").rglob("*"))
    code, said, _ = ablate("--seeds", "2", "--report-only", "--test.fail", "flat/seed1")
    assert (code, said.splitlines()) == (0, [f"runs/ablations/synthetic/report.{kind}" for kind in ("md", "html")])
    assert sorted(Path("runs").rglob("*")) == before
    assert report() == text


def test_a_table_without_a_finished_run_has_a_report_too(ablate):
    assert ablate("--cells", "full", "--test.fail", "full")[0] == 1
    text = report()
    assert "No cell is finished yet." in text
    assert row(text, "`full/seed0`")[1].startswith("`runs/ablations/synthetic/full/seed0/stage1`")
    assert "Not begun: `flat` (seed 0), `whole` (seed 0), `unseen` (seed 0), `unseen_whole` (seed 0)." in text


def test_a_table_that_was_never_begun_has_no_report(ablate):
    code, _, error = ablate("--report-only", "--folder", "runs/elsewhere")
    assert (code, error) == (
        2,
        "error: runs/elsewhere: no table has been begun there; --folder names another place\n",
    )
    assert not Path("runs").exists()


def test_missing_data_is_told_before_anything_begins(ablate):
    code, said, error = ablate(data=Path("data/none"))
    assert (code, said) == (2, "")
    assert error.startswith("error: data/none/")
    assert len(error.splitlines()) == 1
    assert not Path("runs").exists()


def test_damaged_results_are_named_and_cost_the_report_nothing_else(ablate):
    ablate("--cells", "full", "flat")
    damaged = Path("runs/ablations/synthetic/flat/seed0/stage1/results.json")
    damaged.write_text("")
    assert ablate("--report-only")[0] == 0
    assert row(report(), "`full`: ")[1] == "0"
    assert f"Not read: flat/seed0: {damaged} is no JSON any more; remove it and give the command again" in report()


def test_runs_of_other_revisions_are_told(ablate, repeating):
    ablate("--cells", "full")
    assert "compare with care" not in report()
    stage2 = Path("runs/ablations/synthetic/full/seed0/stage2")
    write_facts(stage2, repeating, json.loads((stage2 / "results.json").read_text()), revision="def5678")
    ablate("--report-only")
    assert "`abc1234`, `def5678`" in report()
    assert "**Runs differ in Git revision; compare with care.**" in report()


def test_steps_that_were_done_twice_count_once(ablate):
    from skeleton_llm.ablation.findings import curves
    from skeleton_llm.ablation.runs import Run

    ablate("--cells", "full")
    run = Run(Path("runs/ablations/synthetic/full/seed0/stage1"), ())
    time.sleep(1.1)  # event files are read in the order of their seconds
    write_curves(run.folder, {"train/loss": {5: 7.0, 10: 0.5}})
    assert curves(run, ["train/loss", "none"]) == {"train/loss": {0: 2.0, 5: 7.0, 10: 0.5}}


def test_quick_runs_lie_apart_and_say_what_they_are(ablate):
    assert ablate("--quick", "--cells", "unseen")[0] == 0
    text = Path("runs/ablations/synthetic-quick/report.md").read_text()
    assert "**Quick runs of a few steps on a part of the clips.**" in text
    assert not Path("runs/ablations/synthetic-quick/unseen/seed0/draw1").exists()
    assert "--quick --matrix matrix.yaml --seeds 1 --cells unseen" in text


def test_a_plan_starts_nothing(ablate):
    code, said, _ = ablate("--plan", "--seeds", "2", "--only", "whole/seed1", "unseen/seed0")
    assert code == 0
    assert said.splitlines() == [
        "to run                    runs/ablations/synthetic/unseen/seed0/draw0/stage1",
        "to run                    runs/ablations/synthetic/unseen/seed0/draw0/stage2",
        "to run                    runs/ablations/synthetic/unseen/seed0/draw1/stage1",
        "to run                    runs/ablations/synthetic/unseen/seed0/draw1/stage2",
        "to run                    runs/ablations/synthetic/full/seed1/stage1",
        "to run                    runs/ablations/synthetic/whole/seed1/stage2",
        "2 cells with their seeds, 6 runs, 0 of them finished",
    ]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--cells", "fool"], "--cells fool: the matrix has full, flat, whole, unseen"),
        (["--only", "full/seed7"], "--only full/seed7: expected CELL/seedK, K below --seeds, which is 1"),
        (["--only", "fool/seed0"], "--only fool/seed0: expected CELL/seedK of the cells full, flat, whole, unseen"),
        (["--dry-run"], "--dry-run prints the scripts of --slurm; --plan shows what would run here"),
        (["--plan", "--seed", "5"], "--seed is no option of ablate, nor of its runs, whose are like --trainer."),
        (["--seeds", "0"], "--seeds is how many seeds there are, at least 1, got 0"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--matrix", "none.yaml"], "none.yaml: no such matrix; configs/ablations.yaml is the shipped one"),
        (["--config", "none.yaml"], "--config none.yaml: no such file"),
        (["--data", "mnist"], "--data mnist: there is no such overlay in"),
    ],
)
def test_what_cannot_be_is_one_sentence(ablate, more, said):
    code, _, error = ablate(*more)
    assert code == 2
    assert error.startswith(f"error: {said}")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("two", [("--plan", "--report-only"), ("--slurm", "--plan"), ("--report-only", "--slurm")])
def test_what_excludes_each_other_is_refused(ablate, two, capsys):
    with pytest.raises(SystemExit) as left:
        ablate(*two)
    assert left.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "more"),
    [(signal.SIGINT, 130, []), (signal.SIGUSR1, 85, ["--no-report"]), (signal.SIGTERM, 85, ["--no-report"])],
)
def test_a_signal_ends_the_command_with_the_report_of_what_is_finished(ablate, number, code, more):
    def stop():
        while not Path("runs/ablations/synthetic/full/seed0/stage1/results.json").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    left, _, error = ablate("--seeds", "2", *more)
    thread.join()
    assert left == code
    assert error == "stopped; the same command goes on\n"
    if not more:
        assert row(report(), "`full/seed0`")
        assert "`full` (seed 1)" in report()


def test_gpus_are_taken_where_the_configs_ask_for_them(ablate, monkeypatch):
    monkeypatch.setattr(skeleton_llm.cli.ablate, "visible_gpus", lambda: ["0", "1", "2"])
    slots = []
    monkeypatch.setattr(skeleton_llm.cli.ablate, "divide", lambda gpus, jobs: slots.append((gpus, jobs)) or [])
    monkeypatch.setattr(Crew, "work", lambda self, runs: None)
    overlay = ["--config", str(configs() / "hardware/a100.yaml")]
    for more in ([], overlay, ["--trainer.accelerator", "gpu"], [*overlay, "--trainer.accelerator=cpu"]):
        ablate(*more)
    assert slots == [([], 2), (["0", "1", "2"], 2), (["0", "1", "2"], 2), ([], 2)]


def test_the_shipped_matrix_is_sound_and_names_the_papers_numbers():
    matrix = read_matrix(configs() / "ablations.yaml", configs())
    paper = {name: cell.paper for name, cell in matrix.cells.items() if cell.paper is not None}
    assert paper["full"] == 91.5  # LLM-AR, NTU RGB+D 120 X-Set
    wanted = {"no_zipf": 89.9, "no_context": 89.8, "no_mmd": 90.3, "no_biases": 87.6, "euclidean": 89.7}
    wanted |= {"continuous": 83.4, "full_tuning": 79.6, "unseen": 62.4, "unseen_full_tuning": 37.7}
    assert wanted.items() <= paper.items()
    assert {"frozen", "untrained_llm"} <= matrix.cells.keys()
    for cell in (matrix.cells["unseen"], matrix.cells["unseen_full_tuning"]):
        assert (len(cell.rounds), cell.seeds) == (5, 1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_kind_of_quick_cell_is_really_trained_tested_and_reported(small_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kinds = ("full", "untrained_llm", "unseen", "ctr_gcn", "nearest")
    given = ["ablate", "--data", "synthetic", "--quick", "--data.init_args.folder", str(small_data), "--jobs", "2"]
    given += ["--cells", *kinds]
    assert main(given) == 0
    matrix = read_matrix(configs() / "ablations.yaml", configs())
    runs = capsys.readouterr().out.count("finished in")
    assert runs == 9
    text = Path("runs/ablations/synthetic-quick/report.md").read_text()
    for cell in map(matrix.cells.get, kinds):
        shown = row(text, f"`{cell.name}`: ")
        assert shown[1] == "0"
        if not cell.ensemble:
            (results,) = Path("runs/ablations/synthetic-quick").glob(f"{cell.name}/seed0/**/{cell.answer}/results.json")
            top1 = json.loads(results.read_text())["test/top1"]
            assert float(shown[4]) == pytest.approx(100 * top1, abs=0.1)
    by_length = text[text.index("## Top-1 by length of name") :]
    for cell in ("full", "untrained_llm"):
        results = json.loads(Path(f"runs/ablations/synthetic-quick/{cell}/seed0/stage2/results.json").read_text())
        shown = float(row(by_length, f"`{cell}`")[2])
        assert shown == pytest.approx(100 * results["test/top1_length_normalised"], abs=0.1)
    assert row(text, "`full` | stage1 | 1")[5] != ""
    revision = subprocess.run(
        ["git", "describe", "--always"], cwd=configs(), capture_output=True, text=True, check=True
    )
    assert revision.stdout.strip() in text
    assert main(given) == 0
    assert f"{runs} of {runs} runs are finished" in capsys.readouterr().out

import json
from pathlib import Path

import pytest
import torch

from skeleton_llm.cli.main import main
from skeleton_llm.metrics import SplitScores, read_scores, write_scores
from skeleton_llm.metrics.ensemble import choose_weights, facts

CLASSES = [f"action {index}" for index in range(6)]


def write(run: Path, split: str, scores: torch.Tensor, labels: torch.Tensor, **changes) -> str:
    of = facts("abc", "nw_ucla_xview", split, changes.pop("step", 100), CLASSES) | changes
    write_scores(run / f"scores/{split}.safetensors", SplitScores(scores, labels, torch.arange(len(labels)), of))
    return str(run)


def two_runs(folder: Path, **changes) -> list[str]:
    """The first is right where the second is not, and surer on the test clips."""
    labels = torch.tensor([0, 1, 2, 3])
    wrong = torch.tensor([1, 1, 3, 3])
    first = 2.0 * torch.nn.functional.one_hot(labels, 6)
    second = 3.0 * torch.nn.functional.one_hot(wrong, 6)
    runs = []
    for name, scores in (("joint", first), ("bone", second)):
        for split, factor in (("val", 1.0), ("test", 1.0 if name == "bone" else 2.0)):
            more = changes if name == "bone" and split == "val" else {}
            runs.append(write(folder / name, split, factor * scores, labels, **more))
    return runs[::2]


def test_the_table_holds_every_run_and_their_sum(tmp_path, capsys):
    runs = two_runs(tmp_path)
    assert main(["ensemble", *runs, "--weights", "2", "1", "--out", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "weights 2 1, given beforehand" in shown
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in shown.splitlines() if "|" in line}
    assert [cell.strip(" |") for cell in rows[""]][0::3] == ["val top-1", "test top-1"]
    assert rows[runs[0]][0] == "100.0"
    assert rows[runs[1]][0] == "50.0"
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["weights"] == [2, 1]
    assert kept["accuracy"]["ensemble"]["test"] == {"top1": 1.0, "top5": 1.0, "mean_class_accuracy": 1.0}
    assert kept["accuracy"][runs[1]]["test"] == {"top1": 0.5, "top5": 1.0, "mean_class_accuracy": 0.5}


def test_weights_are_chosen_on_validation_clips_alone(tmp_path, capsys):
    runs = two_runs(tmp_path)
    found = read_scores(tmp_path / "joint/scores/test.safetensors")
    write(tmp_path / "joint", "test", -found.scores, found.labels)  # the test clips would choose the other
    assert main(["ensemble", *runs, "--choose"]) == 0
    shown = capsys.readouterr().out
    assert "chosen on the validation clips" in shown
    val = [read_scores(Path(run) / "scores/val.safetensors") for run in runs]
    weights = choose_weights([one.scores for one in val], val[0].labels)
    assert f"weights {weights[0]:g} {weights[1]:g}," in shown
    assert weights[0] > weights[1]


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"data": "other"}, [], "cannot be added: data abc and other"),
        ({"protocol": "utd_mhad_xsub"}, [], "cannot be added: protocol nw_ucla_xview and utd_mhad_xsub"),
        ({"step": 80}, ["--choose"], "was validated last at step 80 but tested at 100"),
        ({}, ["--weights", "1"], "1 weights for 2 runs"),
    ],
)
def test_runs_that_do_not_fit_together_are_refused(tmp_path, capsys, changes, more, said):
    assert main(["ensemble", *two_runs(tmp_path, **changes), *more]) == 1
    assert said in capsys.readouterr().err


def test_runs_of_other_clips_a_run_named_twice_and_missing_or_damaged_files_are_refused(tmp_path, capsys):
    runs = two_runs(tmp_path)
    assert main(["ensemble", runs[0], runs[0]]) == 1
    assert "named twice" in capsys.readouterr().err
    write(tmp_path / "bone", "test", torch.randn(4, 6), torch.tensor([5, 1, 2, 3]))
    assert main(["ensemble", *runs]) == 1
    assert "other clips of the same split" in capsys.readouterr().err
    path = tmp_path / "bone/scores/test.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert main(["ensemble", *runs]) == 1
    assert f"{path} is damaged" in capsys.readouterr().err
    path.unlink()
    assert main(["ensemble", *runs]) == 1
    assert f"{path} is missing; the run is not finished" in capsys.readouterr().err


def test_runs_without_validation_clips_have_an_ensemble_but_no_choice(tmp_path, capsys):
    runs = two_runs(tmp_path)
    for run in runs:
        (Path(run) / "scores/val.safetensors").unlink()
    assert main(["ensemble", *runs]) == 0
    assert "val top-1" not in capsys.readouterr().out
    assert main(["ensemble", *runs, "--choose"]) == 1
    assert "wants validation clips" in capsys.readouterr().err

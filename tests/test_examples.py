"""The examples, with a command that stands in for ``skeleton-llm fit``."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

from skeleton_llm.signals import EXIT_CODE

ROOT = Path(__file__).parents[1]
FAKE = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from finished_runs import write_curves

given = dict(part[2:].split("=", 1) for part in sys.argv[1:] if "=" in part)
folder = Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1])
assert sys.argv[1:3] == ["--config", "stage2.yaml"]
assert sys.argv[sys.argv.index("--trainer.limit_test_batches") + 1] == "0"
assert given["model.init_args.tuning.r"].isdigit() and given["model.init_args.tuning.alpha"].isdigit()
if (Path("stop")).exists():
    Path("stop").unlink()
    (folder / "interrupted").touch()
    sys.exit({EXIT_CODE})
if Path("fail").exists():
    if Path("fail").read_text() == "once":
        Path("fail").unlink()
    sys.exit(2)
lr = float(given["model.init_args.optimization.lr"])
write_curves(folder, {{"val/top1": {{10: 0.99, 20: 1 - abs(lr - 3e-3)}}}})
"""


@pytest.fixture
def search(monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    spec = importlib.util.spec_from_file_location("optuna_search", ROOT / "examples/optuna_search.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(FAKE)
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "fake.py"])
    module.optuna.logging.set_verbosity(module.optuna.logging.WARNING)
    return module


@pytest.fixture
def drawn_alone(search, monkeypatch):
    """The search, whose trials are drawn and judged without a run; they fail while the file ``fail`` is there."""

    def judge(trial, folder, shared):
        chosen = search.suggest(trial)
        trial.set_user_attr("folder", str(folder))
        if Path("fail").exists():
            raise RuntimeError("told to fail")
        return chosen["model.init_args.optimization.lr"]

    monkeypatch.setattr(search, "measure", judge)
    return search


def trials(search, folder: str = "runs") -> list:
    storage = search.JournalStorage(search.JournalFileBackend(f"{folder}/trials.log"))
    return search.optuna.load_study(study_name="search", storage=storage).trials


def test_a_search_grows_and_names_its_best_trial(search, capsys):
    for _ in range(2):
        search.main(["runs", "--trials", "3", "--", "--config", "stage2.yaml"])
    found = trials(search)
    assert len(found) == 6
    assert len({trial.user_attrs["folder"] for trial in found}) == 6  # the second command draws other values
    for trial in found:
        assert trial.value == pytest.approx(1 - abs(trial.params["lr"] - 3e-3))  # the last validation's, not the best
    best = max(found, key=lambda trial: trial.value)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"val/top1 {best.value:.4f} with {best.params} in runs/")
    assert Path(best.user_attrs["folder"]).is_dir()


def test_an_interrupted_trial_goes_on_in_its_folder(search):
    Path("stop").touch()
    with pytest.raises(KeyboardInterrupt):
        search.main(["runs", "--trials", "2", "--", "--config", "stage2.yaml"])
    (interrupted,) = Path("runs").glob("*/interrupted")
    for _ in range(2):
        search.main(["runs", "--trials", "1", "--retry", "--", "--config", "stage2.yaml"])
    found = trials(search)
    assert found[1].user_attrs["folder"] == str(interrupted.parent)
    assert found[2].params != found[1].params


def test_the_first_trial_is_the_shipped_setting_whoever_comes_next(drawn_alone):
    stage2 = yaml.safe_load((ROOT / "configs/stage2.yaml").read_text())["model"]["init_args"]
    tuned, learnt = stage2["tuning"], stage2["optimization"]
    shipped = {"lr": learnt["lr"], "weight_decay": learnt["weight_decay"], "r": tuned["r"], "alpha": tuned["alpha"]}
    drawn_alone.open_search(Path("runs"))  # another worker, which has not begun
    drawn_alone.main(["runs", "--trials", "2", "--", "--config", "stage2.yaml"])
    first, second = trials(drawn_alone)
    assert first.params == shipped
    assert second.params != shipped


def test_a_seed_draws_the_same_values_again_and_another_one_others(drawn_alone):
    drawn = []
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        drawn_alone.main([folder, "--trials", "3", "--seed", seed, "--", "--config", "stage2.yaml"])
        drawn.append([trial.params for trial in trials(drawn_alone, folder)])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[2][0]  # the shipped one
    assert drawn[0][1:] != drawn[2][1:]


def test_a_failed_trial_is_named_with_its_log_and_the_search_goes_on(search, capsys):
    Path("fail").write_text("once")
    asked = ["runs", "--trials", "2", "--", "--config", "stage2.yaml"]
    assert search.main(asked) == 1
    assert [trial.state.name for trial in trials(search)] == ["FAIL", "COMPLETE"]
    said = capsys.readouterr()
    (told,) = [line for line in said.err.splitlines() if line.startswith("trial ")]
    assert re.fullmatch(r"trial 0 failed: runs/\w+ ended with exit code 2; see runs/\w+/log.txt", told)
    assert Path(told.split("see ")[1]).is_file()
    assert said.out.startswith("val/top1 ")
    assert search.main(asked) == 0


def test_failed_trials_are_taken_up_once_each(drawn_alone, capsys):
    Path("fail").touch()
    assert drawn_alone.main(["runs", "--trials", "2", "--", "--config", "stage2.yaml"]) == 1
    assert capsys.readouterr().out == ""  # none is the best
    Path("fail").unlink()
    for _ in range(3):
        assert drawn_alone.main(["runs", "--trials", "1", "--retry", "--", "--config", "stage2.yaml"]) == 0
    found = [trial.params for trial in trials(drawn_alone)]
    assert found[2:4] == found[:2]
    assert found[4] not in found[:4]


def test_a_run_without_validation_is_a_failed_trial(search, capsys):
    Path("fake.py").write_text("")
    assert search.main(["runs", "--trials", "1", "--", "--config", "stage2.yaml"]) == 1
    assert re.search(r"trial 0 failed: runs/\w+ ended without val/top1; see runs/\w+/log.txt", capsys.readouterr().err)

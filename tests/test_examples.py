"""The examples, with a command that stands in for ``skeleton-llm fit``."""

import importlib.util
import sys
from pathlib import Path

import pytest

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
assert given["model.init_args.tuning.r"] == given["model.init_args.tuning.alpha"]
if (Path("stop")).exists():
    Path("stop").unlink()
    (folder / "interrupted").touch()
    sys.exit({EXIT_CODE})
if Path("fail").exists():
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


def trials(search) -> list:
    storage = search.JournalStorage(search.JournalFileBackend("runs/trials.log"))
    return search.optuna.load_study(study_name="search", storage=storage).trials


def test_a_search_grows_and_names_its_best_trial(search, capsys):
    for _ in range(2):
        search.main(["runs", "--trials", "3", "--", "--config", "stage2.yaml"])
    found = trials(search)
    assert len(found) == 6
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


def test_a_failed_trial_is_told(search):
    Path("fail").touch()
    with pytest.raises(RuntimeError, match=r"runs/\w+ ended with exit code 2; see runs/\w+/log.txt"):
        search.main(["runs", "--trials", "2", "--", "--config", "stage2.yaml"])

"""Search stage 2's learning rate, weight decay, LoRA rank and alpha with Optuna, on the validation clips alone.

pip install "skeleton-llm[sweep]"
python examples/optuna_search.py runs/search --trials 20 -- --config configs/stage2.yaml \
    --config configs/data/nw_ucla.yaml --model.init_args.tokenizer runs/nw_ucla/stage1/tokenizer

What stands behind -- are the arguments of ``skeleton-llm fit`` that all trials share. Trials are kept in
FOLDER/trials.log: the same command adds more, and several at once (other GPUs, other nodes, a SLURM array) share them.
The first trial is the shipped setting. Exit code 1: a trial failed.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from skeleton_llm.ablation import Run
from skeleton_llm.ablation.findings import curves
from skeleton_llm.signals import EXIT_CODE

COMMAND = (sys.executable, "-m", "skeleton_llm.cli.main", "fit")
MEASURE = "val/top1"
SHIPPED = {"lr": 1e-3, "weight_decay": 0.01, "r": 64, "alpha": 64}  # configs/stage2.yaml, which the best has to beat


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """What is searched, by the keys of ``fit``: write your own here."""
    return {
        "model.init_args.optimization.lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "model.init_args.optimization.weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        "model.init_args.tuning.r": trial.suggest_categorical("r", [8, 16, 32, 64]),
        "model.init_args.tuning.alpha": trial.suggest_categorical("alpha", [8, 16, 32, 64]),  # the scale is alpha / r
    }


def measure(trial: optuna.Trial, folder: Path, shared: Sequence[str]) -> float:
    """Train one trial; the last validation's accuracy.

    A trial's folder is named by what was suggested: suggested again, an interrupted one goes on.

    Raises:
        KeyboardInterrupt: the run was asked to stop.
        RuntimeError: it failed, or never validated.
    """
    chosen = suggest(trial)
    run = folder / hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:10]
    run.mkdir(parents=True, exist_ok=True)
    given = [f"--{key}={value}" for key, value in chosen.items()]
    # no test: its clips would be chosen by
    given += ["--trainer.default_root_dir", str(run), "--trainer.limit_test_batches", "0"]
    with (run / "log.txt").open("ab") as log:
        process = subprocess.Popen([*COMMAND, *shared, *given], stdout=log, stderr=log)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # Ctrl-C is for the run too, which saves
        code = process.wait()
    if code == EXIT_CODE:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"{run} ended with exit code {code}; see {run / 'log.txt'}")
    trial.set_user_attr("folder", str(run))
    values = curves(Run(run, ()), [MEASURE]).get(MEASURE)
    if not values:
        raise RuntimeError(f"{run} ended without {MEASURE}; see {run / 'log.txt'}")
    return values[max(values)]


def open_search(folder: Path) -> optuna.Study:
    """The search in ``folder``; whoever makes it asks for the shipped setting, so that workers do so once."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "trials.log")))
    try:
        study = optuna.create_study(study_name="search", storage=storage, direction="maximize")
    except DuplicatedStudyError:
        return optuna.load_study(study_name="search", storage=storage)
    study.enqueue_trial(SHIPPED)
    return study


def take_up(study: optuna.Study) -> None:
    """Ask again for every trial that was interrupted or failed, unless it has been asked for since."""
    since = study.get_trials(states=(TrialState.COMPLETE, TrialState.WAITING))
    known = [trial.params or trial.system_attrs.get("fixed_params") for trial in since]
    for trial in study.get_trials(states=(TrialState.FAIL, TrialState.RUNNING)):
        if trial.params and trial.params not in known:
            known.append(trial.params)
            study.enqueue_trial(trial.params)


def main(argv: Sequence[str]) -> int:
    """Add trials, then name those that failed and the best."""
    given = [*argv]
    own, shared = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(usage="%(prog)s FOLDER [--trials N] [--seed N] [--retry] -- ARGUMENTS OF FIT")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20, help="how many this command adds (20)")
    parser.add_argument("--seed", type=int, default=0, help="of what the search draws (0)")
    parser.add_argument(
        "--retry", action="store_true", help="first those that were interrupted or failed; not while others run"
    )
    arguments = parser.parse_args(own)
    study, failed = open_search(arguments.folder), []
    if arguments.retry:
        take_up(study)

    def objective(trial: optuna.Trial) -> float:
        # by the trial's number: one seed for all would draw the first values again in every command and worker
        study.sampler = optuna.samplers.TPESampler(seed=10_000 * arguments.seed + trial.number)
        try:
            return measure(trial, arguments.folder, shared)
        except RuntimeError as error:
            failed.append(f"trial {trial.number} failed: {error}\n")
            raise

    study.optimize(objective, n_trials=arguments.trials, catch=RuntimeError)
    sys.stderr.writelines(failed)
    if study.get_trials(states=(TrialState.COMPLETE,)):
        best = study.best_trial
        sys.stdout.write(f"{MEASURE} {best.value:.4f} with {best.params} in {best.user_attrs['folder']}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

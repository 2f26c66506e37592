"""``skeleton-llm unseen``: LLM-AR's protocol of classes that neither stage has seen, over its five draws."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skeleton_llm import run_folder
from skeleton_llm.cli.main import configs

_COLUMNS = {
    "test/top1": "top-1",
    "test/mean_class_accuracy": "mean of classes",
    "test/greedy_exact_match": "free answer right",
    "test/greedy_invalid": "free answer not listed",
}


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm unseen",
        description="Hold 3 classes out of both stages and test on them, for each draw; what is finished is kept."
        " All other arguments (--config, --trainer..., --model.init_args.llm.name) go to both stages.",
        allow_abbrev=False,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and results.md go")
    parser.add_argument("--draws", type=int, nargs="+", choices=range(5), default=list(range(5)), metavar="K")
    for stage in ("stage1", "stage2"):
        parser.add_argument(
            f"--{stage}", action="append", default=[], metavar="YAML", help=f"a config of {stage} alone"
        )
    parser.add_argument(
        "--allow-unaligned", action="store_true", help="of stage 2: codes of another LLM's words will do"
    )
    return parser.parse_known_args(argv)


def fit(arguments: Sequence[str]) -> int:
    """One run in a process of its own; it knows a finished run, and goes on with an interrupted one."""
    command = [sys.executable, "-m", "skeleton_llm.cli.main", "fit", *arguments]
    return subprocess.run(command, check=False).returncode


def unseen(argv: Sequence[str]) -> int:
    """Run what is missing, then write and print the table."""
    arguments, both = _arguments(argv)
    folder: Path = arguments.folder
    for draw in arguments.draws:
        for stage, more in (("stage1", arguments.stage1), ("stage2", arguments.stage2)):
            run = folder / f"draw{draw}" / stage
            own = ["--allow-unaligned"] if arguments.allow_unaligned and stage == "stage2" else []
            failed = fit(_run_arguments(run, stage, more, [*both, *own], draw))
            if failed:
                print(f"{run} ended with exit code {failed}; the same command goes on from there", file=sys.stderr)
                return failed
    found = table({draw: _results(folder / f"draw{draw}") for draw in arguments.draws})
    beside = folder / ".results.md.tmp"
    beside.write_text(found)
    beside.replace(folder / "results.md")
    print(f"{found}\n{folder / 'results.md'}")
    return 0


def _run_arguments(run: Path, stage: str, more: Sequence[str], both: Sequence[str], draw: int) -> list[str]:
    given = [part for path in (configs() / f"{stage}.yaml", *more) for part in ("--config", str(path))]
    given += [*both, "--config", str(configs() / f"unseen/draw{draw}.yaml"), "--trainer.default_root_dir", str(run)]
    if stage == "stage2":
        given += ["--model.init_args.tokenizer", str(run.parent / "stage1/tokenizer")]
    return given


def _results(draw: Path) -> dict[str, Any]:
    """What the test of one draw measured, and the names of the classes held out."""
    read = json.loads((draw / "stage1/tokenizer/dataset.json").read_text())
    return {**run_folder.results(draw / "stage2"), "unseen": read["unseen"]}


def table(found: dict[int, dict[str, Any]]) -> str:
    """Markdown, in percent: a row a draw, then mean and sample deviation over the draws."""
    columns = {key: title for key, title in _COLUMNS.items() if all(key in results for results in found.values())}
    rows = [["draw", "held out", *columns.values(), "chance"], ["---", "---", *["---:"] * (len(columns) + 1)]]
    values = []
    for draw, results in found.items():
        values.append([100 * results[key] for key in columns])
        chance = f"{100 / len(results['unseen']):.1f}"
        rows.append([str(draw), ", ".join(results["unseen"]), *[f"{value:.1f}" for value in values[-1]], chance])
    rows.append(["mean", "", *[_spread(column) for column in zip(*values, strict=True)], chance])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"

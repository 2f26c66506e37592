"""What each part of stage 1 is worth: LLM-AR's biases, the ball and the quantiser, over seeds, as a Markdown table.

python -m benchmarks.tokenizer_ablation nw_ucla utd_mhad --seeds 0 1 2 --jobs 2

Every cell trains a tokenizer with configs/ablation/quick.yaml, then a plain classifier on its action sentences (on its
latents where there are none; on both for "full"). Runs lie in runs/tokenizer_ablation; finished ones are not run
again, interrupted ones go on. The classifier's figures are read from the test split once, when its run ends.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs/tokenizer_ablation"
CELLS = ("full", "no_zipf", "no_context", "no_mmd", "no_biases", "euclidean", "continuous")
COLUMNS = {
    "test/error_m": ("error, cm", 100, 1),
    "test/perplexity": ("perplexity", 1, 0),
    "test/js_to_zipf": ("JS to Zipf", 1, 3),
}


def fit(folder: Path, configs: list[str], *arguments: str) -> dict[str, float]:
    """One run of the command, in its own process with one thread; what it measured on the test split.

    The command itself knows a finished run, goes on with an interrupted one, and refuses one of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "skeleton_llm.cli.main", "fit"]
    for config in configs:
        command += ["--config", str(ROOT / "configs" / f"{config}.yaml")]
    command += ["--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{folder / 'log.txt'}: the run ended with exit code {done.returncode}")
    found: dict[str, float] = json.loads((folder / "results.json").read_text())
    return found


def cell(data: str, name: str, seed: int) -> dict[str, float]:
    """Train one tokenizer and its classifiers."""
    folder = RUNS / data / name / str(seed)
    seeds = ["--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
    overlays = [f"data/{data}", "ablation/quick"] + ([] if name == "full" else [f"ablation/{name}"])
    found = fit(folder / "stage1", ["stage1", *overlays], *seeds)
    for source in {"full": ("sentences", "latents"), "continuous": ("latents",)}.get(name, ("sentences",)):
        given = ["--model.init_args.source", source, "--model.init_args.tokenizer", str(folder / "stage1/product")]
        probe = fit(
            folder / source,
            ["recognizer", f"data/{data}", "ablation/quick"],
            *seeds,
            *given,
            "--trainer.max_steps",
            "300",
            "--trainer.val_check_interval",
            "300",
        )
        found[source] = 100 * probe["test/top1"]
    print(
        f"{data} {name} seed {seed}: "
        + ", ".join(f"{k} {found[k]:.1f}" for k in ("sentences", "latents") if k in found)
    )
    return found


def spread(values: list[float], digits: int) -> str:
    """Mean and deviation over seeds."""
    middle = statistics.mean(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} +- {statistics.stdev(values):.{digits}f}"


def table(data: str, found: dict[str, list[dict[str, float]]]) -> str:
    """Rows of cells."""
    heads = [title for title, _, _ in COLUMNS.values()]
    lines = [
        f"| {data} | {' | '.join(heads)} | classifier on sentences | on latents |",
        "|" + "---|" * (len(heads) + 3),
    ]
    for name, seeds in found.items():
        entries = []
        for key, (_, factor, digits) in COLUMNS.items():
            unused = name == "continuous" and key != "test/error_m"
            entries.append("" if unused else spread([factor * seed[key] for seed in seeds], digits))
        for source in ("sentences", "latents"):
            values = [seed[source] for seed in seeds if source in seed]
            entries.append(spread(values, 1) if values else "")
        lines.append(f"| {name.replace('no_', 'without ')} | {' | '.join(entries)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    todo = [(data, name, seed) for seed in arguments.seeds for data in arguments.data for name in CELLS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(todo, pool.map(lambda one: cell(*one), todo), strict=True))
    for data in arguments.data:
        print(table(data, {name: [results[data, name, seed] for seed in arguments.seeds] for name in CELLS}), "\n")


if __name__ == "__main__":
    main()

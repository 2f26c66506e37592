"""``skeleton-llm ablate``: LLM-AR's tables of ablations and baselines over seeds, and one report of them."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from skeleton_llm.ablation import Crew, Planned, Run, Setting, divide, plan, read_matrix, unique_runs
from skeleton_llm.ablation.gpus import visible_gpus
from skeleton_llm.ablation.matrix import Matrix
from skeleton_llm.ablation.runs import as_typed, values
from skeleton_llm.cli.main import configs
from skeleton_llm.signals import EXIT_CODE
from skeleton_llm.skeletons.store import PreparedDataset

_OF_RUNS = ("--trainer", "--model", "--override-config", "--allow-unaligned")  # of fit; all others have a dot


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm ablate",
        description="Run every cell of a table with every seed, each run in a process of its own, and report what is"
        " finished. Whatever is finished is never run again, what was interrupted goes on by the same command. All"
        " other arguments (--trainer.max_steps 500) go to every run.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="an overlay in configs/data: nw_ucla, utd_mhad, synthetic, ...")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="how many, from 0 on (1)")
    parser.add_argument("--cells", nargs="+", metavar="CELL", help="only these; by default all of the matrix")
    parser.add_argument("--only", nargs="+", metavar="CELL/seedK", help="only these cells with these seeds")
    parser.add_argument("--matrix", type=Path, help="the table (configs/ablations.yaml)")
    parser.add_argument("--folder", type=Path, help="where runs and report go (runs/ablations/DATA)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side; one a GPU, without GPUs one a core")
    parser.add_argument("--quick", action="store_true", help="runs of a few steps, in a folder of their own: a check")
    parser.add_argument("--config", action="append", default=[], metavar="YAML", help="a further config of every run")
    for base in ("stage1", "stage2"):
        parser.add_argument(
            f"--{base}", action="append", default=[], metavar="YAML", help=f"a config of {base}'s runs alone"
        )
    parser.add_argument("--llm", help="the language model of both stages: a folder or a hub id")
    instead = parser.add_mutually_exclusive_group()  # of running what is missing here
    instead.add_argument(
        "--slurm",
        action="store_true",
        help="submit the runs as SLURM array jobs, at most --jobs of them at a time; what SLURM is"
        " told stands in the section slurm of the YAML (docs/cluster.md)",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --slurm: print the scripts and submit nothing")
    instead.add_argument("--plan", action="store_true", help="print which runs there are, and start none")
    parser.add_argument("--no-report", action="store_true", help="run only; another command reports")
    instead.add_argument(
        "--report-only", action="store_true", help="write the report of what is finished, and run nothing"
    )
    return parser


def ablate(argv: Sequence[str]) -> int:
    """Run what is missing, then report."""
    arguments, more = _parser().parse_known_args(argv)
    try:
        _check_options(arguments, more)
        return _ablate(arguments, tuple(more))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check_options(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    """Refuse what contradicts itself, or can be no option of a run, before anything is planned."""
    if arguments.dry_run and not arguments.slurm:
        raise ValueError("--dry-run prints the scripts of --slurm; --plan shows what would run here")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds is how many seeds there are, at least 1, got {arguments.seeds}")
    for given in more:
        key = given.partition("=")[0]
        if key.startswith("--") and "." not in key and key not in _OF_RUNS:
            raise ValueError(f"{key} is no option of ablate, nor of its runs, whose are like --trainer.max_steps 500")


def _ablate(arguments: argparse.Namespace, more: tuple[str, ...]) -> int:
    shipped = configs()
    matrix = read_matrix(arguments.matrix or shipped / "ablations.yaml", shipped)
    setting = _setting(arguments, shipped, more)
    planned = _chosen(arguments, matrix, plan(matrix, range(arguments.seeds), setting))
    if arguments.plan:
        print(_shown(planned))
        return 0
    if arguments.slurm:
        return _submit(unique_runs(planned), setting, at_once=arguments.jobs, dry_run=arguments.dry_run)
    crew = Crew([], print)
    if arguments.report_only and not setting.folder.is_dir():
        raise FileNotFoundError(f"{setting.folder}: no table has been begun there; --folder names another place")
    if not arguments.report_only:
        for folder in {run.dataset for run in unique_runs(planned) if not run.finished}:
            if folder is not None:
                PreparedDataset.open(folder)  # or every run would miss it
        gpus = visible_gpus() if _asks_for_gpu(setting) else []
        crew = Crew(divide(gpus, arguments.jobs), lambda line: print(line, flush=True))
        crew.work(unique_runs(planned))
    written: list[Path] = []
    if not arguments.no_report:
        from skeleton_llm.ablation.report import write_report  # torch and matplotlib, which planning does without

        seeds = sorted({*range(arguments.seeds), *_seeds_of(setting.folder)})
        there = [one for one in plan(matrix, seeds, setting) if one.wanted or one.begun]
        written = write_report(matrix, there, setting)
    for line in (*map(str, written), *(f"failed: {why}" for why in crew.failed.values())):
        print(line)
    if crew.signals:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130 if crew.signals[0] == signal.SIGINT else EXIT_CODE
    return int(bool(crew.failed))


def _setting(arguments: argparse.Namespace, shipped: Path, more: tuple[str, ...]) -> Setting:
    data: str = arguments.data
    if not (shipped / "data" / f"{data}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in (shipped / "data").glob("*.yaml")))
        raise ValueError(f"--data {data}: there is no such overlay in {shipped / 'data'}; take one of {known}")
    overlays = {"--config": arguments.config, "--stage1": arguments.stage1, "--stage2": arguments.stage2}
    for key, paths in overlays.items():
        for path in paths:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{key} {path}: no such file")
    return Setting(
        arguments.folder or Path("runs/ablations") / (f"{data}-quick" if arguments.quick else data),
        data,
        shipped,
        tuple(arguments.config),
        {"stage1": tuple(arguments.stage1), "stage2": tuple(arguments.stage2)},
        arguments.llm,
        more,
        arguments.quick,
        arguments.matrix,
    )


def _chosen(arguments: argparse.Namespace, matrix: Matrix, planned: list[Planned]) -> list[Planned]:
    for name in arguments.cells or []:
        if name not in matrix.cells:
            raise ValueError(f"--cells {name}: the matrix has {', '.join(matrix.cells)}")
    if arguments.cells:
        planned = [one for one in planned if one.cell.name in arguments.cells]
    for name in arguments.only or []:
        if name not in {one.name for one in planned}:
            cells = [*dict.fromkeys(one.cell.name for one in planned)]
            if name.partition("/")[0] in cells:
                raise ValueError(f"--only {name}: expected CELL/seedK, K below --seeds, which is {arguments.seeds}")
            raise ValueError(f"--only {name}: expected CELL/seedK of the cells {', '.join(cells)}")
    if arguments.only:
        return [one for one in planned if one.name in arguments.only]
    return [one for one in planned if one.wanted]


def _submit(runs: list[Run], setting: Setting, *, at_once: int | None, dry_run: bool) -> int:
    """Two arrays: runs that read no tokenizer, or one that is there; then those that read one of the first."""
    from skeleton_llm.cli.runs import ask_queue, standing
    from skeleton_llm.cli.slurm import submit_array  # reads configs, which takes torch and Lightning

    if changed := [as_typed(run.folder) for run in runs if run.finished and run.otherwise]:
        others = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise ValueError(
            f"finished by other options or configs: {changed[0]}{others}; give those again, or another --folder"
        )
    queue = ask_queue() or {}
    jobs = {run.folder: standing(run.folder, queue, time.time()).job for run in runs if not run.finished}
    queued = {folder: job for folder, job in jobs.items() if job in queue}
    waiting = [run for run in runs if run.folder in jobs and run.folder not in queued]
    first = [run for run in waiting if run.needs is None or run.needs.finished]
    ahead = [run for run in waiting if run not in first]
    before = {queued[run.needs.folder] for run in ahead if run.needs is not None and run.needs.folder in queued}
    done = len(runs) - len(jobs)
    print(f"{done} of {len(runs)} runs are finished, {len(queued)} in SLURM's queue", file=sys.stderr)
    for wave, after in ((first, set()), (ahead, before)):
        if wave:
            given = [(run.folder, run.arguments) for run in wave]
            chain = ":".join(sorted(after)) or None
            job = submit_array(given, setting.folder, after=chain, at_once=at_once, dry_run=dry_run)
            print(f"job {job}: {len(wave)} runs; skeleton-llm runs {setting.folder} shows them", file=sys.stderr)
            before.add(job)
    return 0


def _shown(planned: list[Planned]) -> str:
    runs = unique_runs(planned)
    lines = [f"{_state(run):<26}{as_typed(run.folder)}" for run in runs]
    done = sum(run.finished for run in runs)
    return "\n".join([*lines, f"{len(planned)} cells with their seeds, {len(runs)} runs, {done} of them finished"])


def _state(run: Run) -> str:
    if not run.finished:
        return "to run"
    return "finished by other options" if run.otherwise else "finished"


def _asks_for_gpu(setting: Setting) -> bool:
    """Whether the runs' configs put them on a GPU, as the hardware overlays do; the bases are for CPUs."""
    found = "cpu"
    for path in (*setting.overlays, *setting.of_base.get("stage1", ()), *setting.of_base.get("stage2", ())):
        trainer = (yaml.safe_load(Path(path).read_text()) or {}).get("trainer") or {}
        found = trainer.get("accelerator", found)
    found = [found, *values(setting.more, "--trainer.accelerator")][-1]
    return found in ("gpu", "cuda", "auto")


def _seeds_of(folder: Path) -> list[int]:
    """Those that earlier commands ran."""
    found = (re.fullmatch(r"seed(\d+)", path.name) for path in folder.glob("*/seed*"))
    return [int(match[1]) for match in found if match]

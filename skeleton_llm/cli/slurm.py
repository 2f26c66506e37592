"""``skeleton-llm slurm``: a stage as a SLURM job, checked here and not after hours in the queue."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from skeleton_llm.cli.fit import SkeletonCLI, open_run, sentence
from skeleton_llm.cli.results import summary
from skeleton_llm.cli.resume import refuse_another, same_run
from skeleton_llm.cli.runs import SUBMITTED, newest_job
from skeleton_llm.cli.slurm_job import SlurmJob, find_shape, render, render_array
from skeleton_llm.language.loading import LanguageModel
from skeleton_llm.skeletons import PreparedDataset


class _Read(SkeletonCLI):
    """The run as it was asked for, with all that ``fit`` would refuse of its config, but not built."""

    def instantiate_classes(self) -> None:
        """Nothing: a login node has neither the GPUs nor the memory."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing, too."""


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm slurm",
        usage="skeleton-llm slurm [--dry-run] [--after JOB|RUN] ARGUMENTS OF FIT",
        description="Submit a stage to SLURM. All other arguments are those of fit; what SLURM is to be told stands in"
        " the YAML's section slurm, nodes and GPUs are trainer.num_nodes and trainer.devices. Prints the job's id.",
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    parser.add_argument(
        "--after", metavar="JOB|RUN", help="begin when this job, or the run's newest, has succeeded; never if it fails"
    )
    return parser.parse_known_args(argv)


def slurm(argv: Sequence[str]) -> int:
    """Print or submit one job."""
    arguments, fit = _arguments(argv)
    try:
        read = open_run(_Read, "fit", fit)
        config = read.config["fit"]
        if read.finished and not read.override:
            print(summary(read.folder), file=sys.stderr)
            return 0
        after = _find_job(arguments.after, dry_run=arguments.dry_run)
        job, shape = SlurmJob(**config["slurm"].as_dict()), find_shape(config["trainer"])
        if not read.override:
            refuse_another(read.folder, same_run(read.folder, {"world_size": shape.nodes * shape.tasks_per_node}))
        _refuse_missing(config, chained=after is not None)
        script = render(job, shape, read.folder, fit, after=after)
        if arguments.dry_run:
            print(script, end="")
        else:
            job_id = submit(script, read.folder)
            note_job(read.folder, job_id)
            _tell(read.folder, job_id)
    except argparse.ArgumentError as error:
        print(f"config error: {sentence(error)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, MisconfigurationException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


def submit_array(
    runs: Sequence[tuple[Path, Sequence[str]]],
    folder: Path,
    *,
    after: str | None = None,
    at_once: int | None = None,
    dry_run: bool = False,
) -> str:
    """Submit, or with ``dry_run`` print, one array job whose tasks are runs of one size; its id.

    Args:
        runs: the folder of each, and its arguments of ``fit``; the first one's config says what SLURM is told.
        folder: what the tasks' journals go into.
        after: the jobs or arrays that must have ended before, joined by colons.
        at_once: how many tasks may work at a time.
        dry_run: print the script and submit nothing.

    Raises:
        ValueError: the config is wrong, or SLURM does not take the job.
        FileNotFoundError: what the runs would read is missing, or this is no machine of a cluster.
    """
    try:
        read = open_run(_Read, "fit", [*runs[0][1]])
    except argparse.ArgumentError as error:
        raise ValueError(f"{runs[0][0]}: {sentence(error)}") from error
    config = read.config["fit"]
    _refuse_missing(config, chained=True)
    job, shape = SlurmJob(**config["slurm"].as_dict()), find_shape(config["trainer"])
    script = render_array(job, shape, folder, runs, after=after, at_once=at_once)
    if dry_run:
        print(script, end="")
        return f"JOB_OF_{runs[0][0]}"
    name = submit(script, folder)
    for task, (run, _) in enumerate(runs):
        note_job(run, f"{name}_{task}")
    return name


def _find_job(after: str | None, *, dry_run: bool) -> str | None:
    """The job to wait for; None where there is nothing to wait for."""
    if after is None or after.isdecimal():
        return after
    if (Path(after) / "results.json").is_file():
        return None
    job = newest_job(Path(after))
    if job is None and not dry_run:
        raise ValueError(f"no job is known for {after} (--after): submit that run first, or give a job's id")
    return job or f"JOB_OF_{after}"


def _refuse_missing(config: Any, *, chained: bool) -> None:
    """Raise where the job would find no dataset, tokenizer or language model."""
    PreparedDataset.open(config["data"]["init_args"]["folder"])
    model = config["model"]["init_args"]
    tokenizer = model.get("tokenizer")
    if tokenizer and not chained and not (Path(tokenizer) / "dataset.json").is_file():
        raise FileNotFoundError(
            f'{tokenizer} holds no tokenizer; wait for stage 1, or chain by --after ("make slurm" does)'
        )
    name, words_only = model.get("llm", {}).get("name", "built-in"), "tuning" not in model
    try:
        LanguageModel(name, model.get("llm", {}).get("revision")).path(words_only=words_only)
    except FileNotFoundError as error:
        words = " --words" if words_only else ""
        raise FileNotFoundError(
            f"llm.name {name!r} is no model's folder and not in this machine's cache, and compute nodes are offline;"
            f" fetch it first: skeleton-llm download {name}{words}"
        ) from error


def submit(script: str, folder: Path) -> str:
    """Hand a script to ``sbatch``, whose logs go into ``folder``; the job's id.

    Raises:
        FileNotFoundError: this is no machine of a cluster.
        ValueError: SLURM refuses it.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)  # SLURM ends a job whose log has no folder
    # a job that submits another must not hand on its own size and times
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_") or key == "SLURM_CONF"}
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"], input=script, env=clean, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "sbatch is not here; submit on a login node of the cluster, or look at the script with --dry-run"
        ) from error
    if done.returncode:
        raise ValueError(f"SLURM did not take the job: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]  # a federation adds the cluster's name


def note_job(folder: Path, job: str) -> None:
    """Keep in a run's folder which job is to work on it."""
    (folder / SUBMITTED).parent.mkdir(parents=True, exist_ok=True)
    with (folder / SUBMITTED).open("a") as file:
        file.write(f"{job}\n")


def _tell(folder: Path, job: str) -> None:
    """The id alone where a script reads it, and how to watch the job beside it."""
    print(job)
    print(
        f"{folder} is job {job}: where it stands: skeleton-llm runs {folder}; when it was started and why it ended:"
        f" {folder / 'logs' / job}.log; what its first start prints: {job}.0.log beside it; stop it: scancel {job}",
        file=sys.stderr,
    )

"""A SLURM job of one stage: what YAML may say of it, and the script that comes of it."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from skeleton_llm.cli.runs import SUBMITTED

_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")
_BODY = Path(__file__).with_name("job.sh")


@dataclass
class SlurmJob:
    """What SLURM is to be told; the numbers of nodes and GPUs are the trainer's ``num_nodes`` and ``devices``.

    It is no part of what a run is: an interrupted run goes on under other values.

    Args:
        partition: null for the cluster's default.
        account: the project that pays; null for your default.
        qos: quality of service; null for the default.
        constraint: features that the nodes must have, such as ``v100-32g``.
        gpu_type: the cluster's name of a kind of GPU (``sinfo -o %G`` shows them); null takes any.
        time: of one start: "HH:MM:SS", or "D-HH:MM:SS"; a longer run is started again until it has ended.
        cpus_per_task: CPU cores of each GPU's process; data.init_args.num_workers needs one each, and one more.
        mem: memory of a node, such as 200G; null for the cluster's default.
        options: further options of sbatch, such as ``--exclude=n3`` or ``--mail-type=END``.
        modules: what ``module load`` is given.
        setup: lines of the script before the run, such as ``export NCCL_SOCKET_IFNAME=ib0``.
        container: an image; null runs in the environment that submits.
        container_by: ``apptainer`` (an image file) or ``pyxis`` (srun's option ``--container-image``, by enroot).
        python: the interpreter on the compute nodes; null is the one that submits, and python3 of a container.
        signal_lead: seconds before the end of ``time`` at which the run is told to save; a validation and a save must
            fit in.
        idle_starts: after so many starts in a row that saved no step the job is not started again.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    time: str | int = "24:00:00"  # YAML reads 24:00:00 without quotes as a number, which is told below
    cpus_per_task: int = 8
    mem: str | None = None
    options: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    container_by: Literal["apptainer", "pyxis"] = "apptainer"
    python: str | None = None
    signal_lead: int = 300
    idle_starts: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.time, str) or not _TIME.fullmatch(self.time):
            raise ValueError(
                f"slurm.time is a limit such as '24:00:00' or '2-00:00:00', in quotes where it is YAML; got {self.time}"
            )
        for name in ("cpus_per_task", "signal_lead", "idle_starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"slurm.{name} must be at least 1, got {getattr(self, name)}")
        if _seconds(self.time) <= self.signal_lead:
            raise ValueError(
                f"slurm.time {self.time} is no longer than slurm.signal_lead, {self.signal_lead} s, so that every start"
                " would be told to leave at once; give it more time, or a shorter lead"
            )


def _seconds(time: str) -> int:
    """SLURM's minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    first = 3600 if dash or len(parts) == 3 else 60  # seconds that the first part counts
    return int(days or 0) * 86400 + sum(part * first // 60**place for place, part in enumerate(parts))


class Shape(NamedTuple):
    """How many processes a run has, one a GPU where it has any."""

    nodes: int
    tasks_per_node: int
    on_gpus: bool


def find_shape(trainer: Any) -> Shape:
    """What the trainer's keys ask of SLURM.

    Raises:
        ValueError: they leave it to the machine, which is not known before the job has one.
    """
    devices, accelerator = trainer["devices"], str(trainer["accelerator"])
    if not str(devices).isdecimal() or int(devices) < 1:
        raise ValueError(
            f"trainer.devices {devices} does not tell SLURM how many GPUs of each node are wanted; give a number:"
            " --trainer.devices 4, or GPUS=4 to make"
        )
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise ValueError(
            f"trainer.accelerator {accelerator} does not tell whether GPUs are wanted; set it to gpu"
            " (configs/hardware/a100.yaml and v100.yaml do) or cpu"
        )
    if int(trainer["num_nodes"]) < 1:
        raise ValueError(f"trainer.num_nodes must be at least 1, got {trainer['num_nodes']}")
    return Shape(int(trainer["num_nodes"]), int(devices), on_gpus=accelerator != "cpu")


def render(job: SlurmJob, shape: Shape, folder: Path, arguments: Sequence[str], *, after: str | None = None) -> str:
    """The script for ``sbatch``.

    Args:
        job: what YAML says.
        shape: of the run.
        folder: the run's; logs go into it.
        arguments: of ``skeleton-llm fit``.
        after: the id of a job that must have succeeded before.
    """
    # two jobs of one name wait for one another: they would write into the same folder
    own = {"output": folder / "logs" / "%j.log", "dependency": f"afterok:{after},singleton" if after else "singleton"}
    options = [*_options(job, shape, folder, own), *(["--kill-on-invalid-dep=yes"] if after else [])]
    lines = [f"run={shlex.quote(str(folder))}", f"fit=({shlex.join([*_fit(job, shape), *arguments])})"]
    return _script(job, options, lines)


def render_array(
    job: SlurmJob,
    shape: Shape,
    folder: Path,
    runs: Sequence[tuple[Path, Sequence[str]]],
    *,
    after: str | None = None,
    at_once: int | None = None,
) -> str:
    """The script of an array job, whose every task is one run, started again as a job of its own would be.

    Args:
        job: what YAML says.
        shape: of each run.
        folder: what the journals of the tasks go into.
        runs: the folder of each, and its arguments of ``skeleton-llm fit``.
        after: the ids of jobs, or arrays, that must have ended before, however they ended, joined by colons.
        at_once: how many tasks may work at a time; None for as many as SLURM lets.
    """
    own = {
        "array": f"0-{len(runs) - 1}" + (f"%{at_once}" if at_once else ""),
        "output": folder / "logs" / "%A_%a.log",
        "dependency": f"afterany:{after}" if after else None,
    }
    cases = [
        f"  {task}) run={shlex.quote(str(run))} arguments=({shlex.join(arguments)}) ;;"
        for task, (run, arguments) in enumerate(runs)
    ]
    choice = ["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"]
    fit = f'fit=({shlex.join(_fit(job, shape))} "${{arguments[@]}}")'
    known = f'mkdir -p "$run/logs" && echo "$SLURM_JOB_ID" >>"$run/{SUBMITTED}"'  # a task has an id of its own
    return _script(job, _options(job, shape, folder, own), [*choice, fit, known])


def _script(job: SlurmJob, options: Iterable[str], lines: Sequence[str]) -> str:
    head = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        *([f"module load {shlex.join(job.modules)}"] if job.modules else []),
        *job.setup,
        *lines,
        f"idle_starts={job.idle_starts}",
        f"launch=({shlex.join(_launch(job))})",
        "",
    ]
    return "\n".join(head) + _BODY.read_text()


def _fit(job: SlurmJob, shape: Shape) -> list[str]:
    python = job.python or ("python3" if job.container else sys.executable)
    return [*_inside(job, shape), python, "-m", "skeleton_llm.cli.main", "fit"]


def _options(job: SlurmJob, shape: Shape, folder: Path, own: Mapping[str, Any]) -> Iterator[str]:
    if job.gpu_type and not shape.on_gpus:
        raise ValueError(
            f"slurm.gpu_type {job.gpu_type} asks for GPUs, but trainer.accelerator is cpu; set it to gpu"
            " (configs/hardware/a100.yaml and v100.yaml do)"
        )
    name = "-".join(folder.absolute().parts[-2:])
    kind = f"{job.gpu_type}:" if job.gpu_type else ""
    known = {
        "job-name": name,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "nodes": shape.nodes,
        "ntasks-per-node": shape.tasks_per_node,
        "gres": f"gpu:{kind}{shape.tasks_per_node}" if shape.on_gpus else None,
        "cpus-per-task": job.cpus_per_task,
        "mem": job.mem,
        "time": job.time,
        "signal": f"USR1@{job.signal_lead}",
        "open-mode": "append",
        **own,
    }
    yield from (f"--{key}={shlex.quote(str(value))}" for key, value in known.items() if value is not None)
    yield "--requeue"
    yield from job.options


def _launch(job: SlurmJob) -> list[str]:
    """``srun`` starts Python itself: it must be the process that SLURM signals."""
    here = str(Path.cwd())
    launch = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={job.cpus_per_task}"]  # srun does not take sbatch's
    if job.container and job.container_by == "pyxis":
        launch += [f"--container-image={job.container}", f"--container-mounts={here}:{here}"]
        launch.append(f"--container-workdir={here}")
    return launch


def _inside(job: SlurmJob, shape: Shape) -> list[str]:
    if not job.container or job.container_by != "apptainer":
        return []
    here = str(Path.cwd())
    return ["apptainer", "exec", *(["--nv"] if shape.on_gpus else []), "--bind", here, "--pwd", here, job.container]

"""Does the job that SLURM started have the processes and GPUs that the run asks for? Told before anything is loaded.

A run whose processes do not fit would otherwise fail after minutes of loading, or wait for ranks that nobody started.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_SUBMIT = 'or submit it by "skeleton-llm slurm", which asks SLURM for what the config says'
_DEFAULTS = {"num_nodes": 1, "devices": "auto", "accelerator": "auto"}  # the trainer's own


def mismatch(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """What does not fit, with the mend, as one sentence; None where all does or there is no SLURM.

    Args:
        arguments: of ``skeleton-llm fit``.
        environment: with SLURM's variables.
    """
    if "SLURM_NTASKS" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None  # Lightning starts its own processes there
    trainer = trainer_keys(arguments)
    tasks, nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", 1))
    if tasks > 1 and "SLURM_STEP_ID" not in environment:
        return (
            f"the job has {tasks} tasks, but this process was started alone and would wait for the others;"
            " put srun before it"
        )
    if str(trainer["num_nodes"]) != str(nodes):
        return (
            f"trainer.num_nodes is {trainer['num_nodes']}, but the job has {nodes}; give --trainer.num_nodes {nodes},"
            f" {_SUBMIT}"
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        return f"the job was given --ntasks={tasks}; give it --ntasks-per-node={max(1, tasks // nodes)}, {_SUBMIT}"
    return _devices_mismatch(trainer, int(environment.get("SLURM_NTASKS_PER_NODE", tasks)), _visible_gpus(environment))


def _devices_mismatch(trainer: Mapping[str, Any], tasks: int, gpus: int | None) -> str | None:
    """Compare with one node's tasks and with the GPUs that its processes see (None where nobody knows)."""
    on_gpus = trainer["accelerator"] in ("gpu", "cuda")
    devices = _count(trainer["devices"])
    if on_gpus and gpus is not None and (devices or 0) > gpus:
        return (
            f"trainer.devices is {trainer['devices']}, but each process of the job sees {gpus} GPU{'s'[: gpus - 1]};"
            f" give the job --gres=gpu:{devices} (--gpus-per-task would hide the others), {_SUBMIT}"
        )
    if devices is None:  # as many as there are, which is one CPU
        devices = gpus if on_gpus else 1 if trainer["accelerator"] == "cpu" else None
    if devices is not None and devices != tasks:
        return (
            f"trainer.devices is {trainer['devices']}, but the job has {tasks} task{'s'[: tasks - 1]} on each node;"
            f" give --trainer.devices {tasks}, {_SUBMIT}"
        )
    return None


def trainer_keys(arguments: Sequence[str]) -> dict[str, Any]:
    """The trainer's num_nodes, devices and accelerator as config files and options come to, in their order."""
    found: dict[str, Any] = dict(_DEFAULTS)
    for option, value in _options(arguments):
        if option == "--config":
            found |= _known(_mapping(value).get("trainer"))
        elif option == "--trainer":
            found |= _known(_mapping(value))
        elif option.startswith("--trainer."):
            found |= _known({option.removeprefix("--trainer."): _parsed(value)})
    return found


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals:
            yield option, value
        elif place + 1 < len(arguments):
            yield option, arguments[place + 1]


def _mapping(value: str) -> dict[str, Any]:
    """A YAML file, or its text; nothing where it is neither, of which the parser itself tells."""
    path = Path(value)
    try:
        is_file = path.is_file()
    except OSError:  # a text too long for a name
        is_file = False
    found = _parsed(path.read_text() if is_file else value)
    return found if isinstance(found, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _known(trainer: Any) -> dict[str, Any]:
    return {key: trainer[key] for key in _DEFAULTS if key in trainer} if isinstance(trainer, dict) else {}


def _count(devices: Any) -> int | None:
    """How many devices a value of trainer.devices means; None for as many as there are."""
    if isinstance(devices, str) and "," in devices:
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if str(devices).isdecimal() else None


def _visible_gpus(environment: Mapping[str, str]) -> int | None:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([index for index in visible.split(",") if index.strip()])
    return int(environment["SLURM_GPUS_ON_NODE"]) if "SLURM_GPUS_ON_NODE" in environment else None

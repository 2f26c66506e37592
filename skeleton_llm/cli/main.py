"""``skeleton-llm``: one word says what to do; heavy imports wait until it is known."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from skeleton_llm import signals

_HELP = """usage: skeleton-llm COMMAND ...

Name human actions from skeletons with a large language model.

  download    fetch a language model on a machine with network, for one without
  prepare     raw skeleton files (or the built-in synthetic ones) to a prepared dataset
  doctor      is a raw or prepared dataset whole and sound?
  show        draw one clip as a GIF or a contact sheet
  plan        does stage 2 fit on these GPUs, and how long does it take?
  runs        where every run stands: state, step, loss, starts, time left
  fit         train a stage:      skeleton-llm fit --config configs/stage1.yaml --config configs/data/synthetic.yaml
  slurm       the same as a SLURM job that is preempted, requeued and resumed by itself
  validate    validation split of a trained stage
  test        test split of a trained stage
  unseen      classes held out of both stages (LLM-AR's five draws): mean and deviation
  ablate      LLM-AR's tables of ablations and baselines over seeds, side by side, in one report
  ensemble    the summed probabilities of finished recognisers (joint, bone and motion streams, say)
  tokenize    every action sentence of a prepared dataset as JSON lines
  export      write a run's tokenizer or recogniser from a checkpoint, merged into its language model if wanted
  recognize   name the actions in raw skeleton files or a prepared dataset

"skeleton-llm COMMAND --help" tells more; "make help" lists the short ways; --version tells which this is. {configs}
"""
# each a module with its function
_SHORT = (
    "download",
    "prepare",
    "doctor",
    "show",
    "plan",
    "unseen",
    "ablate",
    "ensemble",
    "tokenize",
    "recognize",
    "runs",
)
_ROOMS = ("lightning_modules", "datamodules", "callbacks")


def configs() -> Path:
    """Where the shipped configs lie: beside the package in a wheel, in the clone else."""
    package = Path(__file__).parents[1]
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _about(asked: str = "--help") -> str:
    if asked == "--version":
        from importlib.metadata import version  # --help does without

        return f"skeleton-llm {version('skeleton-llm')}\n"
    return _HELP.format(configs=f"Configs: {configs()}")


def _foreign_room() -> str | None:
    """A room of ours that another distribution of the same name shadows."""
    home = Path(__file__).parents[2]
    for room in _ROOMS:
        spec = find_spec(room)
        if spec is None or spec.origin is None or Path(spec.origin).parent.parent != home:
            return f"package {room!r} comes from {spec.origin if spec else 'nowhere'}, not from {home}"
    return None


def _train_or_test(command: str, arguments: Sequence[str], *, program: bool) -> int:
    took = command == "fit" and signals.install()  # before the imports, which take seconds
    if program and "LOCAL_RANK" in os.environ:
        signals.leave_with_parent()
    try:
        from skeleton_llm.cli.preflight import mismatch

        unfit = mismatch(arguments, os.environ)
        if unfit:  # told by every rank, because srun ends the others when the first one leaves
            print(f"error: {unfit}", file=sys.stderr)
            return 2
        from skeleton_llm.cli.fit import run

        return run(command, arguments)
    finally:
        if took and program:  # what is saved, or finished, stays so in exit code too
            signals.ignore()
        elif took:
            signals.restore()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 bad input, 2 bad command line or config."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        print(_about(*arguments[:1]), end="")
        return 0
    command, rest = arguments[0], arguments[1:]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import reports optional kernels as failures
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # PEFT on transformers 5
    if command in _SHORT:
        return getattr(import_module(f"skeleton_llm.cli.{command}"), command)(rest)
    if command in ("fit", "slurm", "validate", "test", "export"):
        foreign = _foreign_room()
        if foreign:
            print(f"{foreign}; uninstall the other distribution or use a fresh environment", file=sys.stderr)
            return 1
        if command == "slurm":  # before anything reads it: what the job will not find shall be missed here
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if command in ("export", "slurm"):
            return getattr(import_module(f"skeleton_llm.cli.{command}"), command)(rest)
        return _train_or_test(command, rest, program=argv is None)
    print(f'skeleton-llm: unknown command {command!r}; "skeleton-llm --help" lists them', file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

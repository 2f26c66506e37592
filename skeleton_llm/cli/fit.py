"""Train and test by LightningCLI in subclass mode: YAML names the classes, the command resumes what was interrupted."""

import argparse
import errno
import json
import logging
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from skeleton_llm import shards, signals
from skeleton_llm.cli.refusals import refuse_impossible, slow_bfloat16
from skeleton_llm.cli.results import environment, summary
from skeleton_llm.cli.resume import (
    began_with,
    changes,
    newest_checkpoint,
    record_identity,
    record_override,
    refuse_another,
    refuse_changes,
    same_run,
    step_of,
)
from skeleton_llm.cli.slurm_job import SlurmJob
from skeleton_llm.language.card import record_run
from skeleton_llm.whole import write_whole

_NOISE = re.compile(r"Union subtypes|Subtypes:|Errors:|NoneType|Given value|NestedArg|^\s*$|^\s*- Expected")
_DATA = ("folder", "protocol", "unseen")  # what results are of
_UNALIGNED = "--model.init_args.allow_unaligned=true"
_OVERRIDE = "--override-config"
_LINKS = ("class_names", "layout", "num_persons", "unseen")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_ON_BAR = ("train/loss", "train/error_m")


class Finished(Exception):  # noqa: N818  (no error)
    """The run folder holds the results already."""


class Curves(TensorBoardLogger):
    """TensorBoard without Lightning's ``epoch``: a run is one stream of steps, and in all of them it is 0."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class WholeConfig(SaveConfigCallback):
    """The config as resolved, in the run's folder, whole at any moment."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        write_whole(Path(trainer.default_root_dir) / "config.yaml", text)


class _OfSteps(ProgressBar):
    """A progress bar of the whole run; Lightning's begins anew with what is left, and counts epochs that no run has."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # a finished run that is given more steps counts its batches from 0 again
        so_far = trainer.fit_loop.epoch_loop.total_batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, so_far)

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training  "  # as long as "Validation", or the lines would jump


class _BarValues:
    """A step's values beside the progress bar's own (``others``), read every so many steps.

    Lightning reads what a step logs with ``prog_bar`` at every step, drawn or not, and waits for the device each time;
    its richer bar asks for the values at every step too.
    """

    def __init__(self, others: Callable[..., dict[str, Any]], every: int) -> None:
        self.others, self.every = others, every
        self.last: dict[str, float] = {}

    def __call__(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        if trainer.global_step % self.every == 0:
            found = trainer.callback_metrics
            self.last.update({name: float(found[name]) for name in _ON_BAR if name in found})
        return {**self.others(trainer, module), **self.last}


def _held(start: Callable[[], None]) -> None:
    """Start the other ranks' processes, with signals held back until these can take them."""
    with signals.held():
        start()


class SkeletonCLI(LightningCLI):
    """LightningCLI with the data's facts linked to the model, one run folder a stage, resume without asking."""

    changed: list[str] = []  # noqa: RUF012  (never changed in place)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in _LINKS:  # left out by jsonargparse where the model has no such argument
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.add_class_arguments(SlurmJob, "slurm")  # read by skeleton-llm slurm alone

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.override = _OVERRIDE in args
        super().parse_arguments(parser, [argument for argument in args if argument != _OVERRIDE])
        self.command = shlex.join(["skeleton-llm", *args]).replace("\n", "\\n")  # one line of environment.txt

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyper-parameters override the command line; the config rules here."""

    @property
    def folder(self) -> Path:
        """The run folder of this stage."""
        return Path(self.config[self.subcommand]["trainer"]["default_root_dir"] or "runs/unnamed")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config["trainer"]["default_root_dir"] = str(self.folder)
        refuse_impossible(config["model"]["init_args"], config["trainer"])
        if self.subcommand != "fit":
            config["ckpt_path"] = str(self._checkpoint(config["ckpt_path"]))
            self._refuse_other_results(config)
            return
        if config["ckpt_path"] is not None:
            return
        self._refuse_strays()
        newest = newest_checkpoint(self.folder / "checkpoints")
        if self.finished or newest is not None:
            parser = self._parser(self.subcommand)
            now = yaml.safe_load(parser.dump(config, skip_validation=True))
            self.changed = changes(began_with(self.folder), now)
            if not self.override:
                refuse_changes(self.folder, self.changed)
        if newest is not None:
            config["ckpt_path"] = str(newest)

    @property
    def finished(self) -> bool:
        """Whether the run's folder holds its results."""
        return (self.folder / "results.json").is_file()

    def _refuse_strays(self) -> None:
        """Lightning would go on from these without being asked, whichever run wrote them."""
        strays = sorted(self.folder.glob("hpc_ckpt_*.ckpt"))
        if strays:
            raise ValueError(
                f"{strays[0]} was written by Lightning's own requeueing, which is not used here; move it away"
            )

    def _checkpoint(self, given: Any) -> Path:
        """The checkpoint that was named, or the newest of a run folder, by default this one."""
        folder = self.folder if given is None else Path(given)
        if given is not None and (not folder.is_dir() or shards.are_in(folder)):
            return folder
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise FileNotFoundError(
                f"{folder / 'checkpoints'} holds no checkpoint to {self.subcommand}; train first,"
                " or name one, or its run folder, with --ckpt_path"
            )
        return newest

    def _refuse_other_results(self, config: Any) -> None:
        """A run's folder keeps the results of its own checkpoints on its own data."""
        known = self.folder / "config.yaml"
        if not known.is_file():
            return
        then, now = yaml.safe_load(known.read_text())["data"]["init_args"], config["data"]["init_args"]
        other = [f"data.init_args.{key} {now.get(key)}" for key in _DATA if then.get(key) != now.get(key)]
        if not Path(config["ckpt_path"]).resolve().is_relative_to(self.folder.resolve()):
            other.append(f"the checkpoint {config['ckpt_path']}")
        if other:
            raise ValueError(
                f"{self.folder} holds the results of another run than one with {other[0]};"
                " keep them and name another folder with --trainer.default_root_dir"
            )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        if str(config["precision"]).startswith("bf16") and slow_bfloat16(config["accelerator"]):
            rank_zero_warn(
                f"trainer.precision {config['precision']}: this CPU has no bfloat16 arithmetic and takes about ten"
                " times as long as with --trainer.precision 32-true"
            )
        if config["logger"] in (None, True):
            # one version for all restarts, so that curves go on; what was told after the checkpoint will be told again
            path = self.config[self.subcommand].get("ckpt_path") if self.subcommand == "fit" else None
            purge = None if self.subcommand != "fit" else (step_of(Path(path)) or 0) if path else 0
            kwargs["logger"] = Curves(str(self.folder), name="", version="", default_hp_metric=False, purge_step=purge)
        if SLURMEnvironment.detect():
            plugins = config["plugins"] or []
            kwargs["plugins"] = [
                *(plugins if isinstance(plugins, list) else [plugins]),
                SLURMEnvironment(auto_requeue=False),
            ]
        trainer = super().instantiate_trainer(**kwargs)
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "_call_children_scripts"):
            launcher._call_children_scripts = partial(_held, launcher._call_children_scripts)
        bar: Any = trainer.progress_bar_callback
        if bar is not None and trainer.max_steps > 0:
            bar.__class__ = type("StepBar", (_OfSteps, type(bar)), {})
        if bar is not None and hasattr(bar, "_refresh_rate"):
            # showing a value waits for the device: not at every step, but when values are logged
            every = config["log_every_n_steps"] or 50
            bar._refresh_rate = max(bar._refresh_rate, every)
            bar.get_metrics = _BarValues(bar.get_metrics, every)
        return trainer

    def before_fit(self) -> None:
        """Refuse to go on as another run; keep on what, where and by which command the run was made."""
        data = self.datamodule
        identity = {"world_size": self.trainer.world_size, "data": data.info["content_hash"]}
        identity |= getattr(self.model, "identity", dict)()
        differing = same_run(self.folder, identity)
        if not self.override:
            # the results of a finished run stay what they are on any machine
            refuse_another(self.folder, [part for part in differing if not (self.finished and "ranks" in part)])
        if self.finished and not (self.override and (self.changed or differing)):
            raise Finished(summary(self.folder) if self.trainer.is_global_zero else "")
        path = self.config[self.subcommand]["ckpt_path"]
        step = step_of(Path(path)) if path else None
        if not self.trainer.is_global_zero:
            return
        if path:
            print(f"going on from step {step} ({path})", file=sys.stderr)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.override:
            record_override(self.folder, step, self.changed + differing)
        record_identity(self.folder, identity)
        unseen = f", {len(data.unseen)} classes unseen" if data.unseen else ""
        facts = {
            "dataset": data.info["name"],
            "protocol": f"{data.protocol.name}{unseen}",
            "data": data.info["content_hash"],
            "seed": self.config[self.subcommand]["seed_everything"],
            "command": self.command,
        }
        with (self.folder / "environment.txt").open("a") as file:
            file.write(environment(facts))

    def after_fit(self) -> None:
        """The one look at the test split, then the results and what comes next."""
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self._write_results()

    def after_test(self) -> None:
        """The results of a folder that no run was trained in."""
        if not (self.folder / "config.yaml").is_file():
            self._write_results()

    def _write_results(self) -> None:
        if not self.trainer.is_global_zero:
            return
        results = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if torch.cuda.is_initialized():
            results["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20  # of rank 0, since it last began
        card = self.subcommand == "fit" and (self.folder / "recognizer" / "llm.json").is_file()
        if card:  # first: with its results a run is finished
            record_run(self.folder / "recognizer", self.folder, results)
        write_whole(self.folder / "results.json", json.dumps(results, indent=1))
        print(summary(self.folder))


def sentence(error: BaseException) -> str:
    """Jsonargparse's page of text as one line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if not _NOISE.search(line)]
    return " ".join(" ".join(lines).split())


def open_run(kind: type[SkeletonCLI], command: str, arguments: Sequence[str]) -> SkeletonCLI:
    """Build a run from its YAML and command line, and do what ``kind`` does with it."""
    strict = {"allow_abbrev": False, "exit_on_error": False}
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*in eval mode.*",
        ".*LeafSpec.*",
        ".*args parameter is intended.*",
        "It is recommended to use `self.log.*sync_dist=True.*",  # what is logged is over all ranks already
        "The `srun` command is available.*",  # make slurm-stage1 uses it
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # the stream starts where it stopped,
        "The number of training batches.*smaller than the logging interval.*",
        ".*functional.all_gather is deprecated.*",  # Lightning's own call
    ):
        warnings.filterwarnings("ignore", message)
    given = [_UNALIGNED if argument == "--allow-unaligned" else argument for argument in arguments]
    return kind(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_callback=WholeConfig if command == "fit" else None,
        save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
        parser_kwargs={**strict, "fit": strict, "validate": strict, "test": strict},
        args=[command, *given],
    )


def run(command: str, arguments: Sequence[str]) -> int:
    """``fit``, ``validate`` or ``test``."""
    threading.excepthook = _told_by_the_run
    try:
        open_run(SkeletonCLI, command, arguments)
    except Finished as done:
        if str(done):  # on rank 0
            print(done)
    except argparse.ArgumentError as error:
        print(f"config error: {sentence(error)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, MisconfigurationException) as error:
        print(f"error: {_no_room(error) or sentence(error)}", file=sys.stderr)
        return 2
    finally:
        threading.excepthook = threading.__excepthook__
    return 0


def _no_room(error: Exception) -> str | None:
    """What to do where the system says no more than that it cannot write."""
    if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
        return None
    where = error.filename or "the run's folder"
    return (
        f"{where} cannot be written ({error.strerror}); the checkpoints written before are whole: make room, or give"
        " the folder back, and start the same command again"
    )


def _told_by_the_run(args: Any) -> None:
    """Nothing for TensorBoard's writer, whose error the run raises again and tells in one sentence."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(args)

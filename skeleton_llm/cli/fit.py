"""Train and test by LightningCLI in subclass mode: YAML names the classes, the command resumes what was interrupted."""

import argparse
import csv
import json
import logging
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from skeleton_llm.language.card import record_run

_NOISE = re.compile(r"Union subtypes|Subtypes:|Errors:|NoneType|Given value|NestedArg|^\s*$|^\s*- Expected")
_DATA = ("folder", "protocol", "unseen")  # what results are of
_UNALIGNED = "--model.init_args.allow_unaligned=true"
_LINKS = ("class_names", "layout", "num_persons", "unseen")
_ON_BAR = ("train/loss", "train/error_m")


class Finished(Exception):  # noqa: N818  (no error)
    """The run folder holds the results already."""


def _slow_bfloat16(accelerator: Any) -> bool:
    """Whether the run is on a CPU whose convolutions fall back to a plain loop in bfloat16."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def refuse_impossible(model: Any, trainer: Any) -> None:
    """Raise for a tuning, strategy, optimiser or precision that cannot work, before anything is loaded.

    Args:
        model: the parsed arguments of the module.
        trainer: those of the trainer.
    """
    from skeleton_llm.language.tuning import refuse, refuse_bfloat16, refuse_flat

    accelerator = _accelerator(trainer["accelerator"])
    strategy = _strategy(trainer, accelerator)
    optimization, llm = model.get("optimization") or {}, model.get("llm") or {}
    tuning, inputs = model.get("tuning") or {}, model.get("inputs") or {}
    # the other stages train small networks whole
    mode = tuning.get("mode", "lora") if "tuning" in model else "full"
    shards, name = strategy in ("fsdp1", "fsdp2"), strategy.upper()
    if "tuning" not in model and shards:
        raise ValueError(f"trainer.strategy {name} shards a language model, which this stage does not train; take ddp")
    refuse(mode, strategy, accelerator, optimization.get("optimizer", "adamw"))
    dtype = llm.get("dtype", "float32")
    refuse_flat(
        strategy,
        dtype,
        dora=tuning.get("dora", False),
        form=inputs.get("form", "codes"),
        input_map=inputs.get("map", False),
    )
    if shards and str(trainer["precision"]).startswith("16"):
        raise ValueError(
            f"trainer.strategy {name} does not compute in trainer.precision {trainer['precision']}; set it to"
            " bf16-mixed or 32-true, or take ddp"
        )
    if shards and trainer["inference_mode"]:
        raise ValueError(
            f"trainer.strategy {name} cannot train weights that a validation gathered in inference mode;"
            " set trainer.inference_mode to false (configs/hardware/fsdp2.yaml does)"
        )
    if accelerator == "cuda" and torch.cuda.is_available():
        keys = {"trainer.precision": str(trainer["precision"])}
        if "tuning" in model:
            keys["llm.dtype"] = dtype
        refuse_bfloat16(keys, torch.cuda.get_device_name(), torch.cuda.get_device_capability())


def _accelerator(given: Any) -> str:
    """What ``auto`` and ``gpu`` come to on this machine."""
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if given == "gpu" and found == "cpu":
        return "cuda"  # Lightning says that there is none
    return found if given in ("auto", "gpu") else str(given)


def _strategy(trainer: Any, accelerator: str) -> str:
    """The trainer's strategy by the names of ``refuse``; unknown ones by their own."""
    given, devices = trainer["strategy"], trainer["devices"]
    name = given if isinstance(given, str) else given["class_path"].rsplit(".", 1)[-1]
    if name == "auto":
        one = devices == "auto" and accelerator != "cuda"
        return "single" if (one or str(devices) in ("1", "[0]", "0,")) and trainer["num_nodes"] == 1 else "ddp"
    if name.startswith(("ddp", "DDP")):
        return "ddp"
    known = {"single_device": "single", "SingleDeviceStrategy": "single", "FSDP1": "fsdp1", "FSDP2": "fsdp2"}
    return known.get(name, name)


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


class SkeletonCLI(LightningCLI):
    """LightningCLI with the data's facts linked to the model, one run folder a stage, resume without asking."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in _LINKS:  # left out by jsonargparse where the model has no such argument
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
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
        newest = newest_checkpoint(self.folder / "checkpoints")
        finished = (self.folder / "results.json").is_file()
        if finished or newest is not None:
            self._refuse_changes()
        if finished:
            raise Finished(summary(self.folder))
        if newest is not None:
            config["ckpt_path"] = str(newest)
            print(f"going on from {newest}", file=sys.stderr)

    def _checkpoint(self, given: Any) -> Path:
        """The checkpoint that was named, or the newest of a run folder, by default this one."""
        folder = self.folder if given is None else Path(given)
        if given is not None and not folder.is_dir():
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

    def _refuse_changes(self) -> None:
        """Compare with the config that the interrupted run began with."""
        known = self.folder / "config.yaml"
        if not known.is_file():
            raise FileNotFoundError(
                f"{known} is missing, so nobody knows how the run in its folder began; give another RUN="
            )
        parser = self._parser(self.subcommand)
        now = _flat(yaml.safe_load(parser.dump(self.config[self.subcommand], skip_validation=True)))
        then = _flat(yaml.safe_load(known.read_text()))
        changed = sorted(k for k in {*now, *then} - {"ckpt_path"} if now.get(k) != then.get(k))
        if changed:
            keys = ", ".join(f"{key} ({then.get(key)} -> {now.get(key)})" for key in changed[:5])
            raise ValueError(
                f"{self.folder} holds a run with another config: {keys};"
                " give it the old values, another RUN=, or remove the folder"
            )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        if str(config["precision"]).startswith("bf16") and _slow_bfloat16(config["accelerator"]):
            rank_zero_warn(
                f"trainer.precision {config['precision']}: this CPU has no bfloat16 arithmetic and takes about ten"
                " times as long as with --trainer.precision 32-true"
            )
        if config["logger"] in (None, True):
            # one version for all restarts, so that curves go on
            kwargs["logger"] = TensorBoardLogger(str(self.folder), name="", version="")
        if SLURMEnvironment.detect():
            plugins = config["plugins"] or []
            kwargs["plugins"] = [
                *(plugins if isinstance(plugins, list) else [plugins]),
                SLURMEnvironment(auto_requeue=False),
            ]
        trainer = super().instantiate_trainer(**kwargs)
        bar: Any = trainer.progress_bar_callback
        if bar is not None and hasattr(bar, "_refresh_rate"):
            # showing a value waits for the device: not at every step, but when values are logged
            every = config["log_every_n_steps"] or 50
            bar._refresh_rate = max(bar._refresh_rate, every)
            bar.get_metrics = _BarValues(bar.get_metrics, every)
        return trainer

    def before_fit(self) -> None:
        """Keep on what, where and by which command the run was made."""
        if self.trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = self.datamodule
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
        trainer: Any = self.trainer
        owing = [callback for callback in trainer.callbacks if not getattr(callback, "written", True)]
        for export in owing:
            export.owed = True
        if owing:  # the run was stopped between its last step and its end, and trained no more
            trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self._write_results()

    def after_test(self) -> None:
        """The results of a folder that no run was trained in."""
        if not (self.folder / "config.yaml").is_file():
            self._write_results()

    def _write_results(self) -> None:
        if not self.trainer.is_global_zero:
            return
        results = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        (self.folder / "results.json").write_text(json.dumps(results, indent=1))
        if self.subcommand == "fit" and (self.folder / "recognizer" / "llm.json").is_file():
            record_run(self.folder / "recognizer", self.folder)
        print(summary(self.folder))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys; nothing and empty are the same."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {} if tree is None or tree == {} else {prefix.rstrip("."): tree}


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step; links and damaged files are passed over."""
    best: tuple[int, Path] | None = None
    for path in folder.glob("*.ckpt"):
        if path.is_symlink() or not zipfile.is_zipfile(path):
            continue
        try:
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        except Exception:  # noqa: BLE001, S112, PERF203  (whatever is wrong with it, it is no checkpoint to go on from)
            continue
        if best is None or step > best[0]:
            best = (step, path)
    return best[1] if best else None


def environment(facts: dict[str, Any]) -> str:
    """What a run stands on, a line each: time, revision, versions, machine, and what ``facts`` adds."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    git = shutil.which("git") and subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    names = ("torch", "lightning", "transformers", "peft", "numpy")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    known = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": git.stdout.strip() if git else "unknown",
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "machine": f"{platform.platform()}, {machine}",
    }
    return "".join(f"{name}: {value}\n" for name, value in {**known, **facts}.items()) + "\n"


def summary(folder: Path) -> str:
    """Test results of a finished run as a few lines."""
    results: dict[str, float] = json.loads((folder / "results.json").read_text())
    lines = [f"finished: {folder}"]
    lines += [f"  {name:<32}{value:10.4f}" for name, value in sorted(results.items()) if name.startswith("test/")]
    lines += _most_confused(folder / "test_confused.csv")
    if (folder / "tokenizer").is_dir():
        lines.append(f"action tokenizer: {folder / 'tokenizer'}; next: make stage2 with the same DATA, RUN and LLM")
    if (folder / "recognizer").is_dir():
        lines.append(
            f"recogniser: {folder / 'recognizer'}; next: skeleton-llm recognize FILE --model {folder / 'recognizer'}"
        )
    return "\n".join(lines)


def _most_confused(table: Path) -> list[str]:
    """The first five pairs of classes, where the test left such a table."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        pairs = [
            f"  {row['truth']} -> {row['answer']}: {row['clips']} clips, {100 * float(row['share']):.0f} % of the class"
            for row in islice(csv.DictReader(file), 5)
        ]
    return ["most often confused:", *pairs] if pairs else []


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
        "Checkpoint directory .* exists.*",
        "The dirpath has changed from .*",  # a test of another run's checkpoint
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # the stream starts where it stopped,
    ):
        warnings.filterwarnings("ignore", message)
    return kind(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_callback=SaveConfigCallback if command == "fit" else None,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={**strict, "fit": strict, "validate": strict, "test": strict},
        args=[command, *(_UNALIGNED if argument == "--allow-unaligned" else argument for argument in arguments)],
    )


def run(command: str, arguments: Sequence[str]) -> int:
    """``fit``, ``validate`` or ``test``."""
    try:
        open_run(SkeletonCLI, command, arguments)
    except Finished as done:
        print(done)
    except argparse.ArgumentError as error:
        print(f"config error: {sentence(error)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, MisconfigurationException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0

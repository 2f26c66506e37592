"""``skeleton-llm export``: what a run learned, as the folder that others use, without training."""

import argparse
import gc
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from skeleton_llm import shards
from skeleton_llm.cli.fit import SkeletonCLI, open_run, sentence
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.language.card import record_run, write_card
from skeleton_llm.language.saving import merge_network, move_base, read_config
from skeleton_llm.run_folder import results


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm export",
        description="Write the recogniser of a stage-2 run, or the tokenizer of a stage-1 run, from a checkpoint; or a"
        " recogniser's folder anew. Further options go to the run's config.yaml, for a dataset or tokenizer that has"
        " moved: --data.init_args.folder, --model.init_args.tokenizer.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN|CHECKPOINT|RECOGNISER", help="a run's folder means its newest checkpoint"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="merge what was learned into the unquantised language model, which the folder then holds whole",
    )
    parser.add_argument("--llm", help="where the language model lies, if it has moved since")
    return parser.parse_known_args(argv)


def export(argv: Sequence[str]) -> int:
    """Write one folder, whole or not at all."""
    arguments, more = _arguments(argv)
    source, out = arguments.source, arguments.out
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _make_room(out)
        if (source / "llm.json").is_file():
            _refuse_keys(more)
            _copy(source, part, arguments)
        else:
            _from_run(*_find_run(source), part, arguments, more)
        if out.is_dir():
            out.rmdir()  # empty
        part.replace(out)
    except argparse.ArgumentError as error:
        print(f"config error: {sentence(error)}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(part, ignore_errors=True)
    ask = f"; next: skeleton-llm recognize FILE --model {out}" if (out / "llm.json").is_file() else ""
    print(f"{out}: exported from {source}{ask}")
    return 0


def _make_room(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"--out {out}: something is there already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error


def _refuse_keys(more: Sequence[str]) -> None:
    if more:
        raise ValueError(f"{' '.join(more)}: keys of a run's config, but a recogniser is no run; leave them away")


def _copy(source: Path, part: Path, arguments: argparse.Namespace) -> None:
    """A recogniser's folder once more, with its base found elsewhere or merged."""
    config = read_config(source)
    if arguments.merge and config["merged"]:
        raise ValueError(f"{source}: is merged already; export it without --merge")
    shutil.copytree(source, part)
    if arguments.llm is not None:
        move_base(part, arguments.llm)
    if arguments.merge:
        merge_network(part)
    write_card(part)


def _find_run(source: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint.

    Raises:
        FileNotFoundError: there is no run, or it has no whole checkpoint.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such folder or checkpoint; expected runs/NAME/stage1 or stage2")
    whole_run = source.is_dir() and not shards.are_in(source)
    run = source if whole_run else next((up for up in source.parents if (up / "config.yaml").is_file()), None)
    if run is None or not (run / "config.yaml").is_file():
        inside = " or ".join(str(file.parent) for file in sorted(source.glob("*/config.yaml")))
        raise FileNotFoundError(
            f"{source}: is no run, whose folder holds config.yaml, no checkpoint of one and no recogniser;"
            f" name {inside or 'runs/NAME/stage1 or runs/NAME/stage2'}"
        )
    if whole_run:
        newest = newest_checkpoint(run / "checkpoints")
        if newest is None:
            made = next((folder for name in ("recognizer", "tokenizer") if (folder := run / name).is_dir()), None)
            raise FileNotFoundError(
                f"{run / 'checkpoints'} holds no whole checkpoint;"
                + (f" what the finished run wrote is {made}" if made else " train first")
            )
        return run, newest
    return run, source


def _read(checkpoint: Path) -> dict[str, Any]:
    if shards.are_in(checkpoint):
        return shards.read(checkpoint)
    try:
        if not zipfile.is_zipfile(checkpoint):
            raise EOFError("cut off")
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if not {"state_dict", "global_step"} <= saved.keys():
            raise KeyError("weights and step")
        return saved
    except (EOFError, KeyError, RuntimeError, AttributeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint}: no whole checkpoint; name another one of {checkpoint.parent}") from error


class _RunCLI(SkeletonCLI):
    """A run's module and data as they were, in one process and without training."""

    def before_instantiate_classes(self) -> None:
        """Nothing: no folder of a run is looked for, and nothing that trains is refused."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return L.Trainer(accelerator="auto", devices=1, plugins=[LightningEnvironment()], **plain)

    def before_fit(self) -> None:
        """Nothing: the run is not made anew."""

    def fit(self, **kwargs: Any) -> None:
        """Nothing, where Lightning would train."""

    def after_fit(self) -> None:
        """Nothing: no results are."""


def _from_run(run: Path, checkpoint: Path, part: Path, arguments: argparse.Namespace, more: Sequence[str]) -> None:
    """The product of a run as a checkpoint holds it, merged if asked, with what the run's folder knows of it."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    recognises = "tuning" in config["model"]["init_args"]
    if arguments.merge and not recognises:
        raise ValueError(f"{run}: --merge is for stage 2's recogniser, this run made none; leave it away")
    saved = _read(checkpoint)
    llm = [] if arguments.llm is None else ["--model.init_args.llm.name", arguments.llm]
    _write_product(["--config", str(run / "config.yaml"), *llm, *more], saved, part)
    if arguments.merge:
        gc.collect()  # the run's own copy of the language model
        merge_network(part)
    if recognises:
        of_these = saved["global_step"] == config["trainer"]["max_steps"] and (run / "results.json").is_file()
        record_run(part, run, results(run) if of_these else {})


def _write_product(options: Sequence[str], saved: dict[str, Any], part: Path) -> None:
    """Build what the config says, give it the checkpoint's weights and have it write its product."""
    try:
        cli: Any = open_run(_RunCLI, "fit", options)
    except (FileNotFoundError, ValueError) as error:
        if not isinstance(error.__cause__ or error, FileNotFoundError):  # jsonargparse makes it a ValueError
            raise
        raise FileNotFoundError(
            f"{sentence(error)}; what the run's config.yaml names is looked for from here: export where the run was"
            " made, or say where things are (export --help)"
        ) from error
    if not hasattr(cli.model, "export"):
        raise ValueError(f"{type(cli.model).__name__} makes nothing to export; name a run of stage 1 or 2")
    cli.model.on_load_checkpoint(saved)
    try:
        cli.model.load_state_dict(saved["state_dict"], strict=cli.model.strict_loading)
    except RuntimeError as error:
        raise ValueError(
            "the checkpoint has other weights than the run's config and the options ask for; leave those keys away"
        ) from error
    cli.model.trainer, cli.trainer.datamodule = cli.trainer, cli.datamodule
    cli.model.export(part)

"""Where an interrupted run goes on, and whether it is the same run."""

import json
import sys
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml

from skeleton_llm import shards
from skeleton_llm.dotted import flat
from skeleton_llm.whole import write_whole

BEST = "best.ckpt"
"""Of the validations so far; written in the middle of a step, so that nothing goes on from it."""
REPLACED_BEST = "best.old.ckpt"
"""One in shards, while the next takes its place."""
_OVERRIDE = "go on knowingly with --override-config, or give it another RUN="


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step; links and damaged ones are passed over.

    Raises:
        ValueError: one holds more than tensors and plain values: loading it could run its code; or the folder is
            a link.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, and none is followed; put the folder itself there")
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        if path.is_symlink() or path.name in (BEST, REPLACED_BEST):
            continue
        step = step_of(path)
        if step is None:
            print(f"{path} is damaged and passed over", file=sys.stderr)
        else:
            found[step] = path
    return found[max(found)] if found else None


def step_of(path: Path) -> int | None:
    """The optimiser steps that a checkpoint, a file or a folder of shards, has behind it; None for a damaged one.

    Raises:
        ValueError: it holds more than tensors and plain values.
    """
    file = path / shards.REST if path.is_dir() else path
    if not zipfile.is_zipfile(file):
        return None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return None if path.is_dir() and shards.cut_off(path, found) else int(found["global_step"])
    except UnpicklingError as error:
        if "global" not in str(error).lower():
            return None
        raise ValueError(
            f"{path} holds more than tensors and plain values, so it is not loaded: remove it if it is not yours"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError):
        return None


def changes(then: Any, now: Any) -> list[str]:
    """What another config gives to a run, a key each; where it lies, and what SLURM is told, is no part of it."""
    before, after = flat(then), flat(now)
    keys = sorted(
        key
        for key in {*before, *after} - {"ckpt_path", "trainer.default_root_dir"}
        if before.get(key) != after.get(key) and not key.startswith("slurm.")
    )
    return [f"{key} ({before.get(key)} -> {after.get(key)})" for key in keys]


def began_with(folder: Path) -> Any:
    """The config of the run in ``folder``.

    Raises:
        FileNotFoundError: it has none.
    """
    known = folder / "config.yaml"
    if not known.is_file():
        raise FileNotFoundError(
            f"{known} is missing, so nobody knows how the run in its folder began; give another RUN="
        )
    try:
        return yaml.safe_load(known.read_text())
    except yaml.YAMLError as error:
        raise ValueError(
            f"{known} is no YAML any more, so nobody knows how the run began; give another RUN="
        ) from error


def refuse_changes(folder: Path, changed: list[str]) -> None:
    """Raise where a run began with another config."""
    if changed:
        raise ValueError(
            f"{folder} holds a run with another config: {', '.join(changed[:5])}; give it the old values, {_OVERRIDE}"
        )


_NAMES = {
    "world_size": "number of ranks",
    "data": "dataset (its content hash)",
    "llm": "base model (its fingerprint)",
    "tokenizer": "action tokenizer (its fingerprint)",
}


def same_run(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """What differs between the run in ``folder`` and one of this ``identity``, a sentence part each."""
    known = folder / "run.json"
    if not known.is_file():
        return []
    try:
        then = json.loads(known.read_text())
    except ValueError:
        then = None
    if not isinstance(then, dict) or not {"world_size", "data"} <= then.keys():
        raise ValueError(
            f"{known} does not tell what the run stands on; remove it if you are sure that data, models and number of"
            " ranks are the same, or give another RUN="
        )
    return [
        f"another {_NAMES.get(name, name)} ({str(then[name])[:12]} -> {str(value)[:12]})"
        for name, value in identity.items()
        if name in then and then[name] != value
    ]


def refuse_another(folder: Path, differing: list[str]) -> None:
    """Raise where a run stands on other things than it began with."""
    if differing:
        raise ValueError(
            f"{folder} holds a run that began with {', '.join(differing)}; give the first back, {_OVERRIDE}"
        )


def record_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Keep what the run stands on."""
    write_whole(folder / "run.json", json.dumps(identity, indent=1) + "\n")


def record_override(folder: Path, step: int | None, what: list[str]) -> None:
    """Keep that the run was changed on the way; the results that it had are set aside."""
    if not what:
        return
    known, now = folder / "overrides.txt", datetime.now(UTC).isoformat(timespec="seconds")
    before = known.read_text() if known.is_file() else ""
    write_whole(known, before + "".join(f"{now} from step {step or 0}: {change}\n" for change in what))
    results = folder / "results.json"
    if results.is_file():
        results.replace(folder / f"results.step={step or 0}.json")

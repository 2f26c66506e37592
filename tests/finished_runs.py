"""Runs that look finished, made in milliseconds: as a command it stands in for ``skeleton-llm fit``."""

import json
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from skeleton_llm.whole import write_whole

NAMES = ("sit", "wave", "kick something in front of the body", "run")


def write_answers(
    folder: Path, index: np.ndarray, labels: np.ndarray, answers: np.ndarray, split: str = "test", data: str = "5f5f"
) -> None:
    """The scores of a test, or of a validation, that gave these answers."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.log(np.eye(len(NAMES), dtype=np.float32)[answers] * 0.2 + 0.2)
    (folder / "scores").mkdir(exist_ok=True)
    of = {"data": data, "protocol": "synthetic_xsub", "split": split, "step": "6", "class_names": json.dumps(NAMES)}
    save_file({"rows": index, "labels": labels, "scores": scores}, folder / f"scores/{split}.safetensors", of)


def write_curves(folder: Path, curves: dict[str, dict[int, float]]) -> None:
    """TensorBoard's events of scalars."""
    writer = EventFileWriter(str(folder))
    for tag, values in curves.items():
        for step, value in values.items():
            writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.close()


def write_facts(
    folder: Path,
    data: Path,
    results: dict[str, float],
    revision: str = "abc1234",
    arguments: Sequence[str] = (),
) -> None:
    """Config, environment and results."""
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"data": {"init_args": {"folder": str(data), "protocol": "synthetic_xsub"}}}
    given["model"] = {"init_args": {"llm": {"name": "built-in", "revision": None}}}
    overlays = [Path(path).stem for key, path in pairwise(arguments) if key == "--config"]
    given["trainer"] = {"max_steps": 6, "overlays": overlays, "default_root_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    (folder / "environment.txt").write_text(
        f"started: today\nrevision: {revision}\nversions: torch 2\nmachine: one\ndataset: synthetic\n"
        f"protocol: synthetic_xsub\ndata: 5f5f\nseed: 0\ncommand: skeleton-llm fit {shlex.join(arguments)}\n\n"
    )
    write_whole(folder / "results.json", json.dumps(results))  # a signal may come at any moment


def finish(arguments: list[str]) -> int:
    """A run of 40 test clips; what it answers depends on its configs and its seed."""
    given: dict[str, list[str]] = {}
    for key, value in pairwise(arguments):
        given.setdefault(key, []).append(value)
    folder, seed = Path(given["--trainer.default_root_dir"][0]), int(given["--seed_everything"][0])
    if "--test.fail" in given and given["--test.fail"][0] in str(folder):
        finished = (folder / "results.json").is_file()
        told = (
            f"{folder} holds a run with another config: a (1 -> 2); give it the old values"
            if finished
            else "told to fail"
        )
        sys.stdout.write(f"error: {told}\n")
        return 2
    if (folder / "results.json").is_file():
        return 0  # compared, and the same
    rng = np.random.default_rng([seed, len(given["--config"])])
    labels = np.arange(40) % len(NAMES)
    answers = np.where(rng.random(40) < 0.7, labels, (labels + 1) % len(NAMES))
    results = {"test/error_m": 0.123, "test/perplexity": 99.7, "test/tokens_used": 120.0, "test/js_to_zipf": 0.0301}
    write_curves(folder, {"train/loss": {0: 2.0, 5: 1.0 + seed}, "val/perplexity": {5: 90.0}})
    if folder.name != "stage1":
        results = {"test/top1": float((answers == labels).mean())}
        write_answers(folder, np.arange(100, 140), labels, answers)
        kept = np.arange(10)
        validated = np.where(kept < 7 + seed, labels[kept], (labels[kept] + 1) % len(NAMES))
        write_answers(folder, kept, labels[kept], validated, "val")
    write_facts(folder, Path(given["--data.init_args.folder"][0]), results, arguments=arguments)
    return 0


if __name__ == "__main__":
    sys.exit(finish(sys.argv[1:]))

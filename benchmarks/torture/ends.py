"""Whether two runs ended alike: weights, optimiser, product, results and curves, bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_NAME = re.compile(r"step=(\d+)\.ckpt")


def newest_step(folder: Path) -> int:
    """The highest step that the run in ``folder`` has a whole checkpoint of; -1 without one."""
    steps = [-1]
    for path in (folder / "checkpoints").glob("step=*.ckpt"):
        known = _NAME.fullmatch(path.name)
        assert known, f"{path} is no checkpoint's name"
        torch.load(path, map_location="cpu", weights_only=True)  # whatever has this name is whole
        steps.append(int(known[1]))
    return max(steps)


def differences(one: Path, other: Path) -> list[str]:
    """What the runs in two folders have ended with that is not the same, a line each."""
    found: list[str] = []
    for name in (f"step={newest_step(one)}.ckpt", "best.ckpt"):
        paths = [folder / "checkpoints" / name for folder in (one, other)]
        if [path.is_file() for path in paths] != [True, True]:
            found += [f"{path} is missing" for path in paths if not path.is_file()]
            continue
        saved = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
        found += [f"{name}: {line}" for line in _unlike(*saved)]
    for product in ("tokenizer", "recognizer"):
        files = [
            {path.relative_to(folder): path for path in folder.glob(f"{product}/**/*") if _counts(path)}
            for folder in (one, other)
        ]
        found += [f"{path} is not in both" for path in files[0].keys() ^ files[1].keys()]
        for path in sorted(files[0].keys() & files[1].keys()):
            found += [f"{path}: {line}" for line in _unlike(*(_read(known[path]) for known in files))]
    found += [f"results.json: {line}" for line in _unlike(*(_read(folder / "results.json") for folder in (one, other)))]
    return found + [f"TensorBoard: {line}" for line in _unlike(curves(one), curves(other))]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: steps and values of each scalar, steps alone of each picture."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    shown = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    shown |= {tag: [(one.step, 0.0) for one in events.Images(tag)] for tag in events.Tags()["images"]}
    return shown


def _counts(path: Path) -> bool:
    """The card tells of folders and times, which differ."""
    return path.is_file() and path.name != "README.md"


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".json":
        read = json.loads(path.read_text())
        if path.name == "run.json":
            del read["facts"]  # folders and times
        return read
    return path.read_bytes()


def _unlike(one: Any, other: Any, where: str = "") -> list[str]:
    """The places where two trees of tensors and plain values are not the same."""
    if type(one) is not type(other):
        return [f"{where} is {type(one).__name__} and {type(other).__name__}"]
    if isinstance(one, dict):
        lost = [f"{where}.{key} is not in both" for key in one.keys() ^ other.keys()]
        return lost + [
            line for key in one.keys() & other.keys() for line in _unlike(one[key], other[key], f"{where}.{key}")
        ]
    if isinstance(one, list | tuple) and len(one) == len(other):
        return [
            line
            for place, pair in enumerate(zip(one, other, strict=True))
            for line in _unlike(*pair, f"{where}.{place}")
        ]
    if isinstance(one, torch.Tensor):
        same = (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
        return [] if same else [f"{where} has other numbers"]
    return [] if repr(one) == repr(other) else [f"{where} is {one!r:.200} and {other!r:.200}"]

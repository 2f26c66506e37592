"""Clips of the user's own: a folder of ``.npy``, ``.json`` and ``.csv`` files, and one YAML that says what they are.

A file holds joints [T, V, 3] or [T, M, V, 3]. JSON: such a nested list, or {"joints": it}. CSV: a line a frame with
V * 3 or M * V * 3 numbers (joint by joint x, y, z; person after person), a head line is skipped.
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LAYOUTS, Layout, find_layout, register_layout
from skeleton_llm.skeletons.readers.raw_file import brief, load_json, read_header, to_double, to_single

DESCRIPTION = "dataset.yaml"
SUFFIXES = (".npy", ".json", ".csv")
_SCALES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UP = {"y": (0, 1, 2), "z": (0, 2, 1)}  # which axis becomes x, y, z
_SIGNS = {"y": (1, 1, 1), "-y": (-1, -1, 1), "z": (1, 1, -1), "-z": (1, -1, 1)}
_LONGEST_PATTERN = 500  # fnmatch takes quadratic time
_KEYS = {"layout", "classes", "labels", "test", "units", "up", "persons"}
_DEEPEST = 10
_FACTS = ("subject", "view", "setup", "replication")


@dataclass(frozen=True)
class Description:
    """What ``dataset.yaml`` says.

    Attributes:
        layout: a known skeleton layout, or one of the user's own.
        classes: the class names, phrases that a person would say.
        labels: a regular expression over the file's path with the group ``label`` (a class name or its index from 0)
            and, where known, ``subject``, ``view``, ``setup``, ``replication``; or a class for each file pattern.
        test: the test clips: {"subject": [...]}, {"view": [...]}, ..., or a list of file patterns.
        units: m, cm or mm. up: the axis that points up: y, -y, z or -z.
        persons: most persons in a clip.
    """

    layout: Layout
    classes: tuple[str, ...]
    labels: str | Mapping[str, str]
    test: Mapping[str, list[int]] | list[str]
    units: str = "m"
    up: str = "y"
    persons: int = 1

    def facts(self, name: str) -> dict[str, int]:
        """Label and, where known, subject and so on of the file ``name`` (its path inside the folder, with ``/``).

        Raises:
            ValueError: the file fits no rule, or its class is unknown.
        """
        if isinstance(self.labels, str):
            match = re.search(self.labels, name)
            if match is None:
                raise ValueError(f"{name}: does not fit the labels pattern {self.labels!r} of {DESCRIPTION}")
            found = match.groupdict()
            known = {fact: int(found[fact]) for fact in _FACTS if re.fullmatch(r"[0-9]{1,9}", found.get(fact) or "")}
            said = found["label"] or ""
        else:
            rules = [label for pattern, label in self.labels.items() if fnmatch(name, pattern)]
            if len(rules) != 1:
                raise ValueError(f"{name}: fits {len(rules)} patterns of labels in {DESCRIPTION}, expected one")
            known, said = {}, str(rules[0])
        spoken = [name.replace("_", " ") for name in self.classes]
        if said.replace("_", " ") in spoken:
            return {"label": spoken.index(said.replace("_", " ")), **known}
        if said.isdigit() and int(said) < len(self.classes):
            return {"label": int(said), **known}
        raise ValueError(f"{name}: unknown class {said!r}; expected one of {', '.join(self.classes)}")

    def is_test(self, name: str, facts: Mapping[str, int]) -> bool:
        """Whether the file belongs to the test half."""
        if isinstance(self.test, Mapping):
            return all(facts.get(fact) in values for fact, values in self.test.items())
        return any(fnmatch(name, pattern) for pattern in self.test)

    def convention(self) -> dict[str, str]:
        """What a prepared dataset and a tokenizer keep, so that a new file is read as the others were."""
        return {"layout": self.layout.name, "units": self.units, "up": self.up}


def to_metres(joints: np.ndarray, units: str, up: str) -> np.ndarray:
    """Joints in a file's units and axes as metres, +y up; a turn, never a mirror image."""
    turned = joints[..., _UP[up[-1]]] * np.array(_SIGNS[up], dtype=np.float32)
    return (turned * _SCALES[units]).astype(np.float32)


def read_description(path: Path | str) -> Description:
    """Read ``dataset.yaml``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, an unknown or missing key, or a value of another form; names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; describe your clips in it (docs/datasets.md, Your own data)")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path}: not YAML ({brief(error)})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected the keys {', '.join(sorted(_KEYS))}")
    missing, unknown = {"layout", "classes", "labels", "test"} - data.keys(), data.keys() - _KEYS
    if missing or unknown:
        said = (
            f"misses {', '.join(sorted(missing))}"
            if missing
            else f"has the unknown key {brief(min(map(str, unknown)))}"
        )
        raise ValueError(f"{path}: {said}; expected the keys {', '.join(sorted(_KEYS))}")
    try:
        return _description(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {brief(error)}") from error


def _description(data: dict[str, Any]) -> Description:
    layout = register_layout(data["layout"]) if isinstance(data["layout"], dict) else find_layout(str(data["layout"]))
    classes, labels, test = data["classes"], data["labels"], data["test"]
    if not isinstance(classes, list) or not all(isinstance(name, str) and name.strip() for name in classes):
        raise ValueError(
            "classes: expected a list of names; YAML takes yes, no and numbers for something else: quote them"
        )
    if len({name.replace("_", " ") for name in classes}) != len(classes) or len(classes) < 2:
        raise ValueError("classes: expected a list of at least two different names")
    if isinstance(labels, str):
        if "label" not in _pattern(labels).groupindex:
            raise ValueError("labels: the pattern needs a group (?P<label>...)")
    elif not isinstance(labels, dict) or not labels or not all(isinstance(pattern, str) for pattern in labels):
        raise ValueError("labels: expected a pattern with the group label, or a class for each file pattern")
    if isinstance(test, dict):
        numbers = [v for values in test.values() for v in (values if isinstance(values, list) else [None])]
        if not numbers or not test.keys() <= set(_FACTS) or not all(type(v) is int for v in numbers):
            raise ValueError(f"test: expected lists of numbers under {', '.join(_FACTS)}, or a list of file patterns")
    elif not isinstance(test, list) or not test or not all(isinstance(pattern, str) for pattern in test):
        raise ValueError(f"test: expected lists under {', '.join(_FACTS)}, or a list of file patterns")
    patterns = [*(labels if isinstance(labels, dict) else ()), *(test if isinstance(test, list) else ())]
    if too_long := [pattern for pattern in patterns if len(pattern) > _LONGEST_PATTERN]:
        raise ValueError(f"the file pattern {too_long[0][:40]!r}... has more than {_LONGEST_PATTERN} characters")
    units, up, persons = str(data.get("units", "m")), str(data.get("up", "y")), data.get("persons", 1)
    if units not in _SCALES or up.lstrip("-") not in _UP or len(up) > 2:
        raise ValueError(f"units is m, cm or mm and up is y, -y, z or -z; found {units!r} and {up!r}")
    if not isinstance(persons, int) or not 1 <= persons <= 10:
        raise ValueError(f"persons: expected a number from 1 to 10, found {persons!r}")
    rules = labels if isinstance(labels, str) else {pattern: str(label) for pattern, label in labels.items()}
    return Description(layout, tuple(map(str, classes)), rules, test, units, up, persons)


def _pattern(text: str) -> re.Pattern[str]:
    """A regular expression that also has no doubtful place (what Python only warns of)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.compile(text)
        except (re.error, Warning, OverflowError, RecursionError) as error:
            raise ValueError(f"labels: no regular expression ({error})") from error


class _PlainLoader(yaml.SafeLoader):
    """Without aliases (``*name``), which grow a small file beyond all memory, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("an alias (*name) is not read here; write out what it stands for")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(f"it nests deeper than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_own(path: Path | str, description: Description, name: str, protocol: str = "own") -> Clip:
    """Read one clip as ``description`` says; ``name`` is its path inside the folder.

    Raises:
        ValueError: a damaged file, another shape, too many persons, or a file that fits no rule.
    """
    LAYOUTS.setdefault(description.layout.name, description.layout)  # a reading process has not opened the YAML
    facts = description.facts(name)
    read = read_joints(path, description.layout, description.persons)
    joints = to_metres(read, description.units, description.up)
    splits = {protocol: int(description.is_test(name, facts))}
    return Clip(joints, description.layout.name, source=str(path), splits=splits, **facts)


def read_joints(path: Path | str, layout: Layout | None = None, persons: int = 10) -> np.ndarray:
    """Joints [T, M, V, 3] of one ``.npy``, ``.json`` or ``.csv`` file, float32, as they stand there.

    Without ``layout`` any number of joints that a known layout has will do.

    Raises:
        ValueError: not such a file, or another shape; names the line of a CSV.
    """
    path = Path(path)
    kinds = [layout] if layout else [known for known in LAYOUTS.values() if not known.planar]
    joints = {".npy": _npy, ".json": _json, ".csv": _csv}[path.suffix.lower()](path)
    if joints.ndim == 2 and path.suffix.lower() == ".csv":
        fitting = [
            kind.num_joints for kind in kinds if joints.shape[1] in {m * 3 * kind.num_joints for m in range(1, 11)}
        ]
        if not fitting:
            raise ValueError(f"{path}: a line has {joints.shape[1]} numbers, which is no number of joints times 3")
        joints = joints.reshape(len(joints), -1, fitting[0], 3)
    if joints.ndim == 3:
        joints = joints[:, None]
    if joints.ndim != 4 or joints.shape[-1] != 3:
        raise ValueError(f"{path}: expected joints [T, V, 3] or [T, M, V, 3], found {joints.shape}")
    if joints.shape[2] not in {kind.num_joints for kind in kinds}:
        expected = " or ".join(f"{kind.num_joints} ({kind.name})" for kind in kinds)
        raise ValueError(f"{path}: {joints.shape[2]} joints, expected {expected}")
    if joints.shape[1] > persons:
        raise ValueError(f"{path}: {joints.shape[1]} persons, expected at most {persons} (persons: in {DESCRIPTION})")
    return joints


def _npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            shape, dtype, fortran, start = read_header(file)
        need, have = prod(shape) * dtype.itemsize, path.stat().st_size - start
        if need != have or need == 0:
            raise ValueError(f"its shape {shape} needs {need:,} bytes of numbers, it has {have:,}")
        if dtype.kind == "b":
            raise ValueError("holds truth values")
        mapped = np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: not a whole NumPy file of numbers ({brief(error)}); save it with numpy.save"
        ) from error
    return to_single(mapped, path)


def _json(path: Path) -> np.ndarray:
    return joints_of_json(path, load_json(path))


def joints_of_json(path: Path | str, data: Any) -> np.ndarray:
    """The nested list of a JSON clip as an array.

    Raises:
        ValueError: another structure.
    """
    listed = data.get("joints") if isinstance(data, dict) else data
    try:
        numbers = to_double(listed)
    except ValueError as error:
        raise ValueError(f'{path}: expected numbers [T][V][3], or {{"joints": [...]}} ({brief(error)})') from error
    return to_single(numbers, path)


def _csv(path: Path) -> np.ndarray:
    rows: list[list[float]] = []
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    separator = next((mark for mark in (b";", b"\t") if mark in text), b",")  # one for the whole file
    for number, line in enumerate(text.split(b"\n"), start=1):
        fields = [field.strip() for field in line.strip().split(separator)]
        if fields == [b""]:
            continue
        if number == 1 and (not any(map(_is_number, fields)) or fields == [b"%d" % i for i in range(len(fields))]):
            continue  # names or numbers of the columns
        try:
            if b"_" in line:
                raise ValueError  # float() would take 1_0 for 10
            values = list(map(float, fields))
        except ValueError:
            said = line[:40].decode("latin-1")
            raise ValueError(f"{path} line {number}: expected numbers, found {said!r}") from None
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{path} line {number}: holds a number that is NaN or infinite; mend or remove the file")
        if rows and len(values) != len(rows[0]):
            raise ValueError(f"{path} line {number}: {len(values)} numbers, the lines before have {len(rows[0])}")
        rows.append(values)
    if not rows:
        raise ValueError(f"{path}: holds no frame; leave the file out")
    return to_single(np.array(rows, dtype=np.float64), path)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True

"""Plain readers of raw clips, a line or a list at a time: what the library's readers must agree with."""

import io
import json
import pickle
import re
import sys
import zipfile
from typing import Any

import numpy as np

NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
HARMLESS = {"_reconstruct", "ndarray", "dtype", "encode", "bytes", "bytearray", "scalar", "_frombuffer"}


def number(field: bytes) -> float:
    """A decimal number; none of what else ``float`` takes (1_0, nan, digits of other scripts)."""
    if NUMBER.fullmatch(field) is None:
        raise ValueError(f"{field[:40]!r} is no number")
    return float(field)


def kinect_bodies(text: bytes, num_joints: int) -> list[tuple[list[int], list[list[list[float]]]]]:
    """Frames and joints of each body in the order of its first appearance."""
    lines = iter(text.split(b"\n"))
    bodies: dict[int, tuple[list[int], list[list[list[float]]]]] = {}
    for frame in range(int(next(lines))):
        for _ in range(int(next(lines))):
            frames, joints = bodies.setdefault(int(next(lines).split()[0]), ([], []))
            if int(next(lines)) != num_joints:
                raise ValueError("another number of joints")
            frames.append(frame)
            joints.append([[number(field) for field in next(lines).split()[:3]] for _ in range(num_joints)])
    if b"".join(lines).strip():
        raise ValueError("more after the end")
    return list(bodies.values())


def pku_frames(text: bytes) -> list[list[float]]:
    """The 150 numbers of each line that is not blank."""
    lines = [re.split(rb"[\s,]+", line.strip()) for line in text.split(b"\n") if line.strip()]
    return [[number(field) for field in line if field] for line in lines]


def pku_labels(text: bytes) -> list[tuple[int, int, int]]:
    """Class, first and last frame, all from 1."""
    actions = []
    for line in text.decode("latin-1").splitlines():
        if line.strip():
            label, start, end = line.split(",")[:3]
            actions.append((int(label), int(start), int(end)))
    return actions


def pku_split(text: bytes) -> tuple[set[str], set[str]]:
    """Training and test recordings."""
    lines = text.decode("latin-1").splitlines()
    train, test = ({name.strip() for name in lines[at].split(",")} - {""} for at in (1, 3))
    return train, test


def csv_rows(text: bytes) -> list[list[float]]:
    """The numbers of each line; a first line without any number is a head line."""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    rows, mark = [], b";" if b";" in text else b"\t" if b"\t" in text else b","
    for at, line in enumerate(text.split(b"\n")):
        fields = [field.strip() for field in line.strip().split(mark)]
        columns = fields == [str(i).encode() for i in range(len(fields))]
        if fields == [b""] or (at == 0 and (columns or not any(map(NUMBER.fullmatch, fields)))):
            continue
        rows.append([number(field) for field in fields])
    return rows


def numbers_of(listed: Any) -> Any:
    """A nested list with every leaf as a float; texts and truth values are no numbers."""
    if isinstance(listed, list):
        return [numbers_of(item) for item in listed]
    if isinstance(listed, bool) or not isinstance(listed, int | float):
        raise TypeError(f"{listed!r:.40} is no number")
    return float(listed)


def ucla_joints(text: bytes) -> Any:
    """The numbers [T][20][3]."""
    return numbers_of(json.loads(text)["skeletons"])


def own_joints(text: bytes) -> Any:
    """The numbers [T][V][3] or [T][M][V][3]."""
    data = json.loads(text)
    return numbers_of(data["joints"] if isinstance(data, dict) else data)


def smarthome_limbs(text: bytes) -> list[list[list[tuple[float, float, float]]]]:
    """For each frame and person the 12 limb joints, in halves of the image's width: shoulders first, ankles last."""
    frames = []
    for persons in json.loads(text)["frames"]:
        poses = [numbers_of(person["pose2d"]) for person in persons[:2]]
        pixels = [[(pose[joint], pose[joint + 13]) for joint in range(11, -1, -1)] for pose in poses]
        frames.append([[((320 - x) / 320, (240 - y) / 320, 1.0) if x or y else (0.0, 0.0, 0.0) for x, y in pose]
                       for pose in pixels])  # fmt: skip
    return frames


class Careful(pickle.Unpickler):
    """Python's own unpickler, which finds nothing but what builds arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in HARMLESS or not (module in ("builtins", "__builtin__", "_codecs") or module.startswith("numpy")):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def unpickled(data: bytes) -> Any:
    """What a pickle of containers and arrays holds."""
    told, sys.unraisablehook = sys.unraisablehook, lambda _: None  # NumPy stumbles over kinds with damaged flags
    try:
        return Careful(io.BytesIO(data)).load()
    finally:
        sys.unraisablehook = told


def npz_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The four arrays of an archive, as NumPy reads them."""
    names = ("x_train", "y_train", "x_test", "y_test")
    return {name: np.load(io.BytesIO(entry_of(data, f"{name}.npy")), allow_pickle=False) for name in names}


def entry_of(data: bytes, name: str) -> bytes:
    """An archive's entry, as zipfile reads it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)

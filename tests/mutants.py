"""Damaged and hostile raw files through every reader: ``python tests/mutants.py [N] [SEED]``.

A reader either reads a file, and then gives the numbers that stand in it, or refuses it in one sentence that names the
file. ``TARGETS`` are the readers with small files of their own; ``HOSTILE`` are files made to do harm.
"""

import contextlib
import faulthandler
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import numpy as np
import yaml
from references import naive_readers

import raw_clips

with jaxtyping.install_import_hook(["skeleton_llm"], "beartype.beartype"):  # annotations hold for hostile files too
    from skeleton_llm.skeletons.actors import CONVENTIONS
    from skeleton_llm.skeletons.clip import Clip
    from skeleton_llm.skeletons.layouts import KINECT20, LAYOUTS, find_layout
    from skeleton_llm.skeletons.readers import read_clip
    from skeleton_llm.skeletons.readers.ctrgcn import read_ctrgcn, read_halves
    from skeleton_llm.skeletons.readers.kinect_text import read_bodies, read_slowly, scan
    from skeleton_llm.skeletons.readers.ntu import read_ntu
    from skeleton_llm.skeletons.readers.nw_ucla import read_nw_ucla
    from skeleton_llm.skeletons.readers.own import Description, read_description, read_joints, read_own, to_metres
    from skeleton_llm.skeletons.readers.pku_mmd import Action, read_labels, read_pku_mmd, read_recording, read_split
    from skeleton_llm.skeletons.readers.pyskl import read_annotation, read_annotations
    from skeleton_llm.skeletons.readers.raw_file import read_bytes, to_single
    from skeleton_llm.skeletons.readers.smarthome import read_smarthome
    from skeleton_llm.skeletons.readers.uav_human import read_uav_human
    from skeleton_llm.skeletons.readers.utd_mhad import read_utd_mhad

MOST_SECONDS = 5.0  # of the processor, so that a busy machine fails no reader
HANG_SECONDS = 120.0
# A reader may hold what the densest honest form needs: one character of JSON or of a pickle ("[", "}") becomes an
# object of 56 to 130 bytes with its place in a list or memo, lists grow by copying, and an array is held as text, as
# float64 and as float32. 300 bytes for each one of the file leaves room for that and none for a size that a file only
# claims; 64 MiB is what small archives may unpack to.
MOST_BYTES, MOST_RATIO = 64 * 2**20, 300
LONGEST_SENTENCE = 1000

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]


class Target(NamedTuple):
    """A reader: the name and the content of its files, how to read one, and what the numbers must be.

    ``inside`` alters the content under a checksum or behind a structure and closes it again.
    """

    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], list[Clip]]
    compare: Callable[[Path, list[Clip]], None] = lambda _path, _clips: None
    inside: Mutation | None = None


# ---- mutations of bytes


def _span(data: bytes, random: Random, longest: int = 200) -> slice:
    start = int(random.integers(0, len(data) + 1))
    return slice(start, start + int(random.integers(1, longest)))


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(0, len(data) + 1))]


def _flip_bits(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(int(random.integers(1, 9)) if data else 0):
        out[int(random.integers(0, len(out)))] ^= 1 << int(random.integers(0, 8))
    return bytes(out)


def _set_bytes(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5)) if data else 0):
        out[int(random.integers(0, len(out)))] = int(
            random.choice([0, 0xFF, 0x80, 11, 13, 32, int(random.integers(256))])
        )
    return bytes(out)


def _delete(data: bytes, random: Random) -> bytes:
    span = _span(data, random)
    return data[: span.start] + data[span.stop :]


def _duplicate(data: bytes, random: Random) -> bytes:
    span = _span(data, random)
    return data[: span.stop] + data[span] * int(random.integers(1, 4)) + data[span.stop :]


def _swap(data: bytes, random: Random) -> bytes:
    first, last = sorted(random.integers(0, len(data) + 1, 2).tolist())
    length = min(int(random.integers(1, 60)), last - first)
    one, other = data[first : first + length], data[last : last + length]
    return data[:first] + other + data[first + length : last] + one + data[last + length :]


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_HUGE = [b"999999999", b"1" + b"0" * 20, b"4294967295", b"-1", b"0", b"0x7", b"+3", b"1_0", b"003", b"9" * 5000, b"1e6"]
_STRANGE = [
    b"nan",
    b"inf",
    b"-nan",
    b"-inf",
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b'"1.5"',
    b"1e5",
    b"12345.678",
    b"0.1.2",
    b"1,5",
    b"",
    b"-",
    b".",
    b"\xef\xbc\x91",
    b"[1.5]",
    b"1.5\x0b",
    b"7\x00",
]
_NATIVE = [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0x10000, 0, 1, 2]


def _exchange_number(data: bytes, random: Random, others: list[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data[:200_000]))
    if not found:
        return data
    at = int(random.integers(0, len(found) if random.random() < 0.6 else min(len(found), 12)))  # counts stand first
    return data[: found[at].start()] + others[int(random.integers(len(others)))] + data[found[at].end() :]


def _huge_count(data: bytes, random: Random) -> bytes:
    if b"\x00" not in data[:4096]:
        return _exchange_number(data, random, _HUGE)
    size, at = int(random.choice([1, 4, 4, 8])), int(random.integers(0, max(len(data) - 8, 1)))
    value = int(random.choice(_NATIVE)) if size < 8 else int(random.choice([2**64 - 1, 2**63 - 1, 2**62, 2**32, 0]))
    return data[:at] + (value & (256**size - 1)).to_bytes(size, "little") + data[at + size :]


def _strange_number(data: bytes, random: Random) -> bytes:
    return _exchange_number(data, random, _STRANGE)


def _columns(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    at = int(random.integers(0, len(lines)))
    mark = b"," if lines[at].count(b",") > lines[at].count(b" ") else b" "
    fields = lines[at].split(mark)
    where = int(random.integers(0, len(fields)))
    if random.random() < 0.5:
        del fields[where]
    else:
        fields.insert(where, fields[int(random.integers(0, len(fields)))])
    lines[at] = mark.join(fields)
    return b"\n".join(lines)


def _lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    at, other = (int(i) for i in random.integers(0, len(lines), 2))
    kind = int(random.integers(0, 5))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[other])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines.insert(at, b"")
    else:
        lines = lines[: max(at, other)] + lines[min(at, other) :]
    return b"\n".join(lines)


def _white(data: bytes, random: Random) -> bytes:
    """Other white space, which mostly changes nothing."""
    kind = int(random.integers(0, 5))
    if kind == 0:
        return data.replace(b"\r\n", b"\n") if b"\r\n" in data else data.replace(b"\n", b"\r\n")
    if kind == 1:
        return data + b"\n" * int(random.integers(1, 5)) + b" " * int(random.integers(0, 3))
    if kind == 2:
        return data.replace(b" ", b"\t", int(random.integers(1, 50)))
    if kind == 3:
        return data.replace(b" ", b"  ", int(random.integers(1, 50)))
    return data.replace(b"\n", b" \n", int(random.integers(1, 50)))


def _encode(data: bytes, random: Random) -> bytes:
    kind, text = int(random.integers(0, 6)), data.decode("latin-1")
    if kind < 4:
        return text.encode(("utf-16", "utf-16-be", "utf-32", "utf-8-sig")[kind])
    if kind == 4 and len(data) < 20_000:
        return text.encode("utf-7")
    at = int(random.integers(0, len(data) + 1))
    return data[:at] + bytes(random.integers(128, 256, 8).tolist()) + data[at:]


def _nulls(data: bytes, random: Random) -> bytes:
    at = int(random.integers(0, len(data) + 1))
    return data[:at] + bytes(int(random.integers(1, 100))) + data[at:]


def _nest(data: bytes, random: Random) -> bytes:
    mark = [b"[", b"{", b'{"frames":', b"(", b"- ", b"]", b'{"skeletons":[', b"?"][int(random.integers(0, 8))]
    depth = int(random.choice([2, 60, 500, 3000]))
    at = int(random.choice([0, int(random.integers(0, len(data) + 1))]))
    return data[:at] + mark * depth + data[at:]


def _splice(data: bytes, random: Random) -> bytes:
    targets = list(TARGETS.values())
    seeds = targets[int(random.integers(0, len(targets)))].seeds
    other = seeds[int(random.integers(0, len(seeds)))]
    at, from_at = int(random.integers(0, len(data) + 1)), int(random.integers(0, len(other) + 1))
    return data[:at] + other[from_at:] if random.random() < 0.7 else other


def _empty(data: bytes, random: Random) -> bytes:
    return [b"", b"\n", b" \r\n\t", data[:1]][int(random.integers(0, 4))]


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncate, "bits flipped": _flip_bits, "bytes set": _set_bytes, "chunk deleted": _delete,
    "chunk repeated": _duplicate, "chunks swapped": _swap, "huge count": _huge_count, "strange number": _strange_number,
    "columns": _columns, "lines": _lines, "white space": _white, "other encoding": _encode, "nulls": _nulls,
    "nested": _nest, "spliced": _splice, "empty": _empty,
}  # fmt: skip
_RARE = {"empty": 0.2, "spliced": 0.5, "nested": 0.5, "other encoding": 0.5}
_CHANCES = np.array([_RARE.get(name, 1.0) for name in MUTATIONS])
_CHANCES /= _CHANCES.sum()


def mutated(data: bytes, random: Random, inside: Mutation | None = None) -> tuple[str, bytes]:
    """One to three mutations, and what they were."""
    kinds = []
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        if inside is not None and not kinds and random.random() < 0.5:
            kinds.append("inside")
            with contextlib.suppress(Exception):  # what cannot be closed again stays as it was
                data = inside(data, random)
            if random.random() < 0.8:
                break
            continue
        kinds.append(str(random.choice(list(MUTATIONS), p=_CHANCES)))
        data = MUTATIONS[kinds[-1]](data, random)
    return ", ".join(kinds), data


def mutate(data: bytes, random: Random) -> bytes:
    """``data`` after one to three random damages."""
    return mutated(data, random)[1]


# ---- mutations of what a file holds


def _hostile_values(random: Random) -> list[Any]:
    deep: Any = 1.0
    for _ in range(40):
        deep = [deep]
    return [
        None,
        True,
        False,
        "",
        "x\ny",
        "a" * 3000,
        "1.5",
        -1,
        0,
        3,
        10**20,
        10**400,
        float("nan"),
        float("inf"),
        -float("inf"),
        1e5,
        1e300,
        0.25,
        4.5,
        [],
        {},
        [1.0, 2.0],
        [[1.0, 2.0, 3.0]],
        deep,
        {"x": 1},
        [None],
        "a" + "1" * 5000 + "_s1_e1_v1",
        "a99_s1_e1_v1",
        "\ud800",
        "S001C001P001R001A060\n",
        float(random.normal()),
        np.float32(2.5).item(),
    ]


def alter(tree: Any, random: Random) -> Any:
    """A nested structure with one node exchanged, removed or repeated."""
    if not isinstance(tree, list | dict | tuple) or len(tree) == 0 or random.random() < 0.12:
        values = _hostile_values(random)
        if isinstance(tree, float) and random.random() < 0.3:
            return float(random.normal())
        return values[int(random.integers(0, len(values)))]
    if isinstance(tree, dict):
        key = list(tree)[int(random.integers(0, len(tree)))]
        if random.random() < 0.08:
            return {name: value for name, value in tree.items() if name != key}
        if random.random() < 0.05:
            return {**tree, f"{key}\n": tree[key]}
        return {**tree, key: alter(tree[key], random)}
    at, kind = int(random.integers(0, len(tree))), random.random()
    if kind < 0.08:
        out = [*tree[:at], *tree[at + 1 :]]
    elif kind < 0.16:
        out = [*tree[:at], tree[at], *tree[at:]]
    elif kind < 0.2:
        out = [tree[at]] * len(tree)
    elif kind < 0.24:
        out = [[item, item] for item in tree]
    else:
        out = [*tree[:at], alter(tree[at], random), *tree[at + 1 :]]
    return tuple(out) if isinstance(tree, tuple) else out


_NUMBERS = (np.nan, np.inf, -np.inf, 1e300, 1e5, 1e6, 99.0, -0.0)
_KINDS = ("<f2", ">f4", ">f8", "<i1", "<i8", "<u8", "<c8", "?", "<U4", "O", "<M8[s]", "S3", "<f4,<f4")


def _with_strange_number(array: np.ndarray, random: Random) -> np.ndarray:
    out = array.astype(np.float64)
    out[tuple(int(random.integers(0, size)) for size in out.shape)] = float(random.choice(_NUMBERS))
    return out


def _of_another_kind(array: np.ndarray, random: Random) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return array.astype(np.dtype(_KINDS[int(random.integers(0, len(_KINDS)))]))


def _cut(array: np.ndarray, random: Random) -> np.ndarray:
    axis = int(random.integers(0, array.ndim))
    return np.take(array, range(int(random.integers(0, array.shape[axis] + 1))), axis=axis)


_ARRAYS: list[Callable[[np.ndarray, Random], np.ndarray]] = [
    _with_strange_number,
    _of_another_kind,
    _cut,
    lambda array, _: np.asfortranarray(array),
    lambda array, random: array.reshape(-1) if random.random() < 0.5 else array[None],
    lambda array, random: np.swapaxes(array, 0, int(random.integers(0, array.ndim))),
    lambda array, random: array * float(random.choice([0.0, 2.0, 0.5, 3000.0])),
    lambda array, random: array + random.normal(size=array.shape) * 0.1,
]


def alter_array(array: np.ndarray, random: Random) -> np.ndarray:
    """An array with other numbers, of another kind or of another shape."""
    return _ARRAYS[int(random.integers(0, len(_ARRAYS)))](array, random)


def _in_json(data: bytes, random: Random) -> bytes:
    tree = json.loads(data)
    for _ in range(int(random.integers(1, 4))):
        tree = alter(tree, random)
    return json.dumps(tree).encode()


def _in_yaml(data: bytes, random: Random) -> bytes:
    return yaml.safe_dump(alter(yaml.safe_load(data), random), allow_unicode=True).encode("utf-8", "surrogatepass")


def _in_pickle(data: bytes, random: Random) -> bytes:
    """Of our own seeds only: this loads them."""
    tree = pickle.loads(data)
    if random.random() < 0.5:
        entries = tree["annotations"]
        entry = entries[int(random.integers(0, len(entries)))]
        keys = [key for key, value in entry.items() if isinstance(value, np.ndarray)]
        key = keys[int(random.integers(0, len(keys)))]
        entry[key] = alter_array(entry[key], random)
    else:
        tree = alter(tree, random)
    return pickle.dumps(tree, protocol=int(random.choice([2, 3, 4, 5])))


def _in_npy(data: bytes, random: Random) -> bytes:
    file, array = io.BytesIO(), alter_array(np.load(io.BytesIO(data)), random)
    version = [(1, 0), (2, 0), (3, 0)][int(random.integers(0, 3))]
    np.lib.format.write_array(file, array, version=version, allow_pickle=True)
    return file.getvalue()


def _in_zip(data: bytes, random: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = list(entries)[int(random.integers(0, len(entries)))]
    if name.endswith(".npy") and random.random() < 0.6:
        entries[name] = _in_npy(entries[name], random)
    else:
        entries[name] = mutate(entries[name], random)
    file, how = io.BytesIO(), [0, 8, 8, 12, 14][int(random.integers(0, 5))]  # stored, deflate, bzip2, lzma
    with zipfile.ZipFile(file, "w", how) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file.getvalue()


def _in_matlab(data: bytes, random: Random) -> bytes:
    """The packed element altered, then packed again."""
    kind, size = struct.unpack_from("<II", data, 128)
    if kind != 15:
        at = 128 + int(random.integers(0, 72))  # tags, flags, sizes and name
        value = int(
            random.choice([0xFFFFFFFF, 0x7FFFFFFF, 0, 1, 2, 3, 5, 7, 9, 14, 15, 20, 1440, int(random.integers(256))])
        )
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]
    body = mutate(zlib.decompress(data[136 : 136 + size]), random)
    packed = zlib.compress(body)
    return data[:128] + struct.pack("<II", 15, len(packed)) + packed


# ---- readers, and what their numbers must be


def _same(found: Any, expected: Any, what: str) -> None:
    """Equal to the last bit as float32."""
    found = np.asarray(found)
    expected = np.asarray(expected, dtype=np.float64).astype(np.float32)
    if found.shape != expected.shape or not np.array_equal(found.astype(np.float32), expected):
        raise AssertionError(f"{what}: other numbers than those in the file")


def _both(read: Callable[[str], Clip]) -> list[Clip]:
    """The clip as each convention places the actors."""
    return [read(actors) for actors in CONVENTIONS]


def _compare_kinect(text: bytes, num_joints: int, columns: int) -> None:
    bodies = read_bodies(text, "mutant", num_joints=num_joints, columns=columns)
    expected = naive_readers.kinect_bodies(text, num_joints)
    assert len(bodies) == len(expected), "another number of bodies"
    for body, (frames, joints) in zip(bodies, expected, strict=True):
        assert body.frames.tolist() == frames, "other frames"
        _same(body.joints, joints, "bodies")


def _scan_agrees(text: bytes, num_joints: int, columns: int) -> None:
    """Whatever the fast scan takes, the careful reader takes with the same result, or both lie beyond all places."""
    fast = scan(text, num_joints, columns)
    if fast is None:
        return
    try:
        to_single(fast.joints, "fast")
    except ValueError:
        with contextlib.suppress(ValueError):
            read_slowly(text, num_joints, columns, "slow")
            raise AssertionError("only the fast scan finds a number too large") from None
        return
    try:
        slow = read_slowly(text, num_joints, columns, "slow")
    except ValueError as error:
        raise AssertionError(f"the fast scan takes what the careful reader refuses ({error})") from error
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)


def _compare_ntu(path: Path, _: list[Clip]) -> None:
    _compare_kinect(path.read_bytes(), 25, 12)


_ENTRY = "nturgb+d_skeletons/S001C002P003R002A050.skeleton"


def _read_zipped(path: Path) -> list[Clip]:
    return _both(lambda actors: read_ntu(f"{path}#{_ENTRY}", actors))


def _compare_zipped(path: Path, _: list[Clip]) -> None:
    text = naive_readers.entry_of(path.read_bytes(), _ENTRY)
    assert text == read_bytes(f"{path}#{_ENTRY}"), "other bytes than zipfile's"
    _compare_kinect(text, 25, 12)


def _compare_uav(path: Path, clips: list[Clip]) -> None:
    text = path.read_bytes()
    _compare_kinect(text, 17, 0)
    known = {
        tuple(row)
        for _, joints in naive_readers.kinect_bodies(text, 17)
        for row in np.float32(joints).reshape(-1, 3).tolist()
    }
    rows = {tuple(row) for row in clips[0].joints.reshape(-1, 3).tolist()}
    assert rows <= known | {(0.0, 0.0, 0.0)}, "a joint that is not in the file"


def _read_pyskl(path: Path) -> list[Clip]:
    found = read_annotations(path)
    return [
        clip
        for entry in found
        for clip in _both(lambda actors, entry=entry: read_annotation(path, entry, "ntu60", actors))
    ]


def _compare_pyskl(path: Path, _: list[Clip]) -> None:
    # Flipped bytes of a float are another float: nothing in a pickle tells them. What can be told: Python's own
    # unpickler finds the same arrays wherever it reads the file too (it also minds frames, which nobody needs).
    try:
        expected = naive_readers.unpickled(path.read_bytes())["annotations"]
    except Exception:
        return
    for annotation, entry in zip(read_annotations(path), expected, strict=True):
        assert (annotation.name, annotation.label) == (entry["frame_dir"], entry["label"]), "another name or label"
        for array, key in ((annotation.keypoint, "keypoint"), (annotation.score, "keypoint_score")):
            if array is not None:
                _same(array.read(path), entry[key], f"{annotation.name} {key}")


def _read_ctrgcn(path: Path) -> list[Clip]:
    return [
        read_ctrgcn(path, name, half.clips, row, int(half.labels[row]), "xsub")
        for name, half in read_halves(path).items()
        for row in range(len(half.labels))
    ]


def _compare_ctrgcn(path: Path, clips: list[Clip]) -> None:
    arrays, left = naive_readers.npz_arrays(path.read_bytes()), list(clips)
    for half in ("train", "test"):
        for x, y in zip(arrays[f"x_{half}"], arrays[f"y_{half}"], strict=True):
            clip = left.pop(0)
            frames = x.reshape(-1, 2, 25, 3)
            _same(clip.joints, frames[: len(clip.joints)], "clip")
            assert not frames[len(clip.joints) :].any(), "frames are missing"
            assert clip.label == (y.argmax() if y.ndim else y), "another label"
    assert not left, "more clips than rows"


def _compare_matlab(path: Path, clips: list[Clip]) -> None:
    from scipy.io import loadmat

    try:
        expected = loadmat(path)["d_skel"]
    except Exception:  # SciPy also reads what follows the matrix
        return
    order = [3, 2, 1, 0, *range(4, 20)]
    _same(clips[0].joints[:, 0], np.moveaxis(expected.reshape(20, 3, -1), 2, 0)[:, order], "d_skel")


def _compare_smarthome(path: Path, clips: list[Clip]) -> None:
    joints = clips[0].joints
    frames = [persons for persons in naive_readers.smarthome_limbs(path.read_bytes()) if persons]
    assert len(joints) <= len(frames), "more frames than in the file"
    poses = np.array([pose for persons in frames for pose in persons])
    for row in joints.reshape(-1, 17, 3):
        near = np.isclose(poses, row[5:], atol=1e-3).all(axis=(1, 2))
        assert near.any() or not row.any(), "a person who is not in the file"


def _compare_ucla(path: Path, clips: list[Clip]) -> None:
    _same(clips[0].joints[:, 0], naive_readers.ucla_joints(path.read_bytes()), "skeletons")


def _read_pku(path: Path) -> list[Clip]:
    action = Action(4, 0, len(read_recording(path)), 1)
    return _both(lambda actors: read_pku_mmd(path, action, "0002-L_1", {"pku_mmd1_xsub": 0}, actors))


def _compare_pku(path: Path, _: list[Clip]) -> None:
    found = read_recording(path)
    _same(found.reshape(len(found), -1), naive_readers.pku_frames(path.read_bytes()), "recording")


def _compare_labels(path: Path, _: list[Clip]) -> None:
    found = [(action.label + 1, action.start + 1, action.end) for action in read_labels(path)]
    assert found == naive_readers.pku_labels(path.read_bytes()), "other actions"


def _compare_split(path: Path, _: list[Clip]) -> None:
    train, test = naive_readers.pku_split(path.read_bytes())
    assert read_split(path) == dict.fromkeys(train, 0) | dict.fromkeys(test, 1), "other halves"


_DESCRIPTION = Description(
    KINECT20, ("wave", "sit down"), r"(?P<label>[a-z_]+)/s(?P<subject>\d+)_", {"subject": [2]}, persons=2
)


def _read_own(path: Path) -> list[Clip]:
    return [read_own(path, _DESCRIPTION, "wave/s2_a.csv")]


def _compare_own(path: Path, clips: list[Clip]) -> None:
    data = path.read_bytes()
    if path.suffix == ".csv":
        expected: Any = naive_readers.csv_rows(data)
    else:
        expected = np.load(io.BytesIO(data)) if path.suffix == ".npy" else naive_readers.own_joints(data)
    for joints in (clips[0].joints, read_joints(path)):
        _same(joints.ravel(), np.asarray(expected).ravel(), "joints")


def _read_description(path: Path) -> list[Clip]:
    known = dict(LAYOUTS)
    try:
        found = read_description(path)
    finally:  # a description may name a layout of its own, which the next one must not meet
        LAYOUTS.clear()
        LAYOUTS.update(known)
    assert len(found.classes) > 1
    assert 1 <= found.persons <= 10
    assert np.isfinite(to_metres(np.ones((1, 1, 20, 3), dtype=np.float32), found.units, found.up)).all()
    with contextlib.suppress(ValueError):  # a name that fits no rule
        found.is_test("wave/s1_a.csv", found.facts("wave/s1_a.csv"))
    return []


def _only(read: Callable[[Path], object]) -> Callable[[Path], list[Clip]]:
    def clips(path: Path) -> list[Clip]:
        found = read(path)
        return [found] if isinstance(found, Clip) else []

    return clips


_NAMED_LAYOUT = """
layout:
  name: three
  joints: [spine, neck, left hand, right hand]
  bones: [[1, 0], [2, 1], [right hand, neck]]
  root: spine
  left_hip: 0
  right_hip: 0
  left_shoulder: neck
  right_shoulder: 1
classes: [wave, sit down]
labels: {'wave/*': wave, 'sit_*/*': 1}
test: ['*/s2_*', 'wave/s1_b.json']
units: mm
up: -z
"""


def _short(length: int, joints: int) -> bytes:
    """Numbers that the fast scan takes."""
    frames = [
        {raw_clips.BODY: raw_clips.person(t, joints).round(4), 7: raw_clips.person(t + 9, joints).round(3)}
        for t in range(length)
    ]
    return raw_clips.kinect_text(frames).encode()


def _own_json() -> bytes:
    joints = np.stack([raw_clips.person(t, 20) for t in range(4)]).round(5).reshape(2, 2, 20, 3)
    return json.dumps({"joints": joints.tolist()}).encode()


def _own_npy() -> list[bytes]:
    joints = np.stack([raw_clips.person(t, 20) for t in range(4)]).reshape(2, 2, 20, 3)
    return [raw_clips.npy(joints), raw_clips.npy(joints[:, 0].astype(np.float32))]


def _pickle(protocol: int, **how: Any) -> bytes:
    """One annotation of two persons."""
    data = pickle.loads(raw_clips.pyskl(**how))
    return pickle.dumps({"split": data["split"], "annotations": data["annotations"][1:2]}, protocol=protocol)


_UCLA = [raw_clips.ucla_json(length=2).encode()]
_SMARTHOME = [raw_clips.smarthome_json().encode()]
_NTU = [_short(2, 25), raw_clips.ntu_text(1).encode()]
_UAV = [_short(2, 17), raw_clips.uav_text(2).encode()]
_PKU = [raw_clips.pku_text(4).encode()]
_PICKLES = ((2, 9), (4, 2), (5, 9))  # protocol and frames: long arrays stay in the file, short ones do not
_PICKLES_3D = [_pickle(protocol, length=length) for protocol, length in _PICKLES]
_PICKLES_2D = [_pickle(protocol, flat=True, length=2 * length) for protocol, length in _PICKLES]
_NTU_NAME, _UCLA_NAME, _MAT_NAME = "S001C002P003R002A050.skeleton", "a04_s07_e03_v02.json", "a27_s8_t4_skeleton.mat"

TARGETS: dict[str, Target] = {
    "ntu": Target(_NTU_NAME, _NTU, lambda path: _both(lambda actors: read_ntu(path, actors)), _compare_ntu),
    "ntu in zip": Target(
        "part.zip",
        [raw_clips.zipped({_ENTRY: text, "readme": b"x" * 99}) for text in _NTU],
        _read_zipped,
        _compare_zipped,
        _in_zip,
    ),
    "uav_human": Target(f"{raw_clips.UAV_NAME}.txt", _UAV, _only(read_uav_human), _compare_uav),
    "pyskl 3d": Target("ntu60_3danno.pkl", _PICKLES_3D, _read_pyskl, _compare_pyskl, _in_pickle),
    "pyskl 2d": Target("ntu60_hrnet.pkl", _PICKLES_2D, _read_pyskl, _compare_pyskl, _in_pickle),
    "ctrgcn": Target(
        "NTU60_CS.npz", [raw_clips.ctrgcn(3), raw_clips.ctrgcn(3, packed=True)], _read_ctrgcn, _compare_ctrgcn, _in_zip
    ),
    "nw_ucla": Target(_UCLA_NAME, _UCLA, _only(read_nw_ucla), _compare_ucla, _in_json),
    "utd_mhad": Target(
        _MAT_NAME,
        [
            raw_clips.utd_mat(2),
            raw_clips.matlab(np.stack([raw_clips.person(t, 20) for t in range(2)], axis=2), packed=False),
        ],
        _only(read_utd_mhad),
        _compare_matlab,
        _in_matlab,
    ),
    "smarthome": Target(
        "Cook.Cut_p03_r01_v02_c04.json", _SMARTHOME, _only(read_smarthome), _compare_smarthome, _in_json
    ),
    "pku_mmd": Target("0002-L.txt", _PKU, _read_pku, _compare_pku),
    "pku labels": Target("0002-L.txt", [b"5,1,3,2\n51,2,6,1\n"], _only(read_labels), _compare_labels),
    "pku split": Target(
        "cross-view.txt",
        [b"Training videos:\n0002-M, 0003-R,\nValidataion videos:\n0002-L, 0003-L\n"],
        _only(read_split),
        _compare_split,
    ),
    "own npy": Target("s2_a.npy", _own_npy(), _read_own, _compare_own, _in_npy),
    "own json": Target("s2_a.json", [_own_json()], _read_own, _compare_own, _in_json),
    "own csv": Target("s2_a.csv", [raw_clips.own_csv(2).encode()], _read_own, _compare_own),
    "own yaml": Target(
        "dataset.yaml", [raw_clips.OWN_YAML.encode(), _NAMED_LAYOUT.encode()], _read_description, inside=_in_yaml
    ),
    "any json": Target("clip.json", [*_UCLA, *_SMARTHOME, _own_json()], _only(read_clip), inside=_in_json),
    "any text": Target("clip.txt", [*_UAV, *_PKU], _only(read_clip)),
}


# ---- files made to do harm: the reader, and what makes the file


class _Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _pickled(frame_dir: bytes, *, label: bytes = b"K\x00", more: bytes = b"") -> bytes:
    """A pickle of one annotation, written opcode by opcode; ``more`` are further keys."""
    entry = b"}(X\x09\x00\x00\x00frame_dir" + frame_dir + b"X\x05\x00\x00\x00label" + label + more + b"u"
    return b"\x80\x02}(X\x0b\x00\x00\x00annotations](" + entry + b"eu."


def _laughs(text: bytes, depth: int = 40) -> bytes:
    """A tuple of two tuples of two tuples ...: 2^depth texts in few bytes."""
    return text + b"".join(b"q%c0h%ch%c\x86" % (level, level, level) for level in range(1, depth))


def _tree_of_arrays(**exchanged: object) -> bytes:
    entry = {
        "frame_dir": "S001C001P001R001A001",
        "label": 0,
        "keypoint": np.ones((1, 2, 25, 3), np.float32),
        **exchanged,
    }
    return pickle.dumps({"split": {}, "annotations": [entry]}, protocol=4)


def _state(shape: bytes, code: bytes = b"f4", data: bytes = b"C\x041234") -> bytes:
    """An array as NumPy pickles it, of any shape."""
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00" + code + b"K\x00K\x01\x87R"
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"X\x08\x00\x00\x00keypoint" + new + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def _archive(entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def _overlapped(copies: int) -> bytes:
    """An archive whose entries are all the same 8 MiB of zeros, packed once (after Fifield, WOOT 2019)."""
    one = _archive({"x_train.npy": bytes(2**23)})
    directory = one.index(b"PK\1\2")
    entry, end = one[directory : one.index(b"PK\5\6")], bytearray(one[one.index(b"PK\5\6") :])
    struct.pack_into("<HHI", end, 8, copies, copies, copies * len(entry))
    return one[:directory] + entry * copies + bytes(end)


def _array_header(descr: str, shape: str, more: str = "") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header


def _archive_of(array: bytes, labels: np.ndarray | None = None, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    y = raw_clips.npy(np.eye(3, 60) if labels is None else labels)
    return _archive({"x_train.npy": array, "y_train.npy": y, "x_test.npy": array, "y_test.npy": y}, how)


def _matrix(sizes: bytes, numbers: bytes, kind: int = 9, times: int = 1) -> bytes:
    """A packed MATLAB matrix that says any sizes; ``times`` it is packed."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    whole = element(
        14, element(6, struct.pack("<II", 6, 0)) + element(5, sizes) + element(1, b"d_skel") + element(kind, numbers)
    )
    for _ in range(times):
        packed = zlib.compress(whole)
        whole = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB 5.0 MAT-file, self-made".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + whole


def _sparse(size: int) -> bytes:
    """Bytes that pack to a thirtieth, and as float64 take eight times their place."""
    out, random = np.zeros(size, dtype=np.int8), np.random.default_rng(0)
    out[random.integers(0, size, size // 95)] = random.integers(1, 100, size // 95)
    return out.tobytes()


def _zero_body(frames: list[dict[int, np.ndarray]]) -> bytes:
    return raw_clips.kinect_text(frames).encode()


def _many_bodies(frames: int) -> bytes:
    """Twenty new bodies in each frame, all at one place."""
    joint = b"0 0 0\n" * 17
    bodies = (b"20\n" + b"".join(b"%d\n17\n" % (20 * t + k) + joint for k in range(20)) for t in range(frames))
    return b"%d\n" % frames + b"".join(bodies)


def _dense_text() -> bytes:
    """Text that packs well and needs much memory when it is read line by line."""
    joint = b"0 0 0 0 0 0 0 0 0 0 0 0 \n" * 25
    return b"9999\n" + (b"1\n5 0 1 1 1 1 0 0 0 2\n25\n" + joint) * 9000


def _ucla(**exchanged: object) -> bytes:
    return json.dumps({**json.loads(_UCLA[0]), **exchanged}).encode()


def _laughing_yaml(mark: str) -> bytes:
    lines = ["a0: &a0 [x, x]" if mark == "*" else "a0: &a0 {x: 1}"]
    for level in range(1, 30):
        item = f"[*a{level - 1}, *a{level - 1}]"
        lines.append(f"a{level}: &a{level} {item if mark == '*' else '{<<: ' + item + '}'}")
    return "\n".join([*lines, "classes: *a29", "layout: *a29", "labels: *a29", "test: *a29"]).encode()


def _with_yaml(old: str, new: str) -> Callable[[], bytes]:
    return lambda: raw_clips.OWN_YAML.replace(old, new).encode()


_DEEP, _STEPS = 100_000, 10_000  # a step of a pickle takes long where annotations are checked
HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a million frames claimed": ("ntu", lambda: b"1000000\n0\n"),
    "five million digits": ("ntu", lambda: b"9" * 5_000_000),
    "a line of five million fields": ("ntu", lambda: b"1\n1\n" + b"1 " * 2_500_000),
    "newlines": ("ntu", lambda: b"1\n" + b"\n" * 5_000_000),
    "nobody but zeros": ("ntu", lambda: _zero_body([{1: np.zeros((25, 3))}] * 2)),
    "control characters where nothing is read": ("ntu", lambda: _NTU[0].replace(b" 1 2 3 4 ", b" 1 2 3\x0b5 4 ")),
    "nothing but nulls": ("ntu", lambda: bytes(1_000_000)),
    "two-byte characters": ("ntu", lambda: _NTU[0].decode().encode("utf-16")),
    "thousands of bodies": ("uav_human", lambda: _many_bodies(1500)),
    "zip of zeros": ("ntu in zip", lambda: _archive({_ENTRY: bytes(50_000_000)})),
    "zip of dense text": ("ntu in zip", lambda: _archive({_ENTRY: _dense_text()})),
    "zip packed by bzip2": ("ntu in zip", lambda: _archive({_ENTRY: bytes(50_000_000)}, zipfile.ZIP_BZIP2)),
    "zip packed by LZMA": ("ntu in zip", lambda: _archive({_ENTRY: bytes(50_000_000)}, zipfile.ZIP_LZMA)),
    "zip with a secret": (
        "ntu in zip",
        lambda: _archive({_ENTRY: _NTU[0]}).replace(b"PK\1\2\x14\x03\x14\x00\x00", b"PK\1\2\x14\x03\x14\x00\x01"),
    ),
    "zip of another entry": ("ntu in zip", lambda: _archive({"../" + _ENTRY: _NTU[0]})),
    "npz of overlapping entries": ("ctrgcn", lambda: _overlapped(2000)),
    "npz of zeros": (
        "ctrgcn",
        lambda: _archive_of(_array_header("'<f4'", "(3, 90000, 150)") + bytes(3 * 90_000 * 600)),
    ),
    "npz of a claimed shape": ("ctrgcn", lambda: _archive_of(_array_header("'<f4'", "(3, 999999999999, 150)"))),
    "npz of no size and a large one": ("ctrgcn", lambda: _archive_of(_array_header("'<f4'", f"(3, {2**62}, 150, 0)"))),
    "npz of no clip": ("ctrgcn", lambda: _archive_of(_array_header("'<f4'", "(0, 9, 150)"), np.zeros((0, 0)))),
    "npz of objects": (
        "ctrgcn",
        lambda: _archive_of(_array_header("'|O'", "(3, 1, 150)") + pickle.dumps(_Call(os.system, "true"))),
    ),
    "npz with a header to evaluate": (
        "ctrgcn",
        lambda: _archive_of(_array_header("__import__('os').system('true')", "(3,)")),
    ),
    "npz with a deep header": ("ctrgcn", lambda: _archive_of(_array_header("(" * 9000, "(3,)"))),
    "npz with an entry named on two lines": (
        "ctrgcn",
        lambda: _archive({"x\ny": b"x" * 99}).replace(b"x" * 99, b"y" * 99),
    ),
    "npz of labels that are none": (
        "ctrgcn",
        lambda: _archive_of(_array_header("'<f4'", "(3, 1, 150)") + bytes(1800), np.array([0, np.nan, 1e300])),
    ),
    "npz of labels below zero": (
        "ctrgcn",
        lambda: _archive_of(_array_header("'<f4'", "(3, 1, 150)") + bytes(1800), np.array([0, -1, 2**62])),
    ),
    "mat of zeros": ("utd_mhad", lambda: _matrix(struct.pack("<3i", 20, 3, 100_000), bytes(20 * 3 * 100_000 * 8))),
    "mat of small integers": (
        "utd_mhad",
        lambda: _matrix(struct.pack("<3i", 20, 3, 1_000_000), _sparse(60_000_000), 1),
    ),
    "mat of claimed sizes": ("utd_mhad", lambda: _matrix(struct.pack("<3i", 20, 3, 2**31 - 1), bytes(480))),
    "mat of sizes below zero": ("utd_mhad", lambda: _matrix(struct.pack("<3i", -20, -3, 1), bytes(480))),
    "mat of a hundred sizes": ("utd_mhad", lambda: _matrix(struct.pack("<100i", *[1] * 100), bytes(8))),
    "mat packed many times": ("utd_mhad", lambda: _matrix(struct.pack("<3i", 20, 3, 1), bytes(480), times=500)),
    "pickle that calls os.system": ("pyskl 3d", lambda: pickle.dumps(_Call(os.system, "true"), protocol=2)),
    "pickle that calls eval": ("pyskl 3d", lambda: _tree_of_arrays(keypoint=_Call(eval, "1"))),
    "pickle that calls a codec": (
        "pyskl 3d",
        lambda: _pickled(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R"),
    ),
    "pickle of objects": ("pyskl 3d", lambda: _tree_of_arrays(keypoint=np.array([[None, {}]], dtype=object))),
    "pickle of texts": ("pyskl 3d", lambda: _tree_of_arrays(keypoint=np.array(["x"] * 300))),
    "pickle of a nested kind": ("pyskl 3d", lambda: _tree_of_arrays(keypoint=np.zeros(3, "<f4,<f4"))),
    "pickle of a huge memo place": ("pyskl 3d", lambda: b"\x80\x02]r\xff\xff\xff\xff0j\xff\xff\xff\xff."),
    "pickle of a huge byte array": ("pyskl 3d", lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc."),
    "pickle of huge bytes": ("pyskl 3d", lambda: b"\x80\x05\x8e" + struct.pack("<Q", 2**64 - 1) + b"abc."),
    "pickle of a huge integer": ("pyskl 3d", lambda: _tree_of_arrays(label=10**6000)),
    "pickle of a label without end": ("pyskl 3d", lambda: _tree_of_arrays(label=float("inf"))),
    "pickle of a huge image": (
        "pyskl 2d",
        lambda: _tree_of_arrays(
            keypoint=np.ones((1, 2, 17, 2)), keypoint_score=np.ones((1, 2, 17)), img_shape=(10**400, 1)
        ),
    ),
    "pickle that holds itself": ("pyskl 3d", lambda: b"\x80\x02}q\x00X\x0b\x00\x00\x00annotations]q\x01(h\x00h\x01es."),
    "pickle whose name holds itself": (
        "pyskl 3d",
        lambda: _pickled(b"]q\x00h\x00a", more=_state(b"K\x01K\x01K\x19K\x03t")),
    ),
    "pickle whose name laughs": ("pyskl 3d", lambda: _pickled(_laughs(b"X\x01\x00\x00\x00x"))),
    "pickle whose key laughs": ("pyskl 3d", lambda: b"\x80\x02}" + _laughs(b"X\x01\x00\x00\x00x", 60) + b"K\x00s."),
    "pickle whose key is deep": ("pyskl 3d", lambda: b"\x80\x02})" + b"\x85" * _STEPS + b"K\x00s."),
    "pickle whose module is deep": ("pyskl 3d", lambda: b"\x80\x04)" + b"\x85" * _STEPS + b"\x8c\x01x\x93."),
    "pickle whose name is deep": ("pyskl 3d", lambda: _pickled(b")" + b"\x85" * _STEPS)),
    "pickle of lists": ("pyskl 3d", lambda: b"\x80\x02" + b"]" * _STEPS),
    "pickle of remembered dictionaries": ("pyskl 3d", lambda: b"\x80\x04" + b"}\x94" * _STEPS),
    "pickle of marks": ("pyskl 3d", lambda: b"\x80\x02" + b"(" * _STEPS),
    "pickle of a claimed shape": (
        "pyskl 3d",
        lambda: _pickled(b"X\x01\x00\x00\x00x", more=_state(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft")),
    ),
    "pickle of no size and a large one": (
        "pyskl 3d",
        lambda: _pickled(
            b"X\x01\x00\x00\x00x", more=_state(b"(K\x00" + b"J\xff\xff\xff\x7f" * 7 + b"t", data=b"C\x00")
        ),
    ),
    "pickle with a name of two lines": ("pyskl 3d", lambda: _tree_of_arrays(frame_dir="x\ny", keypoint=np.ones(3))),
    "pickle with an extension": ("pyskl 3d", lambda: b"\x80\x02\x82\x01."),
    "pickle with a persistent name": ("pyskl 3d", lambda: b"\x80\x02X\x01\x00\x00\x00xQ."),
    "json of lists": ("nw_ucla", lambda: b"[" * _DEEP),
    "json of objects": ("nw_ucla", lambda: b'{"a":' * _DEEP),
    "json of a huge integer": ("nw_ucla", lambda: b'{"skeletons": ' + b"9" * 100_000 + b"}"),
    "json of a number without end": ("nw_ucla", lambda: _UCLA[0].replace(b"1.", b"1e999", 1)),
    "json of texts": ("nw_ucla", lambda: _ucla(skeletons=[[["1", "2", "3"]] * 20])),
    "json of truth values": ("nw_ucla", lambda: _ucla(skeletons=[[[True, False, True]] * 20])),
    "json of many dimensions": ("nw_ucla", lambda: _ucla(skeletons=json.loads("[" * 60 + "1" + "]" * 60))),
    "json of empty lists": ("nw_ucla", lambda: b'{"skeletons": [' + b"[]," * 500_000 + b"[]]}"),
    "json with a label of two lines": ("nw_ucla", lambda: _ucla(label="4\n5")),
    "json with poses of lists": (
        "smarthome",
        lambda: json.dumps({"frames": [[{"pose2d": [[1.0, 2.0]] * 26}]] * 3}).encode(),
    ),
    "json with poses of nothing": ("smarthome", lambda: json.dumps({"frames": [[{"pose2d": [None] * 26}]]}).encode()),
    "json with objects as frames": (
        "smarthome",
        lambda: b'{"frames": [{}, ' + _SMARTHOME[0].partition(b'"frames": [')[2],
    ),
    "json with a text as frames": ("smarthome", lambda: b'{"frames": "' + b"a" * 1_000_000 + b'"}'),
    "recording of one long line": ("pku_mmd", lambda: b"1" * 5_000_000),
    "recording of numbers that are none": ("pku_mmd", lambda: b" ".join([b"nan"] * 150) + b"\n"),
    "recording with digits apart": ("pku_mmd", lambda: _PKU[0].replace(b".", b"_", 1)),
    "recording of lines": ("pku_mmd", lambda: b"\n" * 1_000_000),
    "label of huge frames": ("pku labels", lambda: b"5,1,99999999999999999999,1\n"),
    "label that ends before its start": ("pku labels", lambda: b"5,9,3,1\n"),
    "label of other digits": ("pku labels", lambda: "5,\u00b9,3,1\n".encode("latin-1")),
    "split of one long name": ("pku split", lambda: b"\n" + b"a" * 1_000_000 + b"\n\n" + b"a" * 1_000_000),
    "npy of objects": ("own npy", lambda: raw_clips.npy(np.array([[[None, {}, "x"]]], dtype=object))),
    "npy of a claimed shape": ("own npy", lambda: _array_header("'<f8'", "(999999999999, 20, 3)") + bytes(480)),
    "npy with a header to evaluate": ("own npy", lambda: _array_header("exit()", "(1, 20, 3)") + bytes(480)),
    "npy with a deep header": ("own npy", lambda: _array_header("(" * 9000, "(1, 20, 3)") + bytes(480)),
    "npy with a long header": ("own npy", lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(480)),
    "npy that is a zip": ("own npy", lambda: raw_clips.ctrgcn(2)),
    "npy that is a pickle": ("own npy", lambda: pickle.dumps(_Call(os.system, "true"))),
    "npy of more than it says": ("own npy", lambda: _own_npy()[0] + bytes(480)),
    "csv of one long field": ("own csv", lambda: b"1" * 5_000_000),
    "csv of commas": ("own csv", lambda: b"0\n" + b"," * 2_000_000),
    "csv of a first line with one bad number": (
        "own csv",
        lambda: raw_clips.own_csv(2).split("\n", 1)[1].replace(",", ",x", 1).encode(),
    ),
    "csv of numbers without end": ("own csv", lambda: ",".join(["1e999"] * 60).encode()),
    "yaml that laughs": ("own yaml", lambda: _laughing_yaml("*")),
    "yaml that merges and laughs": ("own yaml", lambda: _laughing_yaml("<<")),
    "yaml that calls os.system": ("own yaml", lambda: b"!!python/object/apply:os.system ['true']"),
    "yaml with a tag inside": ("own yaml", _with_yaml("kinect20", "!!python/name:os.system")),
    "yaml of lists": ("own yaml", lambda: b"[" * 20_000),
    "yaml with a day that is none": ("own yaml", _with_yaml("kinect20", "2001-13-45")),
    "yaml with a number that is none": ("own yaml", _with_yaml("kinect20", "!!int x")),
    "yaml with a truth value that is none": ("own yaml", _with_yaml("kinect20", "!!bool x")),
    "yaml with a huge number": ("own yaml", _with_yaml("persons: 2", "persons: " + "9" * 5000)),
    "yaml with a pattern too large": ("own yaml", _with_yaml("\\d+", "\\d{1,99999999999}")),
    "yaml with a doubtful pattern": ("own yaml", _with_yaml("[a-z_]", "[[a-z_]")),
    "yaml with a deep pattern": ("own yaml", _with_yaml("\\d+", "(" * 5000 + ")" * 5000)),
    "yaml with texts as test subjects": ("own yaml", _with_yaml("[2]", "['2']")),
}


# ---- the check


_TICKS = itertools.count()


class ReaderError(AssertionError):
    """A reader that did what none may do."""


@dataclass
class Tally:
    """What became of a reader's mutants."""

    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    ours = not tracemalloc.is_tracing()
    if ours:
        scan(b"0\n", 25, 12)  # compiled before anything is measured
        tracemalloc.start()
    try:
        yield
    finally:
        if ours:
            tracemalloc.stop()


def check(name: str, data: bytes, folder: Path, tally: Tally | None = None) -> str:
    """``read`` or ``refused``; the file stays in ``folder`` where the reader fails.

    Raises:
        AssertionError: the reader lets another error out, does not name the file, gives wrong numbers, or takes too
            long or too much memory.
    """
    target = TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / target.file
    path.write_bytes(data)
    changed = int(time.time_ns()) + next(_TICKS)  # the file system's own clock is too coarse for the readers' caches
    os.utime(path, ns=(changed, changed))
    try:
        with _tracing():
            return check_path(name, path, tally)
    except ReaderError as failure:
        kept = folder / hashlib.blake2b(data, digest_size=6).hexdigest() / target.file
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(data)
        raise ReaderError(f"{failure}; kept as {kept}") from failure


def check_path(name: str, path: Path, tally: Tally | None = None) -> str:
    """What ``check`` does, with a file that is there (or a folder in its place)."""
    target, tally, clips, refusal = TARGETS[name], tally or Tally(), [], None
    size = path.stat().st_size
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)  # compiled code hears no signal
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        clips = target.read(path)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        refusal = str(error)
    except AssertionError as error:
        raise ReaderError(f"{name}: {error}") from error
    except Exception as error:
        raise ReaderError(f"{name}: {type(error).__name__} ({str(error)[:300]!r}) escapes") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
    tally.slowest, tally.peak = max(tally.slowest, seconds), max(tally.peak, peak)
    if seconds > MOST_SECONDS:
        raise ReaderError(f"{name}: took {seconds:.1f} s for {size:,} bytes")
    if peak > MOST_BYTES + MOST_RATIO * size:
        raise ReaderError(f"{name}: took {peak / 2**20:,.0f} MiB for {size:,} bytes")
    if refusal is not None:
        if target.file not in refusal or "\n" in refusal or len(refusal) - len(str(path)) > LONGEST_SENTENCE:
            raise ReaderError(f"{name}: not one sentence with the file's name: {refusal[:300]!r}")
        return "refused"
    try:
        for clip in clips:
            _check_clip(clip)
        target.compare(path, clips)
        if name in ("ntu", "uav_human"):
            _scan_agrees(path.read_bytes(), *((25, 12) if name == "ntu" else (17, 0)))
    except Exception as error:
        raise ReaderError(f"{name}: {type(error).__name__} ({str(error)[:300]!r}) against the naive reader") from error
    return "read"


def _check_clip(clip: Clip) -> None:
    joints, layout = clip.joints, find_layout(clip.layout)
    assert joints.ndim == 4, "not [T, M, V, 3]"
    assert joints.shape[0] > 0, "no frame"
    assert joints.shape[1] > 0, "no person"
    assert joints.shape[2:] == (layout.num_joints, 3), "another number of joints"
    assert joints.dtype == np.float32, "not float32"
    assert np.isfinite(joints).all(), "a number that is not finite"


def fuzz(name: str, count: int, seed: int, folder: Path) -> Tally:
    """``count`` mutants of one reader's files; the same for the same ``seed``."""
    target, tally = TARGETS[name], Tally()
    with _tracing(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(count):
            random = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            which = int(random.integers(0, len(target.seeds)))
            kind, data = mutated(target.seeds[which], random, target.inside)
            try:
                outcome = check(name, data, folder, tally)
            except ReaderError as failure:
                tally.failures.append(f"mutant {number} of seed file {which} ({kind}): {failure}")
                continue
            setattr(tally, outcome, getattr(tally, outcome) + 1)
    return tally


def main(arguments: Sequence[str]) -> int:
    """Print what became of each reader's mutants; 1 where one failed."""
    count, seed = int(arguments[0]) if arguments else 2000, int(arguments[1]) if len(arguments) > 1 else 0
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    print(f"{'target':<12}{'read':>8}{'refused':>9}{'failed':>8}{'slowest ms':>12}{'peak MiB':>10}")  # noqa: T201
    failures: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: pool.submit(fuzz, name, count, seed, folder / name.replace(" ", "_")) for name in TARGETS}
        for name, job in jobs.items():
            tally = job.result()
            numbers = f"{tally.read:>8}{tally.refused:>9}{len(tally.failures):>8}"
            print(f"{name:<12}{numbers}{1000 * tally.slowest:>12.0f}{tally.peak / 2**20:>10.1f}", flush=True)  # noqa: T201
            failures += tally.failures
    for failure in failures[:40]:
        print(failure)  # noqa: T201
    if failures:
        print(f"{len(failures)} failures; their files are in {folder}")  # noqa: T201
    else:
        shutil.rmtree(folder)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

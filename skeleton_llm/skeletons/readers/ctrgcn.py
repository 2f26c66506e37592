"""CTR-GCN's ``.npz`` of NTU RGB+D (Chen et al., ICCV 2021), for the one protocol that it was made for.

x_train, x_test [N, T, 150]: two actors of 25 joints, metres, centred, zero-padded; y_train, y_test [N, C] one-hot.
Names, subjects and cameras are not in it.
"""

import zipfile
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import NTU25
from skeleton_llm.skeletons.readers.raw_file import DAMAGE, brief, open_archive, read_header, to_single

_CHANNELS = 2 * NTU25.num_joints * 3
_MOST_CLASSES = 1000
_MOST_RATIO = 50  # padding packs to about a tenth
_PROTOCOLS = {"cs": "xsub", "csub": "xsub", "xsub": "xsub", "cv": "xview", "xview": "xview", "cset": "xset"}


class Member(NamedTuple):
    """An array inside the archive."""

    entry: str
    shape: tuple[int, ...]
    dtype: str
    start: int  # of the numbers, in the unpacked entry


class Half(NamedTuple):
    """The training or the test clips: where they are and their labels."""

    clips: Member
    labels: np.ndarray


def ctrgcn_protocol(path: Path | str) -> str:
    """The protocol that the file's name says, xsub, xview or xset (CTR-GCN: NTU60_CS, NTU60_CV, NTU120_CSub, _CSet).

    Raises:
        ValueError: the name says none.
    """
    said = Path(path).stem.lower().replace("-", "_").split("_")
    for word in reversed(said):
        if word in _PROTOCOLS:
            return _PROTOCOLS[word]
    raise ValueError(f"{path}: the name tells no protocol; expected NTU60_CS, NTU60_CV, NTU120_CSub or NTU120_CSet.npz")


def read_halves(path: Path | str) -> dict[str, Half]:
    """``train`` and ``test``; every byte of the archive is checked against its checksum.

    Raises:
        ValueError: not such a file, or damaged; names the array.
    """
    archive = open_archive(Path(path))
    _check(archive, path)
    halves = {}
    for half in ("train", "test"):
        clips, labels = _member(archive, path, f"x_{half}"), _member(archive, path, f"y_{half}")
        if len(clips.shape) != 3 or clips.shape[2] != _CHANNELS:
            raise ValueError(f"{path}: expected x_{half} of shape [clips, frames, {_CHANNELS}], found {clips.shape}")
        if labels.shape[:1] != clips.shape[:1] or len(labels.shape) not in (1, 2) or 0 in (*labels.shape, *clips.shape):
            raise ValueError(f"{path}: y_{half} {labels.shape} does not fit x_{half} {clips.shape}")
        known = _rows(path, labels, 0, labels.shape[0])
        if known.ndim == 2:
            if not ((known != 0).sum(1) == 1).all():
                raise ValueError(f"{path}: y_{half} is not one-hot in row {int(((known != 0).sum(1) != 1).argmax())}")
            known = known.argmax(1)
        elif known.dtype.kind not in "iu" or known.min() < 0 or known.max() > _MOST_CLASSES:
            raise ValueError(f"{path}: y_{half} holds no classes (whole numbers from 0)")
        halves[half] = Half(clips, known.astype(np.int64))
    return halves


def read_ctrgcn(path: Path | str, half: str, clips: Member, row: int, label: int, protocol: str) -> Clip:
    """One clip, [T, 2, 25, 3], without the zero padding at its end.

    Raises:
        ValueError: no frame with a body.
    """
    where = f"{path}#x_{half}/{row}"
    joints = to_single(_rows(path, clips, row, row + 1)[0], where).reshape(-1, 2, NTU25.num_joints, 3)
    there = np.flatnonzero(joints.any(axis=(1, 2, 3)))
    if len(there) == 0:
        raise ValueError(f"{where}: no body in any frame; leave the clip out")
    splits = {protocol: int(half == "test")}
    return Clip(joints[: there[-1] + 1], NTU25.name, label, source=where, splits=splits)


def _check(archive: zipfile.ZipFile, path: Path | str) -> None:
    packed, unpacked = Path(path).stat().st_size, sum(info.file_size for info in archive.infolist())
    if unpacked > _MOST_RATIO * packed + 2**20:
        raise ValueError(f"{path}: claims to unpack to {unpacked:,} bytes from {packed:,}; fetch the file again")
    for info in archive.infolist():
        try:
            with archive.open(info) as stream:
                while stream.read(2**24):
                    pass
        except DAMAGE as error:
            name = brief(info.filename)
            raise ValueError(f"{path}: {name} is damaged ({brief(error)}); fetch the file again") from error


def _member(archive: zipfile.ZipFile, path: Path | str, name: str) -> Member:
    entry = f"{name}.npy"
    if entry not in archive.namelist():
        raise ValueError(f"{path}: expected the arrays x_train, y_train, x_test and y_test, {name} is missing")
    with archive.open(entry) as stream:
        try:
            shape, dtype, fortran, start = read_header(stream)
        except DAMAGE as error:
            raise ValueError(f"{path}: {entry} is no array ({brief(error)}); fetch the file again") from error
    whole = start + prod(shape) * dtype.itemsize == archive.getinfo(entry).file_size
    if fortran or not whole:
        raise ValueError(f"{path}: {entry} {shape} {dtype} is no whole array of numbers; fetch the file again")
    return Member(entry, shape, dtype.str, start)


@lru_cache(maxsize=4)
def _stream(path: Path, entry: str, changed: int) -> zipfile.ZipExtFile:
    del changed
    return cast(zipfile.ZipExtFile, open_archive(path).open(entry))


def _rows(path: Path | str, member: Member, first: int, last: int) -> np.ndarray:
    """Rows of an array; packed ones are unpacked up to there, so ask in rising order."""
    kind = np.dtype(member.dtype)
    size = prod(member.shape[1:]) * kind.itemsize
    stream = _stream(Path(path), member.entry, Path(path).stat().st_mtime_ns)
    stream.seek(member.start + first * size)
    return np.frombuffer(stream.read((last - first) * size), kind).reshape(last - first, *member.shape[1:])

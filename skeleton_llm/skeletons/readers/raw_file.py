"""What a raw file holds: bytes, also of one inside a .zip archive (``ARCHIVE.zip#ENTRY``), or JSON; within bounds."""

import json
import re
import struct
import zipfile
import zlib
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

_MOST_RATIO = 30  # deflate reaches 1032 on zeros; skeleton text stays below 10
_MOST_BYTES = 2**28
_LARGEST = 1e5
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError,
    OverflowError,
)  # fmt: skip
_HEADER = re.compile(
    rb"\{ ?'descr': ?'([<>|=]?[fiub]\d{1,2})', ?'fortran_order': ?(False|True), ?"
    rb"'shape': ?\(([\dL, ]{0,200})\),? ?\}[ \n]*"
)


class Header(NamedTuple):
    """What a NumPy file says before its numbers, and where these begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int


def brief(said: object) -> str:
    """A foreign text or another library's complaint, as a part of one sentence."""
    return " ".join(str(said).split())[:200]


def to_double(listed: Any) -> np.ndarray:
    """A nested list of numbers as float64.

    Raises:
        ValueError: its lists have several lengths, or it holds a text, a truth value or nothing where a number belongs.
    """
    values = np.array(listed, dtype=object)
    if values.ndim > 8:
        raise ValueError("its lists nest too deep")
    strange = set(map(type, values.flat)) - {int, float}
    if strange:
        names = sorted("null" if kind is type(None) else kind.__name__ for kind in strange)
        raise ValueError(f"found {', '.join(names)} where a number belongs")
    try:
        return values.astype(np.float64)
    except OverflowError:
        raise ValueError("a number is too large") from None


def split_name(path: Path | str) -> tuple[Path, str | None]:
    """The file or folder, and what follows the ``#`` after it: the name of a clip inside it."""
    text = str(path)
    parts = text.split("#")
    for count in range(len(parts), 0, -1):
        if Path("#".join(parts[:count])).exists():
            return Path("#".join(parts[:count])), "#".join(parts[count:]) or None
    return (Path(parts[0]), "#".join(parts[1:])) if len(parts) > 1 else (Path(text), None)


def to_single(values: Any, where: Path | str) -> np.ndarray:
    """Numbers as float32.

    Raises:
        ValueError: one is NaN, infinite or larger than any place in a room or an image; names it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.asarray(values).astype(np.float32)
    bad = ~(np.abs(numbers) <= _LARGEST)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{where}: the number at {list(at)} is {numbers[at]:g}, which is no place; mend or remove it")
    return numbers


def read_bytes(path: Path | str) -> bytes:
    """Everything in a file, or in an archive's entry.

    Raises:
        FileNotFoundError: no such file, or no such entry.
        ValueError: empty, a damaged archive, or an entry that grows far beyond its packed size.
    """
    file, entry = split_name(path)
    if entry is None:
        data = file.read_bytes()
    else:
        archive = open_archive(file)
        try:
            info = archive.getinfo(entry)
        except KeyError:
            raise FileNotFoundError(f"{path}: {file.name} has no such entry") from None
        packed = min(info.compress_size, file.stat().st_size)  # an entry may claim to be larger than its archive
        most = min(_MOST_BYTES, packed * (1 if info.compress_type == zipfile.ZIP_STORED else _MOST_RATIO) + 2**16)
        try:
            with archive.open(info) as stream:
                data = stream.read(most + 1)
        except DAMAGE as error:
            raise ValueError(f"{path}: a damaged entry ({brief(error)}); fetch the archive again") from error
        if len(data) > most:
            raise ValueError(f"{path}: unpacks to over {most:,} bytes from {info.compress_size:,}; no skeleton file")
    if not data.strip():
        raise ValueError(f"{path} line 1: the file is empty; fetch it again")
    return data


def open_archive(path: Path) -> zipfile.ZipFile:
    """An opened archive, kept for the next entry.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole zip archive.
    """
    facts = path.stat()
    return _open(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _open(path: Path, changed: int, size: int) -> zipfile.ZipFile:
    del changed, size  # a changed file is another archive
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise ValueError(f"{path}: not a whole zip archive ({brief(error)}); fetch it again") from error
    for info in archive.infolist():
        if info.compress_type not in _PACKED:
            archive.close()
            raise ValueError(f"{path}: {brief(info.filename)} is packed in another way than deflate; pack it again")
    return archive


def read_header(stream: IO[bytes] | BufferedIOBase) -> Header:
    """The header of a ``.npy`` file, in the one form that NumPy writes (nothing in it is evaluated).

    Raises:
        ValueError: another form, or an array of anything but numbers.
    """
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("no NumPy array")
    size = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(size), "little")
    found = _HEADER.fullmatch(stream.read(length)) if length < 2**16 else None
    if found is None:
        raise ValueError("its header describes no array of numbers")
    sizes = [part.strip(b" L") for part in found[3].split(b",")]
    shape = tuple(int(part) for part in sizes if part)
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError:
        raise ValueError(f"its header describes no array of numbers ({found[1].decode()})") from None
    return Header(shape, dtype, found[2] == b"True", 8 + size + length)


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: empty or not JSON; names the place.
    """
    text = read_bytes(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not whole JSON ({brief(error)}); fetch it again") from error

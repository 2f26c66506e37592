"""What a raw file holds: bytes, also of one inside a .zip archive (``ARCHIVE.zip#ENTRY``), or JSON; within bounds."""

import json
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_MOST_RATIO = 200  # deflate reaches 1032 on zeros; skeleton text stays below 10
_MOST_BYTES = 2**28
_LARGEST = 1e5


def split_name(path: Path | str) -> tuple[Path, str | None]:
    """The file, and what follows the first ``#`` after it: the name of a clip inside it."""
    text = str(path)
    if "#" not in text or Path(text).exists():
        return Path(text), None
    file, _, inside = text.partition("#")
    return Path(file), inside


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
        most = min(_MOST_BYTES, info.compress_size * _MOST_RATIO + 1024)
        try:
            with archive.open(info) as stream:
                data = stream.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ValueError(f"{path}: a damaged entry ({error}); fetch the archive again") from error
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
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, UnicodeError) as error:
        raise ValueError(f"{path}: not a whole zip archive ({error}); fetch it again") from error


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: empty or not JSON; names the place.
    """
    text = read_bytes(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not whole JSON ({error}); fetch it again") from error

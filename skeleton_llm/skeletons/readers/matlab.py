"""One numeric matrix out of a MATLAB 5 file, within a memory bound set by the file.

SciPy's reader allocates what a file claims to hold; this one reads what UTD-MHAD needs and no more: little-endian,
real, full matrices, compressed or not (MathWorks, *MAT-File Format*, level 5).
"""

import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_NUMERIC_CLASSES = range(6, 16)  # double, single, int8 ... uint64
_MOST_RATIO, _MOST_BYTES = 50, 2**21  # two minutes of skeletons; UTD-MHAD's longest has four seconds


def read_matrix(path: Path | str, name: str) -> np.ndarray:
    """The matrix called ``name`` as float64.

    Raises:
        ValueError: not a MATLAB 5 file, truncated, or without such a matrix.
    """
    data = Path(path).read_bytes()
    if len(data) < _HEADER or data[126:128] != b"IM":
        raise ValueError(f"{path}: not a MATLAB 5 file; expected UTD-MHAD's .mat as distributed")
    try:
        at = _HEADER
        while at < len(data):
            kind, body, at = _element(data, at)
            if kind == _COMPRESSED:
                kind, body, _ = _element(_inflate(body), 0)
            if kind == _MATRIX:
                found, matrix = _matrix(body)
                if found == name.encode():
                    return matrix
    except (ValueError, struct.error, zlib.error, KeyError, IndexError) as error:
        raise ValueError(f"{path}: a damaged MATLAB file ({error}); fetch it again") from error
    raise ValueError(f"{path}: holds no matrix {name!r}; expected UTD-MHAD's .mat as distributed")


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Type and content of the element at ``at``, and where the next one begins."""
    first, size = struct.unpack_from("<II", data, at)
    if first >> 16:  # a small element: the size is in the upper half, the content in the tag
        kind, size, start, after = first & 0xFFFF, first >> 16, at + 4, at + 8
        if size > 4:
            raise ValueError("a small element of more than 4 bytes")
    else:
        kind, start = first, at + 8
        after = start + size if kind == _COMPRESSED else start + size + -size % 8
    if start + size > len(data):
        raise ValueError("it ends in the middle")
    return kind, data[start : start + size], after


def _inflate(packed: bytes) -> bytes:
    machine = zlib.decompressobj()
    most = min(_MOST_BYTES, _MOST_RATIO * len(packed) + 4096)
    data = machine.decompress(packed, most)
    if not machine.eof:
        raise ValueError(f"it unpacks to over {most:,} bytes" if machine.unconsumed_tail else "it ends in the middle")
    return data


def _matrix(body: bytes) -> tuple[bytes, np.ndarray]:
    _, flags, at = _element(body, 0)
    _, sizes, at = _element(body, at)
    _, name, at = _element(body, at)
    shape = tuple(int(size) for size in np.frombuffer(sizes, "<i4"))
    if flags[0] not in _NUMERIC_CLASSES or flags[1] & 0x08:
        return name, np.zeros(0)  # cells, structures, texts and complex numbers are not ours
    kind, content, _ = _element(body, at)
    numbers = np.frombuffer(content, _TYPES[kind])
    if min(shape, default=0) < 0 or prod(shape) != len(numbers):
        raise ValueError(f"a matrix of shape {shape} with {len(numbers)} numbers")
    return name, numbers.astype(np.float64).reshape(shape, order="F")

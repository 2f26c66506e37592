"""The text form of Kinect 2 recordings: NTU RGB+D's ``.skeleton`` and UAV-Human's ``.txt``.

The number of frames; for each frame the number of bodies; for each body a line of fields (its id first: 17 digits,
which two bodies can share as float64), the number of joints, and a line a joint (x, y, z in metres first; NTU has 12
fields: x y z, depth x y, colour x y, orientation w x y z, tracking state).

A compiled scan reads files of exactly this form. Whatever else it meets, it leaves the file to a slow reader, which
reads it or says in which line it cannot.
"""

import inspect
import math
from typing import NamedTuple

import numba
import numpy as np

from skeleton_llm.skeletons.actors import Body
from skeleton_llm.skeletons.readers.raw_file import to_single

_NEWLINE, _RETURN, _SPACE, _TAB, _DOT, _MINUS, _PLUS, _ZERO, _NINE, _E, _e = 10, 13, 32, 9, 46, 45, 43, 48, 57, 69, 101
_EXACT = 2**53  # an integer up to here times or over a power of ten up to 1e22 is rounded once, as float() does
_ONES, _HIGHS, _LOWS = (np.uint64(0x0101010101010101 * byte) for byte in (1, 0x80, 0x7F))
_SPACES = np.uint64(0x0101010101010101 * _SPACE)
_SEVEN, _EIGHT, _FIFTY_SIX = np.uint64(7), np.uint64(8), np.uint64(56)
_MOST_BODIES, _MOST_FRAMES, _MOST_TRACKS = 20, 1_000_000, 1000


class Table(NamedTuple):
    """Every body of every frame, in the file's order: its id, its frame and its joints [n, V, 3]."""

    ids: np.ndarray
    frames: np.ndarray
    joints: np.ndarray


def _scan(  # noqa: PLR0911, PLR0912, PLR0915  (one pass over the bytes; numba wants it in one piece)
    text: np.ndarray,
    words: np.ndarray,
    num_joints: int,
    columns: int,
    powers: np.ndarray,
    ids: np.ndarray,
    frames: np.ndarray,
    joints: np.ndarray,
) -> int:
    """Fill the table; the number of bodies, or -1 where the text has another form."""
    at, size, found = 0, len(text), 0
    to_come, frame, bodies, rows = -1, -1, 0, 0  # what the file still owes: frames, bodies, joints
    stage = 0  # 0 frames, 1 bodies, 2 body line, 3 joints, 4 joint line
    while at < size:
        fields, value, end_of_body = 0, 0, False
        while at < size and text[at] != _NEWLINE:
            character = text[at]
            if character in (_SPACE, _TAB, _RETURN):
                at += 1
                continue
            if character < _SPACE:
                return -1  # other control characters: splitting at them is left to the slow reader
            fields += 1
            if fields > (3 if stage == 4 else 1):  # only counted: eight bytes at a time
                doubled = np.uint64(0)  # two spaces in a row or one at the end: fields are not as many as spaces
                while at < size and at & 7 and text[at] >= _SPACE:
                    fields += text[at] == _SPACE
                    doubled |= np.uint64((text[at] == _SPACE) & (text[at - 1] == _SPACE))
                    at += 1
                if not at & 7:
                    word, last = at >> 3, np.uint64(0x80 * (text[at - 1] == _SPACE))
                    while word < len(words):
                        if (words[word] - _SPACES) & ~words[word] & _HIGHS:
                            break  # a byte below a space: the line's end, or other white space
                        blanks = words[word] ^ _SPACES
                        blanks = ~(((blanks & _LOWS) + _LOWS) | blanks | _LOWS)  # the high bit of each space
                        fields += int(((blanks >> _SEVEN) * _ONES) >> _FIFTY_SIX)
                        doubled |= blanks & ((blanks << _EIGHT) | last)
                        last = blanks >> _FIFTY_SIX
                        word += 1
                    at = word << 3
                    while at < size and text[at] >= _SPACE:
                        fields += text[at] == _SPACE
                        doubled |= np.uint64((text[at] == _SPACE) & (text[at - 1] == _SPACE))
                        at += 1
                if columns > 0 and (doubled or text[at - 1] == _SPACE):
                    return -1
                continue
            negative, signed = character == _MINUS, character in (_MINUS, _PLUS)
            if signed:
                at += 1
            digits, mantissa, scale, dotted = 0, 0, 0, False
            while at < size and (_ZERO <= text[at] <= _NINE or (text[at] == _DOT and not dotted)):
                if text[at] == _DOT:
                    dotted = True
                else:
                    mantissa = mantissa * 10 + (text[at] - _ZERO)
                    digits += 1
                    scale -= dotted
                at += 1
            if digits == 0 or digits > (18 if stage in (2, 4) else 9):
                return -1
            if stage == 4 and at < size and text[at] in (_E, _e):
                at += 1
                down = at < size and text[at] == _MINUS
                if down or (at < size and text[at] == _PLUS):
                    at += 1
                first, exponent = at, 0
                while at < size and _ZERO <= text[at] <= _NINE and at - first < 4:
                    exponent = exponent * 10 + (text[at] - _ZERO)
                    at += 1
                if at == first:
                    return -1
                scale += -exponent if down else exponent
            if at < size and text[at] > _SPACE:
                return -1
            if stage == 4:
                if mantissa >= _EXACT or scale > 22 or scale < -22:
                    return -1
                number = mantissa / powers[-scale] if scale < 0 else mantissa * powers[scale]
                joints[found, num_joints - rows, fields - 1] = -number if negative else number
            else:
                if signed or dotted:
                    return -1
                value = mantissa
        at += 1
        if fields == 0:
            if to_come == 0 and bodies == 0 and rows == 0:
                continue  # blank lines after the end
            return -1
        if stage == 4:
            if fields < 3 or (columns > 0 and fields != columns):
                return -1
            rows -= 1
            end_of_body = rows == 0
        elif stage == 0:
            if fields != 1:
                return -1
            to_come = value
        elif stage == 1:
            if to_come == 0 or value > _MOST_BODIES or fields != 1:
                return -1
            bodies, frame, to_come = value, frame + 1, to_come - 1
            if bodies > 0:
                stage = 2
            continue
        elif stage == 2:
            if found >= len(ids) or (columns > 0 and fields != 10):
                return -1
            ids[found], frames[found] = value, frame
        else:
            if value != num_joints or fields != 1:
                return -1
            rows = num_joints
        if end_of_body:
            found, bodies = found + 1, bodies - 1
            stage = 2 if bodies > 0 else 1
        else:
            stage = (1, 1, 3, 4, 4)[stage]
    return found if to_come == 0 and bodies == 0 and rows == 0 and stage == 1 else -1


_compiled = numba.njit(cache=True, nogil=True)(inspect.unwrap(_scan))
_POWERS = 10.0 ** np.arange(23)


def scan(text: bytes, num_joints: int, columns: int) -> Table | None:
    """The fast way: the table, or None where the text has another form than the plain one."""
    most = len(text) // (6 * num_joints) + 1  # a joint's line has at least 6 bytes; unused pages cost nothing
    ids, frames = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    joints = np.empty((most, num_joints, 3), dtype=np.float32)
    data = np.frombuffer(text, dtype=np.uint8)
    words = data[: len(data) // 8 * 8].view(np.uint64)
    found = _compiled(data, words, num_joints, columns, _POWERS, ids, frames, joints) if text else -1
    return None if found < 0 else Table(ids[:found], frames[:found], joints[:found])


class _Lines:
    """The file's lines with the number of the one last read, so that every complaint can name it."""

    def __init__(self, text: bytes, where: str) -> None:
        self.where = where
        self.lines = text.split(b"\n")
        self.number = 0

    def next(self, expected: str) -> list[bytes]:
        if self.number >= len(self.lines) or not self.lines[self.number].strip():
            raise ValueError(
                f"{self.where} line {self.number + 1}: expected {expected}, found the end (truncated file?);"
                " fetch it again"
            )
        self.number += 1
        return self.lines[self.number - 1].split()

    def refuse(self, expected: str, found: list[bytes]) -> ValueError:
        said = b" ".join(found)[:30].decode("latin-1")
        return ValueError(f"{self.where} line {self.number}: expected {expected}, found {said!r}; fetch the file again")

    def whole(self, expected: str, most: int) -> int:
        fields = self.next(expected)
        if len(fields) != 1 or not fields[0].isdigit() or len(fields[0]) > 9 or int(fields[0]) > most:
            raise self.refuse(expected, fields)
        return int(fields[0])

    def body(self, columns: int) -> int:
        fields = self.next("a body")
        if not fields[0].isdigit() or len(fields[0]) > 18 or (columns > 0 and len(fields) != 10):
            raise self.refuse("a body's id" + (" and 9 more fields" if columns else ""), fields)
        return int(fields[0])

    def joint(self, columns: int) -> list[float]:
        fields = self.next("a joint")
        if len(fields) < 3 or (columns > 0 and len(fields) != columns):
            raise self.refuse(f"a joint's {columns or 'x y z'} fields, got {len(fields)}", fields)
        try:
            numbers = [float(field.replace(b"_", b"?")) for field in fields[:3]]  # float() would take 1_0 for 10
        except ValueError:
            raise self.refuse("a joint's x y z", fields) from None
        if not all(map(math.isfinite, numbers)):
            raise self.refuse("a joint's x y z, finite numbers", fields)
        return numbers


def read_slowly(text: bytes, num_joints: int, columns: int, where: str) -> Table:
    """The careful way.

    Raises:
        ValueError: names ``where`` and the line.
    """
    lines = _Lines(text, where)
    ids, frames, joints = [], [], []
    total = lines.whole("the number of frames", _MOST_FRAMES)
    for frame in range(total):
        for _ in range(lines.whole("the number of bodies", _MOST_BODIES)):
            ids.append(lines.body(columns))
            frames.append(frame)
            found = lines.whole("the number of joints", 1000)
            if found != num_joints:
                raise ValueError(
                    f"{where} line {lines.number}: expected {num_joints} joints, found {found}; of another dataset?"
                )
            joints.append([lines.joint(columns) for _ in range(num_joints)])
    rest = next((number for number in range(lines.number, len(lines.lines)) if lines.lines[number].strip()), None)
    if rest is not None:
        raise ValueError(f"{where} line {rest + 1}: expected the end after {total} frames, found more; fetch it again")
    shape = (len(ids), num_joints, 3)
    numbers = to_single(np.array(joints, dtype=np.float64).reshape(shape), where)
    return Table(np.array(ids, dtype=np.int64), np.array(frames, dtype=np.int64), numbers)


def read_bodies(text: bytes, where: str, *, num_joints: int = 25, columns: int = 12) -> list[Body]:
    """Each tracked body in the order of its first appearance; empty where no frame has one.

    ``columns`` is the number of fields of a joint's line, 0 for three or more.

    Raises:
        ValueError: empty, truncated, too long, or of another form; names ``where`` and the line.
    """
    table = scan(text, num_joints, columns) or read_slowly(text, num_joints, columns, where)
    to_single(table.joints, where)
    names, first, owner = np.unique(table.ids, return_index=True, return_inverse=True)
    if len(names) > _MOST_TRACKS:
        raise ValueError(f"{where}: {len(names):,} different bodies, expected a few; fetch the file again")
    bodies = []
    for body in np.argsort(first):
        rows = owner == body if len(names) > 1 else slice(None)
        frames = table.frames[rows]
        if len(frames) > 1 and (np.diff(frames) == 0).any():
            raise ValueError(f"{where}: body {names[body]} occurs twice in one frame; fetch the file again")
        bodies.append(Body(frames, table.joints[rows]))
    return bodies

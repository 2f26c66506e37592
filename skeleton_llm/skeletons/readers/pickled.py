"""Pickles that hold plain containers and NumPy arrays, read without running anything that they say.

``pickle.load`` calls whatever the file names. Here the opcodes are followed by hand: containers, numbers, strings and
arrays come out, any other request is refused. Arrays stay in the file: what comes out says where each one lies, so
that a file of gigabytes needs memory for its index alone.
"""

import mmap
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

from skeleton_llm.skeletons.readers.raw_file import brief

_SHORT = 1024  # longer texts and bytes stay in the file
_KIND = re.compile(r"[<>|=]?[fiub][1248]")
_LARGEST_SIZE = 2**31
_HEADERS = {
    "SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8,
    "SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8, "SHORT_BINSTRING": 1, "BINSTRING": 4,
}  # fmt: skip
_ATOMS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "STRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KNOWN = {
    ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): "dtype", ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes", ("builtins", "bytes"): "bytes", ("builtins", "bytearray"): "bytes",
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
}  # fmt: skip
_Kind = Literal["bytes", "text"]
_Key = str | int | float | bytes | None  # a tuple's hash can take for ever


@dataclass(frozen=True)
class Stretch:
    """Bytes that stayed in the file; ``text``: as UTF-8 of Latin-1 characters, the way protocol 2 writes bytes."""

    start: int
    length: int
    kind: _Kind


@dataclass(frozen=True)
class StoredArray:
    """An array that lies in a pickle."""

    shape: tuple[int, ...]
    dtype: str
    fortran: bool
    data: "Stretch | bytes"

    def read(self, path: Path | str) -> np.ndarray:
        """The numbers.

        Raises:
            ValueError: there are more or fewer bytes than the shape needs.
        """
        data = self.data
        if isinstance(data, Stretch):
            with Path(path).open("rb") as file:
                file.seek(data.start)
                raw = file.read(data.length)
            try:
                data = _latin(raw.decode("utf-8", "surrogatepass")) if data.kind == "text" else raw
            except UnicodeError as error:
                raise ValueError(f"{path}: an array has damaged bytes ({brief(error)}); fetch the file again") from None
        kind = np.dtype(self.dtype)
        if len(data) != prod(self.shape) * kind.itemsize:
            raise ValueError(f"{path}: an array of shape {self.shape} has {len(data):,} bytes; fetch the file again")
        return np.frombuffer(data, kind).reshape(self.shape, order="F" if self.fortran else "C")


@dataclass
class _Half:
    """An array or a number type whose state has yet to come."""

    name: str
    dtype: str = ""
    built: StoredArray | None = None


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def read_pickle(path: Path | str) -> Any:
    """The containers, numbers, strings and ``StoredArray`` of a pickle.

    Raises:
        ValueError: empty, truncated, or it asks for anything but plain containers and arrays; names the place.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; fetch it again")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        warnings.catch_warnings(action="error"),  # a doubtful escape in a text: damage
    ):
        machine, at = _Machine(), 0
        try:
            for opcode, argument, position in pickletools.genops(cast(IO[bytes], data)):
                at = position or 0
                if opcode.name == "STOP":
                    return machine.result()
                machine.step(opcode.name, argument, at)
        except _Refused as error:
            raise ValueError(f"{path}: {error} (byte {at}); only arrays and plain containers are read") from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, Warning) as error:
            raise ValueError(f"{path}: not a whole pickle ({brief(error)}, byte {at}); fetch it again") from None
    raise ValueError(f"{path}: not a whole pickle (no end); fetch it again")


class _Refused(Exception):  # noqa: N818  (told to the caller as a ValueError)
    pass


class _Machine:
    """The stack, the marks and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            "PROTO": self._nothing, "FRAME": self._nothing, "MARK": self._mark, "POP": self._pop,
            "EMPTY_DICT": lambda _: self.stack.append({}), "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()), "DICT": self._dict, "LIST": self._list,
            "TUPLE": self._tuple, "APPEND": self._append, "APPENDS": self._appends, "SETITEM": self._set_item,
            "SETITEMS": self._set_items, "MEMOIZE": self._memoize, "REDUCE": self._reduce, "BUILD": self._build,
            "STACK_GLOBAL": self._stack_global, "GLOBAL": self._global,
        }  # fmt: skip
        for name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.actions[name] = self._put
        for name in ("GET", "BINGET", "LONG_BINGET"):
            self.actions[name] = self._get

    def step(self, name: str, argument: Any, position: int) -> None:
        if name in _HEADERS:
            self.stack.append(self._literal(name, argument, position))
        elif name in _ATOMS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            size = _TUPLES[name]
            self.stack[-size:] = [tuple(self._top(size))]
        elif name in self.actions:
            self.actions[name](argument)
        else:
            raise _Refused(f"it asks for {name}")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks or isinstance(self.stack[0], _Half):
            raise ValueError("it ends in the middle")
        return self.stack[0]

    def _literal(self, name: str, argument: Any, position: int) -> Any:
        if len(argument) <= _SHORT:
            return bytes(argument) if isinstance(argument, bytearray) else argument
        start = position + 1 + _HEADERS[name]
        text = isinstance(argument, str)
        length = len(argument.encode("utf-8", "surrogatepass")) if text else len(argument)
        return Stretch(start, length, "text" if text else "bytes")

    def _top(self, size: int) -> list[Any]:
        if size > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise ValueError("its stack is too short")
        return self.stack[-size:]

    def _nothing(self, _: Any) -> None:
        pass

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, _: Any) -> None:
        self._top(1)
        self.stack.pop()

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _pairs(self, items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            raise ValueError("a key has no value")
        for key in items[::2]:
            self._of(key, _Key)
        return dict(zip(items[::2], items[1::2], strict=True))

    def _dict(self, _: Any) -> None:
        self.stack.append(self._pairs(self._since_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _append(self, _: Any) -> None:
        target, item = self._top(2)
        self.stack.pop()
        self._of(target, list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._of(self._top(1)[0], list).extend(items)

    def _set_item(self, _: Any) -> None:
        target, key, value = self._top(3)
        del self.stack[-2:]
        self._of(target, dict)[self._of(key, _Key)] = value

    def _set_items(self, _: Any) -> None:
        items = self._since_mark()
        self._of(self._top(1)[0], dict).update(self._pairs(items))

    def _of(self, value: Any, kind: Any) -> Any:
        if not isinstance(value, kind):
            expected = "text or number" if kind is _Key else kind.__name__
            raise ValueError(f"expected a {expected}, found a {type(value).__name__}")  # noqa: TRY004
        return value

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top(1)[0]

    def _put(self, index: Any) -> None:
        self.memo[int(index)] = self._top(1)[0]

    def _get(self, index: Any) -> None:
        value = self.memo[int(index)]
        self.stack.append(value.built if isinstance(value, _Half) and value.built is not None else value)

    def _global(self, argument: Any) -> None:
        self._named(*str(argument).split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        module, name = self._top(2)
        del self.stack[-2:]
        self._named(module, name)

    def _named(self, module: Any, name: Any) -> None:
        if (self._of(module, str), self._of(name, str)) not in _KNOWN:
            raise _Refused(f"it asks for {brief(module[:60])}.{brief(name[:60])}")
        self.stack.append(_Half(_KNOWN[module, name]))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._top(2)
        del self.stack[-2:]
        if not isinstance(function, _Half) or function.dtype or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        self.stack.append(self._call(function.name, arguments))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "_reconstruct":
            return _Half("array")
        if name == "dtype":
            return _Half("number", dtype=_number(arguments[0]))
        if name == "bytes" and all(isinstance(part, (bytes, Stretch)) for part in arguments):
            return arguments[0] if arguments else b""
        if name == "encode" and arguments[1] in ("latin1", "latin-1"):
            return _latin(arguments[0]) if isinstance(arguments[0], str) else arguments[0]
        if name == "scalar" and isinstance(arguments[0], _Half):
            return np.frombuffer(arguments[1], np.dtype(arguments[0].dtype))[0].item()
        if name == "_frombuffer":
            data, kind, shape, order = arguments
            return _array(shape, kind, data, fortran=order == "F")
        raise _Refused(f"it calls {name}")

    def _build(self, _: Any) -> None:
        target, state = self._top(2)
        self.stack.pop()
        if not isinstance(target, _Half) or not isinstance(state, tuple):
            raise _Refused("it sets the state of an object")
        if target.name == "number":
            if state[1] == ">":
                target.dtype = np.dtype(target.dtype).newbyteorder(">").str
            return
        if target.name != "array":
            raise _Refused("it sets the state of an object")
        _, shape, kind, fortran, data = state
        self.stack[-1] = target.built = _array(shape, kind, data, fortran=bool(fortran))


def _number(code: Any) -> str:
    if not isinstance(code, str) or _KIND.fullmatch(code) is None:
        raise _Refused(f"it holds an array of {brief(code[:20]) if isinstance(code, str) else type(code).__name__}")
    return np.dtype(code).str


def _array(shape: Any, kind: Any, data: Any, *, fortran: bool) -> StoredArray:
    if not isinstance(kind, _Half) or not kind.dtype:
        raise _Refused("it holds an array of objects")
    if not isinstance(data, (bytes, Stretch)):
        raise ValueError("an array without bytes")
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or len(sizes) > 8 or prod(max(size, 1) for size in sizes) > _LARGEST_SIZE:
        raise ValueError(f"an array of shape {sizes}")
    need, have = prod(sizes) * np.dtype(kind.dtype).itemsize, data.length if isinstance(data, Stretch) else len(data)
    if have < need or (isinstance(data, bytes) and have != need) or have > 2 * need:
        raise ValueError(f"an array of shape {sizes} with {have} bytes")
    return StoredArray(sizes, kind.dtype, fortran, data)

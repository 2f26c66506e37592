"""One reader per public format; each turns a file into a ``Clip`` or says in one sentence why it cannot."""

from collections.abc import Callable
from pathlib import Path

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.readers.npy import read_npy
from skeleton_llm.skeletons.readers.ntu import ntu_class_names, ntu_facts, ntu_missing, read_ntu
from skeleton_llm.skeletons.readers.nw_ucla import NW_UCLA_CLASSES, nw_ucla_facts, nw_ucla_missing, read_nw_ucla

_READERS: dict[str, Callable[[Path], Clip]] = {".skeleton": read_ntu, ".json": read_nw_ucla, ".npy": read_npy}


def read_clip(path: Path | str) -> Clip:
    """Read a raw file by its suffix: ``.skeleton`` (NTU), ``.json`` (NW-UCLA) or ``.npy``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file that its reader refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: unknown format {path.suffix!r}; expected one of {', '.join(_READERS)}")
    return _READERS[path.suffix](path)


__all__ = [
    "NW_UCLA_CLASSES",
    "ntu_class_names",
    "ntu_facts",
    "ntu_missing",
    "nw_ucla_facts",
    "nw_ucla_missing",
    "read_clip",
    "read_npy",
    "read_ntu",
    "read_nw_ucla",
]

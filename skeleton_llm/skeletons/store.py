"""The prepared dataset on disk: all clips end to end in one memory-mapped array, their facts beside it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import find_layout

COLUMNS = ("offset", "length", "label", "subject", "view", "setup", "replication")
_UNKNOWN = -1
_FILES = ("dataset.json", "clips.json", "frames.npy")


def library_version() -> str:
    """The installed version of skeleton-llm, "0" where it runs uninstalled."""
    try:
        return version("skeleton-llm")
    except PackageNotFoundError:
        return "0"


def check_target(folder: Path | str) -> None:
    """Refuse to replace anything but a prepared dataset.

    Raises:
        ValueError: ``folder`` is a file, or holds other files than a prepared dataset's.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a new or empty folder for the prepared dataset")
    others = sorted(path.name for path in folder.iterdir() if path.name not in _FILES) if folder.exists() else []
    if others:
        raise ValueError(
            f"{folder} holds other files ({others[0]}, ...), which would be lost; give a new or empty folder"
        )


def write_dataset(
    folder: Path | str,
    clips: Iterable[Clip],
    *,
    name: str,
    layout: str,
    class_names: Sequence[str],
    num_persons: int,
    source: str,
    left_out: Sequence[dict[str, str]] = (),
    check: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``clips`` as a prepared dataset and return its description (``dataset.json``).

    Clips are written as they come, into a temporary sibling that is renamed at the end, so ``folder`` is whole or
    absent; an old dataset is replaced. ``check`` sees the finished table and may still raise; ``facts`` join the
    description.

    Raises:
        ValueError: no clip at all, or a clip of another layout, with too many persons, or with an unknown class.
    """
    folder = Path(folder)
    check_target(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        table: dict[str, list[Any]] = {column: [] for column in (*COLUMNS, "source")}
        frames, digest = 0, hashlib.sha256()
        with (temporary / "frames.raw").open("wb") as raw:
            for clip in clips:
                _check(clip, layout, num_persons, class_names)
                joints = np.zeros((len(clip.joints), num_persons, *clip.joints.shape[2:]), dtype="<f4")
                joints[:, : clip.joints.shape[1]] = clip.joints
                data = joints.tobytes()
                raw.write(data)
                digest.update(data)
                row = (
                    frames,
                    len(joints),
                    clip.label,
                    clip.subject,
                    clip.view,
                    clip.setup,
                    clip.replication,
                    clip.source,
                )
                for column, value in zip(table, row, strict=True):
                    table[column].append(value)
                frames += len(joints)
        if frames == 0:
            raise ValueError(f"{source}: no clip could be read, nothing was prepared; check the folder given as --raw")
        if check is not None:
            check(_arrays(table))
        text = json.dumps(table)
        digest.update(text.encode())
        info = {
            "name": name,
            "layout": layout,
            "units": "m",
            "class_names": list(class_names),
            "num_persons": num_persons,
            "num_clips": len(table["source"]),
            "source": source,
            "left_out": list(left_out),
            "content_hash": digest.hexdigest(),
            "library_version": library_version(),
            **facts,
        }
        shape = (frames, num_persons, find_layout(layout).num_joints, 3)
        with (temporary / "frames.npy").open("wb") as file, (temporary / "frames.raw").open("rb") as raw:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(raw, file)
        (temporary / "frames.raw").unlink()
        (temporary / "clips.json").write_text(text)
        (temporary / "dataset.json").write_text(json.dumps(info, indent=1))
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return info


def _arrays(table: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """The columns as int64, -1 where unknown."""
    return {name: np.array([_UNKNOWN if v is None else v for v in table[name]], dtype=np.int64) for name in COLUMNS}


def _check(clip: Clip, layout: str, num_persons: int, class_names: Sequence[str]) -> None:
    if clip.layout != layout:
        raise ValueError(f"{clip.source}: has the layout {clip.layout}, the dataset {layout}; prepare them apart")
    if clip.joints.shape[1] > num_persons:
        raise ValueError(f"{clip.source}: has {clip.joints.shape[1]} persons, the dataset at most {num_persons}")
    if clip.label is not None and not 0 <= clip.label < len(class_names):
        raise ValueError(f"{clip.source}: unknown class {clip.label}; expected 0 to {len(class_names) - 1}")


class PreparedDataset:
    """A prepared folder, opened without reading its frames.

    Attributes:
        frames: [sum T, M, V, 3] float32 metres, memory-mapped.
        table: a column of int64 per fact (``offset``, ``length``, ``label``, ...; -1 where unknown).
        sources: the raw file of each clip.
        info: what ``dataset.json`` says.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        """See ``open``."""
        self.folder = folder
        self.info = info
        columns = json.loads((folder / "clips.json").read_text())
        self.sources: list[str] = columns["source"]
        self.table = _arrays(columns)
        # "c": pages stay shared by ranks and workers, and torch may wrap them (it refuses read-only arrays)
        self.frames: np.ndarray = np.load(folder / "frames.npy", mmap_mode="c")

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers open the folder again rather than being sent its frames."""
        return PreparedDataset.open, (self.folder,)

    @classmethod
    def open(cls, folder: Path | str) -> "PreparedDataset":
        """Open ``folder``.

        Raises:
            FileNotFoundError: the folder or one of its files is absent.
            ValueError: a file is damaged.
        """
        folder = Path(folder)
        for name in _FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing, so {folder} is no prepared dataset;"
                    f' run "make prepare DATA={folder.name} RAW=..." or "skeleton-llm prepare --help"'
                )
        try:
            info = json.loads((folder / "dataset.json").read_text())
            data = cls(folder, info)
            whole = len(data.frames) == data.table["offset"][-1] + data.table["length"][-1]
            if (
                not whole
                or len(data) != info["num_clips"]
                or not {"name", "layout", "class_names", "num_persons"} <= info.keys()
            ):
                raise ValueError("its files do not belong together")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: a damaged prepared dataset ({error}); prepare it again") from error
        return data

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.sources)

    def clip(self, index: int) -> Clip:
        """The clip in row ``index``, copied out of the map."""
        row = {name: int(column[index]) for name, column in self.table.items()}
        facts = {name: None if row[name] == _UNKNOWN else row[name] for name in COLUMNS[2:]}
        joints = np.array(self.frames[row["offset"] : row["offset"] + row["length"]])
        return Clip(joints, self.info["layout"], source=self.sources[index], **facts)

"""Writing a prepared dataset so that an interruption costs nothing and a half-written folder is never taken for one.

The clips go one after the other into ``.NAME.part`` beside the target; a journal says after each batch what is safe.
The same plan continues after the last batch whose bytes are whole; the folder gets its name when everything is there.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import find_layout
from skeleton_llm.skeletons.table import ClipTable, LeftOut, Table, content_hash, digest_of, pack

FILES = ("dataset.json", "clips.json", "frames.npy")
_PARTS = ("plan.json", "journal.jsonl", "frames.npy", "clips.json", "dataset.json")
_HEADER = 128  # bytes kept for the array's header, which is written last


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
    _restore(folder)
    known = {*FILES, *_PARTS}
    others = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.exists() else []
    if others:
        raise ValueError(
            f"{folder} holds other files ({others[0]}, ...), which would be lost; give a new or empty folder"
        )


class DatasetWriter:
    """One prepared dataset in the making; a context that leaves its ``.part`` folder behind for the next try.

    Attributes:
        table: what is safe so far; its ``done`` are the raw items that an interrupted try has dealt with already.
    """

    def __init__(self, folder: Path | str, *, layout: str, num_persons: int, plan: Mapping[str, Any] | None) -> None:
        """Open the ``.part`` folder; without a ``plan``, or with another one than it was begun with, it starts anew.

        Raises:
            ValueError: the target must not be replaced, or another process is writing it.
        """
        self.folder = Path(folder)
        check_target(self.folder)
        self.layout, self.num_persons = layout, num_persons
        self.part = self.folder.with_name(f".{self.folder.name}.part")
        self.part.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.part, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise ValueError(f"{self.part}: another process is preparing {self.folder}; wait for it") from None
        self.shape = (num_persons, find_layout(layout).num_joints, 3)
        self.table = ClipTable()
        self._begin(json.dumps(plan, sort_keys=True) if plan is not None else "")
        self.data = (self.part / "frames.npy").open("r+b")
        self.data.seek(0, os.SEEK_END)
        self.journal = (self.part / "journal.jsonl").open("a")

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.data.close()
        self.journal.close()
        os.close(self.lock)

    def _begin(self, plan: str) -> None:
        """Take up what is safe of an interrupted try with the same plan, else empty the folder."""
        same = plan and (self.part / "plan.json").is_file() and (self.part / "plan.json").read_text() == plan
        if same and all((self.part / name).is_file() for name in ("journal.jsonl", "frames.npy")):
            self._recover()
            return
        for path in self.part.iterdir():
            path.unlink()
        (self.part / "frames.npy").write_bytes(bytes(_HEADER))
        (self.part / "journal.jsonl").touch()
        (self.part / "plan.json").write_text(plan)

    def _recover(self) -> None:
        lines, safe = (self.part / "journal.jsonl").read_bytes().splitlines(keepends=True), 0
        with (self.part / "frames.npy").open("r+b") as data:
            data.seek(_HEADER)
            for line in lines:
                try:
                    batch = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    batch = None
                if batch is None or any(
                    digest_of(data.read(row["length"] * self._frame_bytes)) != row["digest"] for row in batch["rows"]
                ):
                    break
                self.table.take(**batch)
                safe += len(line)
            data.truncate(_HEADER + self.table.frames * self._frame_bytes)
        with (self.part / "journal.jsonl").open("r+b") as journal:
            journal.truncate(safe)

    @property
    def _frame_bytes(self) -> int:
        return 4 * prod(self.shape)

    def add(self, clips: Iterable[Clip], left_out: Sequence[LeftOut] = (), *, items: int = 0) -> None:
        """Write a batch: good clips, what was left out, and how many raw items these were.

        Raises:
            ValueError: a clip of another layout or with too many persons.
            OSError: the disk is full; the batches before are safe.
        """
        packed = [pack(clip, self.layout, self.num_persons) for clip in clips]
        for _, data in packed:
            self.data.write(data)
        self.data.flush()
        batch: dict[str, Any] = {"items": items, "rows": [row for row, _ in packed], "left_out": list(left_out)}
        self.journal.write(json.dumps(batch) + "\n")
        self.journal.flush()
        self.table.take(**batch)

    def finish(self, name: str, class_names: Sequence[str], source: str, **facts: Any) -> dict[str, Any]:
        """Write the description, sync, and give the folder its name; an old dataset there is replaced.

        Raises:
            ValueError: no clip at all, or a clip with an unknown class.
        """
        if self.table.frames == 0:
            raise ValueError(f"{source}: no clip could be read, nothing was prepared; check the folder given as --raw")
        self.table.check_labels(len(class_names))
        text = self.table.text()
        info = {
            "name": name,
            "layout": self.layout,
            "layout_definition": find_layout(self.layout).to_mapping(),
            "units": "half image widths" if find_layout(self.layout).planar else "m",
            "class_names": list(class_names),
            "num_persons": self.num_persons,
            "num_clips": len(self.table),
            "source": source,
            "left_out": self.table.left_out,
            "content_hash": content_hash(text),
            "library_version": library_version(),
            **facts,
        }
        self.data.seek(0)
        self.data.write(_npy_header((self.table.frames, *self.shape)))
        self.data.flush()
        (self.part / "clips.json").write_text(text)
        (self.part / "dataset.json").write_text(json.dumps(info, indent=1))
        for file in ("frames.npy", "clips.json", "dataset.json"):
            with (self.part / file).open("rb") as opened:
                os.fsync(opened.fileno())
        _replace(self.part, self.folder)
        for file in ("journal.jsonl", "plan.json"):
            (self.folder / file).unlink()
        return info


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """NumPy's header, version 1.0, padded to the bytes that were kept for it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    assert len(text) < _HEADER - 10
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11) + b"\n"


def _restore(folder: Path) -> None:
    """Give an old dataset its name back where a kill came between its going and the new one's coming."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def _replace(new: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_dataset(
    folder: Path | str,
    clips: Iterable[Clip],
    *,
    name: str,
    layout: str,
    class_names: Sequence[str],
    num_persons: int,
    source: str,
    check: Callable[[Table], None] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``clips`` in one go and return the description (``dataset.json``).

    ``check`` sees the finished table and may still raise; ``facts`` join the description.

    Raises:
        ValueError: no clip at all, or a clip of another layout, with too many persons, or with an unknown class.
    """
    with DatasetWriter(folder, layout=layout, num_persons=num_persons, plan=None) as writer:
        try:
            for clip in clips:
                writer.add([clip])
            if check is not None and len(writer.table):
                check(writer.table.columns())
            return writer.finish(name, class_names, source, **facts)
        except BaseException:
            shutil.rmtree(writer.part, ignore_errors=True)
            raise

"""The prepared dataset on disk: all clips end to end in one memory-mapped array, their facts beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import register_layout
from skeleton_llm.skeletons.table import COLUMNS, UNKNOWN, columns_of
from skeleton_llm.skeletons.writer import FILES


class PreparedDataset:
    """A prepared folder, opened without reading its frames.

    Attributes:
        frames: [sum T, M, V, 3] float32 metres, memory-mapped.
        table: a column of int64 per fact (``offset``, ``length``, ``label``, ...; -1 where unknown), and one per
            protocol whose halves came with the data (``test:NAME``: 0 training, 1 test, -1 neither).
        sources: the name of each clip's raw file. digests: the fingerprint of each clip's frames.
        info: what ``dataset.json`` says.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        """See ``open``."""
        self.folder = folder
        self.info = info
        columns = json.loads((folder / "clips.json").read_text())
        self.sources: list[str] = columns["source"]
        self.digests: list[str] = columns["digest"]
        self.table = columns_of(columns)
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
        for name in FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing, so {folder} is no prepared dataset;"
                    f' run "make prepare DATA={folder.name} RAW=..." or "skeleton-llm prepare --help"'
                )
        try:
            info = json.loads((folder / "dataset.json").read_text())
            register_layout(info["layout_definition"])
            data = cls(folder, info)
            whole = len(data.frames) == data.table["offset"][-1] + data.table["length"][-1]
            if (
                not whole
                or len(data) != info["num_clips"]
                or not {"name", "layout", "class_names", "num_persons"} <= info.keys()
            ):
                raise ValueError("its files do not belong together")
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: a damaged prepared dataset ({error}); prepare it again") from error
        return data

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.sources)

    def clip(self, index: int) -> Clip:
        """The clip in row ``index``, copied out of the map."""
        row = {name: int(column[index]) for name, column in self.table.items()}
        facts: dict[str, Any] = {name: None if row[name] == UNKNOWN else row[name] for name in COLUMNS[2:]}
        joints = np.array(self.frames[row["offset"] : row["offset"] + row["length"]])
        return Clip(joints, self.info["layout"], source=self.sources[index], limit=np.inf, **facts)

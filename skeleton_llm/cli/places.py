"""Where clips to recognise lie: files, folders, patterns and prepared datasets, found before any is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skeleton_llm.skeletons import Clip, PreparedDataset, find_protocol
from skeleton_llm.skeletons.readers.raw_file import split_name

if TYPE_CHECKING:
    from skeleton_llm.recognizer import Recognizer

_SUFFIXES = (".skeleton", ".json", ".mat", ".txt", ".npy", ".csv")  # of one clip a file


@dataclass(frozen=True)
class Place:
    """One clip: a raw file, or a row of a prepared dataset."""

    name: str
    data: PreparedDataset | None = None
    row: int = 0

    @property
    def truth(self) -> str | None:
        """The name of its action, where the dataset tells it."""
        if self.data is None or (label := int(self.data.table["label"][self.row])) < 0:
            return None
        return str(self.data.info["class_names"][label])

    def read(self, recognizer: "Recognizer") -> Clip:
        """The clip itself."""
        return recognizer.read(self.name) if self.data is None else self.data.clip(self.row)


def find_places(given: str, split: str | None = None, protocol: str | None = None) -> list[Place]:
    """The clips that one argument stands for.

    Args:
        given: a raw file, FILE#CLIP, a folder of raw files, a pattern, or a prepared dataset's folder.
        split: of a prepared dataset only its ``train`` or ``test`` clips by ``protocol``.
        protocol: who trains and who tests.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a split of what has none.
    """
    path, inside = split_name(given)
    if inside is None and (path / "dataset.json").is_file():
        return _rows(path, split, protocol)
    if split is not None:
        raise ValueError(f"{given}: only a prepared dataset has a --split, and here is no {path / 'dataset.json'}")
    if path.is_dir() and inside is None:
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
        if not files:
            raise FileNotFoundError(f"{given}: holds no skeleton file ({', '.join(_SUFFIXES)}); name another folder")
        return [Place(str(file)) for file in files]
    if not path.exists() and any(sign in given for sign in "*?["):
        root = Path(Path(given).anchor)
        files = sorted(file for file in root.glob(str(Path(given).relative_to(root))) if file.is_file())
        if not files:
            raise FileNotFoundError(f"{given}: no file matches; a pattern such as 'clips/**/*.npy' goes in quotes")
        return [Place(str(file)) for file in files]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return [Place(given)]


def _rows(folder: Path, split: str | None, protocol: str | None) -> list[Place]:
    data = PreparedDataset.open(folder)
    rows: list[int] = list(range(len(data)))
    if split is not None:
        train, test = find_protocol(protocol or "", data.info["name"]).split(data.table)
        rows = (train if split == "train" else test).tolist()
    if not rows:
        raise ValueError(f"{folder}: has no {split} clips by {protocol}; take another split or prepare the rest")
    return [Place(f"{folder}#{data.sources[row]}", data, row) for row in rows]

"""What a dataset is shown to hold: the sizes of its splits beside the published ones, and what is wrong with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from skeleton_llm.skeletons.protocols import PROTOCOLS, Protocol, check_published
from skeleton_llm.skeletons.sources import SOURCES
from skeleton_llm.skeletons.table import COLUMNS, ClipTable, LeftOut, Table

_SHOWN = 8


class Half(NamedTuple):
    """Clips of a half, and raw files that are missing from it: on the dataset's list, or bad."""

    clips: int
    listed: int
    bad: int


@dataclass(frozen=True)
class SplitProof:
    """One protocol's halves beside the published sizes; ``problem`` says in a sentence what does not fit.

    An inner protocol, whose sizes nobody published, has those counted in the training half of ``inner_of``.
    """

    protocol: str
    training: Half
    test: Half
    published: tuple[int, ...] | None
    problem: str | None
    missing: list[str] = field(default_factory=list)
    inner_of: str | None = None

    def __str__(self) -> str:
        halves = (("training", self.training), ("test", self.test))
        said = ", ".join(
            f"{half.clips:,} {name} clips (left out: {half.listed:,} listed, {half.bad:,} bad)" for name, half in halves
        )
        if self.problem is not None:
            return f"{self.protocol}: {said}"
        if self.inner_of is not None:
            return f"{self.protocol}: {said}, as counted in the training half of {self.inner_of}"
        return f"{self.protocol}: {said}{', as published' if self.published else '; no published size to compare with'}"


def enumerate_missing(missing: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    return "; ".join(missing[:_SHOWN]) + more


def prove_splits(dataset: str, clips: Table, names: Sequence[str], left_out: Sequence[LeftOut]) -> list[SplitProof]:
    """Every protocol of ``dataset`` that its facts allow."""
    return [_prove(protocol, clips, names, left_out) for protocol in fitting_protocols(dataset, clips)]


def fitting_protocols(dataset: str, clips: Table) -> list[Protocol]:
    """The protocols of ``dataset`` that the facts of its clips allow."""
    return [p for p in PROTOCOLS.values() if p.dataset == dataset and p.can_split(clips)]


def _prove(protocol: Protocol, clips: Table, names: Sequence[str], left_out: Sequence[LeftOut]) -> SplitProof:
    train, test = (len(rows) for rows in protocol.split(clips))
    listed, bad = count_left_out(protocol, left_out, "listed"), count_left_out(protocol, left_out, "bad")
    problem, missing = None, []
    try:
        check_published(protocol, train, test, left_out={protocol.name: bad})
    except ValueError as error:
        source = SOURCES.get(protocol.dataset)
        missing = source.missing(clips, [*names, *(entry["file"] for entry in left_out)]) if source else []
        problem = f"{error}{'; missing: ' if missing else ''}{enumerate_missing(missing)}"
    published = None if protocol.inner_of else protocol.published or ((protocol.total,) if protocol.total else None)
    halves = (Half(train, listed[0], bad[0]), Half(test, listed[1], bad[1]))
    return SplitProof(protocol.name, *halves, published, problem, missing, protocol.inner_of)


def count_left_out(protocol: Protocol, left_out: Sequence[LeftOut], kind: str) -> tuple[int, int]:
    """How many raw files of ``kind`` are missing from the training and from the test half, by their names."""
    known = [entry["facts"] for entry in left_out if entry["kind"] == kind and entry["facts"]]
    columns = {*COLUMNS[2:], *(name for facts in known for name in facts)}
    table = {name: np.array([facts.get(name, -1) for facts in known], dtype=np.int64) for name in columns}
    if not known or not protocol.can_split(table):
        return 0, 0
    train, test = protocol.split(table)
    return len(train), len(test)


@dataclass
class Report:
    """What ``skeleton-llm doctor`` found.

    Attributes:
        kind: raw or prepared. problems: one sentence for each thing that is wrong; empty for a healthy dataset.
        notices: what a user should know though the published data are so.
        classes: for each class name the clips in all, and in the halves of the first protocol.
        bad, listed: raw files that cannot be used, with the reason (file and place), and those on the official list.
        duplicates: names of clips whose joints are the same, bit for bit.
        content_hash: fingerprint of all clips, the same for a raw folder and for what ``prepare`` makes of it.
        bytes: size of the prepared dataset; free_bytes: room on the disk.
    """

    path: str
    kind: str
    dataset: str
    form: str
    layout: str
    clips: int = 0
    frames: int = 0
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    splits: list[SplitProof] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    listed: int = 0
    duplicates: list[list[str]] = field(default_factory=list)
    content_hash: str = ""
    bytes: int = 0
    free_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_mapping(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        splits = [
            {**asdict(split), "training": split.training._asdict(), "test": split.test._asdict()}
            for split in self.splits
        ]
        return {**asdict(self), "splits": splits, "healthy": self.healthy}

    def fill(
        self,
        clips: Table,
        names: Sequence[str],
        digests: Sequence[str],
        class_names: Sequence[str],
        left_out: Sequence[LeftOut],
    ) -> None:
        """Everything that rows and left-out files tell."""
        self.clips, self.frames = len(names), int(clips["length"].sum())
        self.splits = prove_splits(self.dataset, clips, names, left_out)
        self.classes = _by_class(self.dataset, clips, class_names)
        self.bad = [{"file": e["file"], "why": e["why"]} for e in left_out if e["kind"] == "bad"]
        self.listed = sum(entry["kind"] == "listed" for entry in left_out)
        owners: dict[str, list[int]] = {}
        for row, digest in enumerate(digests):
            owners.setdefault(digest, []).append(row)
        repeated = [rows for rows in owners.values() if len(rows) > 1]
        self.duplicates = [[names[row] for row in rows] for rows in repeated]
        self.problems += [split.problem for split in self.splits if split.problem]
        if self.bad:
            self.problems.append(f"{len(self.bad):,} files cannot be used; mend them or fetch them again")
        if repeated:
            self.notices.append(f"{sum(len(rows) - 1 for rows in repeated):,} clips repeat the joints of another clip")
        for protocol in fitting_protocols(self.dataset, clips):
            leaked = len(seen_in_training(digests, *protocol.split(clips)))
            if leaked:
                self.notices.append(f"{protocol.name}: {leaked:,} test clips have the very joints of a training clip")


def seen_in_training(digests: Sequence[str], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The rows of ``test`` whose clip has the very joints of a clip of ``train``, by the clips' digests."""
    known = {digests[row] for row in train.tolist()}
    return np.array([row for row in test.tolist() if digests[row] in known], dtype=np.int64)


def _by_class(dataset: str, clips: Table, class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    protocols = fitting_protocols(dataset, clips)
    halves = protocols[0].split(clips) if protocols else ()
    counts = {"all": Counter(clips["label"].tolist())}
    for name, rows in zip(("training", "test"), halves, strict=False):
        counts[name] = Counter(clips["label"][rows].tolist())
    return {name: {half: of[label] for half, of in counts.items()} for label, name in enumerate(class_names)}


def facts_of(table: ClipTable) -> tuple[Mapping[str, np.ndarray], list[str], list[str]]:
    """Number columns, names and digests."""
    return table.columns(), table.rows["source"], table.rows["digest"]

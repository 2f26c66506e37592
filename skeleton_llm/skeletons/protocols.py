"""Who trains and who tests: the published evaluation protocols, with the sizes of their splits, and inner ones.

Sources: Shahroudy et al. 2016 and Liu et al. 2020 (NTU RGB+D), Wang et al. 2014 (NW-UCLA), Chen et al. 2015 (UTD-MHAD),
Das et al. 2019 (Toyota Smarthome), Li et al. 2021 (UAV-Human), Liu et al. 2017 (PKU-MMD), Qu et al. 2024 (LLM-AR's
unseen classes), Gupta et al. 2021 (SynSE's unseen classes). Sizes are those after NTU's lists of missing skeletons.

An inner protocol, of our own, parts a published training half once more: recipes are chosen by its test, so that the
published test is read once, when nothing is to be chosen any more.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import numpy as np

from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.readers.smarthome import CV_CLASSES

Table = Mapping[str, np.ndarray]

_NTU60_TRAIN = [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
_NTU120_TRAIN = [
    *_NTU60_TRAIN, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91,
    92, 93, 94, 95, 97, 98, 100, 103,
]  # fmt: skip
_SMARTHOME_TRAIN = [3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25]
_UAV_V1_TEST = [
    1, 3, 4, 9, 22, 23, 24, 31, 41, 54, 58, 60, 66, 72, 74, 75, 91, 92, 93, 94, 95, 96, 97, 99, 101, 104, 107, 108, 109,
    113,
]  # fmt: skip
_UAV_V2_TEST = [
    1, 2, 7, 9, 13, 15, 17, 23, 25, 27, 28, 33, 34, 41, 42, 48, 50, 51, 53, 55, 58, 65, 68, 76, 82, 85, 90, 98, 105,
    116,
]  # fmt: skip
SYNTHETIC_TEST = [3, 6, 9, 12, 15, 18]
_TRAIN, _TEST, _NEITHER = 0, 1, -1
Rule = Callable[[Table], np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """A rule that parts a dataset's clips into training and test.

    Attributes:
        halves: for each clip 0 (training), 1 (test) or -1 (neither), from the columns that ``needs`` names; None where
            the data bring their halves (columns ``test:NAME``), which go before a rule in any case.
        published: sizes that the split must have; ``total`` the size of both together where only that is published.
            Those of an inner protocol are counted in the published training half.
        classes: the only classes that count, as labels of the dataset in the protocol's order; None for all.
        inner_of: the published protocol whose training half this one parts; None for a published one.
    """

    name: str
    dataset: str
    halves: Rule | None = None
    needs: tuple[str, ...] = ()
    published: tuple[int, int] | None = None
    total: int | None = None
    classes: tuple[int, ...] | None = None
    inner_of: str | None = None

    def split(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training and of the test clips.

        Raises:
            ValueError: the data tell neither the halves nor what the rule needs.
        """
        half = table.get(f"test:{self.name}")
        if half is None:
            unknown = [column for column in self.needs if (table[column] < 0).any()]
            if self.halves is None or unknown:
                lack = f"the {unknown[0]} of each clip" if unknown else "the split"
                raise ValueError(f"{self.name}: these data do not tell {lack}; prepare them from files that do")
            half = self.halves(table)
        if self.classes is not None:
            half = np.where(np.isin(table["label"], self.classes), half, _NEITHER)
        return np.flatnonzero(half == _TRAIN), np.flatnonzero(half == _TEST)

    def can_split(self, table: Table) -> bool:
        """Whether the data tell what the protocol needs."""
        try:
            self.split(table)
        except ValueError:
            return False
        return True


def _by(column: str, *, train: list[int] | None = None, test: list[int] | None = None) -> Rule:
    """Training and test by the values of a column; where one of the lists is absent, it is all the rest."""
    return partial(_halves_by, column, train, test)


def _halves_by(column: str, train: list[int] | None, test: list[int] | None, table: Table) -> np.ndarray:
    values = table[column]
    trains = np.isin(values, train) if train is not None else ~np.isin(values, test or [])
    tests = np.isin(values, test) if test is not None else ~trains
    return np.where(trains, _TRAIN, np.where(tests, _TEST, _NEITHER))


def _rule(name: str, dataset: str, column: str, sizes: tuple[int, int] | None = None, **more: list[int]) -> Protocol:
    return Protocol(name, dataset, _by(column, **more), (column,), sizes)


def _inner(name: str, outer: str, dataset: str, column: str, sizes: tuple[int, int], **halves: list[int]) -> Protocol:
    return replace(_rule(name, dataset, column, sizes, **halves), inner_of=outer)


_CV = tuple(list(class_names("smarthome")).index(activity) for activity in CV_CLASSES)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _rule("synthetic_xsub", "synthetic", "subject", test=SYNTHETIC_TEST),
        _rule("nw_ucla_xview", "nw_ucla", "view", (1020, 464), test=[3]),
        _inner("nw_ucla_inner", "nw_ucla_xview", "nw_ucla", "view", (516, 504), train=[1], test=[2]),
        _rule("utd_mhad_xsub", "utd_mhad", "subject", (431, 430), train=[1, 3, 5, 7]),
        _inner("utd_mhad_inner", "utd_mhad_xsub", "utd_mhad", "subject", (323, 108), train=[1, 3, 5], test=[7]),
        _rule("ntu60_xsub", "ntu60", "subject", (40091, 16487), train=_NTU60_TRAIN),
        _rule("ntu60_xview", "ntu60", "view", (37646, 18932), test=[1]),
        _rule("ntu120_xsub", "ntu120", "subject", (63026, 50919), train=_NTU120_TRAIN),
        _rule("ntu120_xset", "ntu120", "setup", (54468, 59477), test=list(range(1, 33, 2))),
        Protocol("smarthome_cs", "smarthome", _by("subject", train=_SMARTHOME_TRAIN), ("subject",), total=16115),
        Protocol("smarthome_cv1", "smarthome", _by("view", train=[1], test=[2]), ("view",), classes=_CV),
        Protocol("smarthome_cv2", "smarthome", _by("view", train=[1, 3, 4, 6, 7], test=[2]), ("view",), classes=_CV),
        _rule("uav_human_csv1", "uav_human", "subject", test=_UAV_V1_TEST),
        _rule("uav_human_csv2", "uav_human", "subject", test=_UAV_V2_TEST),
        Protocol("pku_mmd1_xsub", "pku_mmd1", total=21545),
        Protocol("pku_mmd1_xview", "pku_mmd1", total=21545),
        Protocol("pku_mmd2_xsub", "pku_mmd2"),
        Protocol("pku_mmd2_xview", "pku_mmd2"),
        Protocol("own", "own"),
    )
}

_SYNSE = {  # 0-based labels of SynSE's unseen classes, as the zero-shot literature has used them since
    "55/5": ("ntu60", (10, 11, 19, 26, 56)),
    "48/12": ("ntu60", (3, 5, 9, 12, 15, 40, 42, 47, 51, 56, 58, 59)),
    "110/10": ("ntu120", (4, 13, 37, 43, 49, 65, 88, 95, 99, 106)),
    "96/24": ("ntu120", (5, 9, 11, 16, 18, 20, 22, 29, 35, 39, 45, 49, 59, 68, 70, 81, 84, 87, 93, 94, 104, 113, 114,
                         119)),
}  # fmt: skip
_DRAW = re.compile(r"draw([0-4])")
_DRAWN = 3


def unseen_classes(name: str, dataset: str, num_classes: int) -> tuple[int, ...]:
    """Labels (0-based, rising) of the classes that a zero-shot split keeps out of training.

    ``draw0`` to ``draw4``: LLM-AR's protocol, 3 classes drawn by that seed: those whose SHA-256 of "SEED LABEL" comes
    first, which no version of a random generator can change.
    ``55/5``, ``48/12`` (NTU 60), ``110/10``, ``96/24`` (NTU 120): SynSE's published classes.

    Raises:
        ValueError: unknown, of another dataset, or too few classes.
    """
    if (match := _DRAW.fullmatch(name)) is not None:
        if num_classes <= _DRAWN:
            raise ValueError(f"unseen {name} draws {_DRAWN} classes; {dataset} has {num_classes}")
        by_hash = sorted(range(num_classes), key=lambda label: sha256(f"{match[1]} {label}".encode()).digest())
        return tuple(sorted(by_hash[:_DRAWN]))
    known = [split for split, (of, _) in _SYNSE.items() if of == dataset]
    if name not in known:
        raise ValueError(
            f"unknown zero-shot split {name!r} of {dataset}; expected one of {', '.join(['draw0 to draw4', *known])}"
        )
    return _SYNSE[name][1]


def find_protocol(name: str, dataset: str) -> Protocol:
    """The protocol called ``name``, which must belong to ``dataset``.

    Raises:
        ValueError: unknown, or another dataset's.
    """
    known = [p.name for p in PROTOCOLS.values() if p.dataset == dataset]
    if name not in known:
        raise ValueError(
            f"protocol {name!r} does not fit the dataset {dataset!r}; expected one of {', '.join(known) or 'none'}"
        )
    return PROTOCOLS[name]


def check_published(
    protocol: Protocol, train: int, test: int, *, left_out: Mapping[str, tuple[int, int] | list[int]] | None = None
) -> None:
    """Compare the sizes of a split with those it must have, less the bad files of each half that the user accepted.

    Raises:
        ValueError: they differ.
    """
    bad = (left_out or {}).get(protocol.name, (0, 0))
    whole = (train + bad[0], test + bad[1])
    if protocol.published is not None and whole != protocol.published:
        expected = "{:,} / {:,} training and test clips".format(*protocol.published)
    elif protocol.total is not None and sum(whole) != protocol.total:
        expected = f"{protocol.total:,} clips"
    else:
        return
    raise ValueError(
        f"{protocol.name} must have {expected}, found {train:,} / {test:,};"
        " get the rest, or accept a part of the dataset with --partial (data.init_args.partial: true)"
    )


def carve_validation(table: Table, train: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole subjects taken out of the training rows until they hold at least ``fraction`` of them.

    Data that do not tell the subjects give whole recordings (column ``setup``) instead, data that do not tell these
    either the last rows of each class (CTR-GCN's arrays are ordered by subject or camera).

    Returns:
        the remaining training rows and the validation rows; never a test row.

    Raises:
        ValueError: fewer than two training subjects, or a fraction outside [0, 0.5].
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"val_fraction must lie between 0 and 0.5, got {fraction}")
    if fraction == 0:
        return train, train[:0]
    known = [name for name in ("subject", "setup") if name in table and (table[name][train] >= 0).all()]
    if not known:
        held = np.zeros(len(train), dtype=bool)
        for label in np.unique(table["label"][train]):
            rows = np.flatnonzero(table["label"][train] == label)
            held[rows[len(rows) - int(np.ceil(fraction * len(rows))) :]] = len(rows) > 1
        return train[~held], train[held]
    groups = table[known[0]][train]
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError(f"a validation split needs at least 2 training {known[0]}s, found {len(names)}")
    held = np.zeros(len(train), dtype=bool)
    for name in np.random.default_rng(seed).permutation(names)[:-1]:
        held |= groups == name
        if held.sum() >= fraction * len(train):
            break
    return train[~held], train[held]

"""Who trains and who tests: the published evaluation protocols, with the sizes of their splits.

Sources: Shahroudy et al. 2016 and Liu et al. 2020 (NTU RGB+D), Wang et al. 2014 (NW-UCLA); counts after the official
lists of missing skeletons.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

Table = Mapping[str, np.ndarray]

_NTU60_TRAIN = [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
_NTU120_TRAIN = [
    *_NTU60_TRAIN, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91,
    92, 93, 94, 95, 97, 98, 100, 103,
]  # fmt: skip
SYNTHETIC_TEST = [3, 6, 9, 12, 15, 18]


@dataclass(frozen=True)
class Protocol:
    """A rule that parts a dataset's clips into training and test; ``published`` are the sizes it must give."""

    name: str
    dataset: str
    is_test: Callable[[Table], np.ndarray]
    published: tuple[int, int] | None = None

    def split(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training and of the test clips."""
        test = self.is_test(table)
        return np.flatnonzero(~test), np.flatnonzero(test)


def _tests(column: str, values: list[int]) -> Callable[[Table], np.ndarray]:
    return partial(_is_in, column, values)


def _trains(column: str, values: list[int]) -> Callable[[Table], np.ndarray]:
    return partial(_is_not_in, column, values)


def _is_in(column: str, values: list[int], table: Table) -> np.ndarray:
    return np.isin(table[column], values)


def _is_not_in(column: str, values: list[int], table: Table) -> np.ndarray:
    return ~np.isin(table[column], values)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("synthetic_xsub", "synthetic", _tests("subject", SYNTHETIC_TEST)),
        Protocol("nw_ucla_xview", "nw_ucla", _tests("view", [3]), (1020, 464)),
        Protocol("ntu60_xsub", "ntu60", _trains("subject", _NTU60_TRAIN), (40091, 16487)),
        Protocol("ntu60_xview", "ntu60", _tests("view", [1]), (37646, 18932)),
        Protocol("ntu120_xsub", "ntu120", _trains("subject", _NTU120_TRAIN), (63026, 50919)),
        Protocol("ntu120_xset", "ntu120", _tests("setup", list(range(1, 33, 2))), (54468, 59477)),
    )
}


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
    """Compare the sizes of a split with the published ones, less the bad files of each half that the user accepted.

    Raises:
        ValueError: they differ.
    """
    bad = (left_out or {}).get(protocol.name, (0, 0))
    if protocol.published is not None and (train + bad[0], test + bad[1]) != protocol.published:
        expected = "{:,} / {:,}".format(*protocol.published)
        raise ValueError(
            f"{protocol.name} must have {expected} training and test clips, found {train:,} / {test:,};"
            " get the rest, or accept a part of the dataset with --partial (data.init_args.partial: true)"
        )


def carve_validation(table: Table, train: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole subjects taken out of the training rows until they hold at least ``fraction`` of them.

    Returns:
        the remaining training rows and the validation rows; never a test row.

    Raises:
        ValueError: fewer than two training subjects, or a fraction outside [0, 0.5].
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"val_fraction must lie between 0 and 0.5, got {fraction}")
    if fraction == 0:
        return train, train[:0]
    subjects = np.unique(table["subject"][train])
    if len(subjects) < 2:
        raise ValueError(f"a validation split needs at least 2 training subjects, found {len(subjects)}")
    held = np.zeros(len(train), dtype=bool)
    for subject in np.random.default_rng(seed).permutation(subjects)[:-1]:
        held |= table["subject"][train] == subject
        if held.sum() >= fraction * len(train):
            break
    return train[~held], train[held]

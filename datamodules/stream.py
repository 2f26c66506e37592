"""The order of training: batch k of a run is a pure function of (seed, k), so a resumed run needs no saved order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]


class Stream(Sampler[list[Key]]):
    """Batches ``start`` to ``horizon`` of an endless shuffled stream; an item's key is (pass, index).

    Every pass is shuffled by itself; its last, incomplete global batch is dropped (the next pass brings others). Rank r
    of ``world`` takes the r-th part of each global batch of ``batch_size * world`` clips.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, start: int, horizon: int, rank: int = 0, world: int = 1
    ) -> None:
        """Refuse a batch that the training split cannot fill.

        Raises:
            ValueError: a global batch is larger than the training split.
        """
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.horizon, self.rank, self.world = start, horizon, rank, world
        self.per_pass = size // (batch_size * world)
        if self.per_pass == 0:
            raise ValueError(
                f"a batch of {batch_size} clips on {world} ranks is larger than the training split of {size} clips;"
                " lower data.init_args.batch_size"
            )

    def __len__(self) -> int:
        """Batches of the whole run: Lightning counts the restored ones too."""
        return self.horizon

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each batch."""
        order, current = np.empty(0, dtype=np.int64), -1
        for batch in range(self.start, self.horizon):
            turn, place = divmod(batch, self.per_pass)
            if turn != current:
                order, current = np.random.default_rng([self.seed, turn]).permutation(self.size), turn
            first = (place * self.world + self.rank) * self.batch_size
            yield [(turn, int(i)) for i in order[first : first + self.batch_size]]


class Shard(Sampler[list[Key]]):
    """Every clip exactly once over all ranks, in order, without augmentation (pass -1).

    A rank that is left without clips has one empty batch: Lightning would skip its loop, and the others would wait for
    it at the metrics for ever.
    """

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.indices = list(range(rank, size, world))
        self.least = min(size, 1)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of this rank."""
        return max(-(-len(self.indices) // self.batch_size), self.least)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each batch."""
        for first in range(0, max(len(self.indices), self.least), self.batch_size):
            yield [(-1, i) for i in self.indices[first : first + self.batch_size]]

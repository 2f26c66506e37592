"""The order of training: batch k of a run is a pure function of (seed, k), so a resumed run needs no saved order."""

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
_POOL = 50  # global batches whose items are sorted together


class Stream(Sampler[list[Key]]):
    """Batches ``start`` to ``horizon`` of an endless shuffled stream; an item's key is (pass, index).

    Every pass is shuffled by itself; its last, incomplete global batch is dropped (the next pass brings others). Rank r
    of ``world`` takes the r-th part of each global batch of ``batch_size * world`` clips.

    With ``lengths`` of the items, batches are of items of like length: of every 50 shuffled global batches the items
    are sorted and cut anew, and the pass's batches shuffled again.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        start: int,
        horizon: int,
        rank: int = 0,
        world: int = 1,
        lengths: np.ndarray | None = None,
    ) -> None:
        """Refuse a batch that the training split cannot fill.

        Raises:
            ValueError: a global batch is larger than the training split.
        """
        self.size, self.batch_size, self.seed, self.lengths = size, batch_size, seed, lengths
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
                order, current = self._order(turn), turn
            first = (place * self.world + self.rank) * self.batch_size
            yield [(turn, int(i)) for i in order[first : first + self.batch_size]]

    def _order(self, turn: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, turn])
        order = generator.permutation(self.size)
        if self.lengths is None:
            return order
        whole = self.batch_size * self.world
        order = order[: self.per_pass * whole]
        lengths, pool = self.lengths[order], _POOL * whole
        order = np.concatenate(
            [
                order[first : first + pool][np.argsort(lengths[first : first + pool], kind="stable")]
                for first in range(0, len(order), pool)
            ]
        )
        return order.reshape(self.per_pass, whole)[generator.permutation(self.per_pass)].ravel()


class Shard(Sampler[list[Key]]):
    """Every clip exactly once over all ranks, in order, without augmentation (pass -1).

    All ranks have as many batches, the last of some without clips: Lightning would end the loops of these, and the
    others would wait for them at the metrics, or at the weights of a sharded model, for ever.
    """

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.indices = list(range(rank, size, world))
        self.batches = math.ceil(math.ceil(size / world) / batch_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of every rank."""
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each batch."""
        for first in range(0, self.batches * self.batch_size, self.batch_size):
            yield [(-1, i) for i in self.indices[first : first + self.batch_size]]

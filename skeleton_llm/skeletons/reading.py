"""Reading many raw clips: in order, on every core, each one accounted for."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.sources import Item
from skeleton_llm.skeletons.table import LeftOut

_BATCH = 32
_FEW = 400  # below, starting processes takes longer than reading


class Batch(NamedTuple):
    """What became of some raw items, in order."""

    clips: list[Clip]
    left_out: list[LeftOut]
    items: int


def read_batch(items: Sequence[Item], unusable: frozenset[str], num_classes: int) -> Batch:
    """Read ``items``; what cannot be taken is named with its reason, never dropped."""
    clips, left_out = [], []
    for item in items:
        if Path(item.name).stem in unusable:
            why, kind = "on the dataset's list of missing skeletons", "listed"
        else:
            try:
                clips.append(_read(item, num_classes))
                continue
            except (OSError, ValueError) as error:
                why, kind = " ".join(str(error).split()), "bad"
            except MemoryError:
                why, kind = f"{item.name}: does not fit into memory", "bad"
        known = item.facts.get("label", 0) < num_classes
        left_out.append({"file": item.name, "kind": kind, "why": why, "facts": dict(item.facts) if known else {}})
    return Batch(clips, left_out, len(items))


def _read(item: Item, num_classes: int) -> Clip:
    clip = item.read(*item.arguments)
    if clip.label is None:
        raise ValueError(f"{clip.source}: its name tells no class; expected the dataset's own file names")
    if not 0 <= clip.label < num_classes:
        raise ValueError(f"{clip.source}: unknown class {clip.label + 1}; expected 1 to {num_classes}")
    return replace(clip, source=item.name)


def read_all(
    items: Sequence[Item],
    unusable: frozenset[str],
    num_classes: int,
    *,
    workers: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> Iterator[Batch]:
    """All items in batches, in order, by ``workers`` processes (default: one a core; few items need none).

    A name that occurred before is left out as bad. ``progress`` is told how many items each batch had.

    Raises:
        RuntimeError: a reading process died.
    """
    repeated, seen = set(), set()
    for index, item in enumerate(items):
        if item.name in seen:
            repeated.add(index)
        seen.add(item.name)
    batches = [
        [
            item if first + k not in repeated else item._replace(read=_refuse_repeated, arguments=(item,), facts={})
            for k, item in enumerate(items[first : first + _BATCH])
        ]
        for first in range(0, len(items), _BATCH)
    ]
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    reading = (
        _in_turn(batches, unusable, num_classes)
        if workers < 2 or len(items) < _FEW
        else _at_once(batches, unusable, num_classes, workers)
    )
    for batch in reading:
        if progress is not None:
            progress(batch.items)
        yield batch


def _refuse_repeated(item: Item) -> Clip:
    raise ValueError(f"{item.file}: {item.name} occurred before; keep one of the two")


def _in_turn(batches: list[list[Item]], unusable: frozenset[str], num_classes: int) -> Iterator[Batch]:
    for batch in batches:
        yield read_batch(batch, unusable, num_classes)


def _end_with_the_command() -> None:
    """A command that is killed cannot end its workers, which would wait for batches for ever."""

    def wait() -> None:
        command = multiprocessing.parent_process()
        if command is not None:
            command.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _at_once(batches: list[list[Item]], unusable: frozenset[str], num_classes: int, workers: int) -> Iterator[Batch]:
    """A window of a few batches a worker, so that memory does not grow with the dataset."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["skeleton_llm.skeletons.reading"])
    waiting: deque[Future[Batch]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_the_command) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(read_batch, batch, unusable, num_classes))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a reading process died (out of memory?); try --workers 1, the same command goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

"""Signals that ask a run to stop only raise a flag, from the first moment of the process on; standard library alone."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 85
"""Checkpointed on request; start the same command again."""

_raised: list[signal.Signals] = []
_before: dict[signal.Signals, Any] = {}


def install() -> bool:
    """Take the signals over; before the slow imports, or one that comes during them kills the run.

    Returns:
        Whether they were not taken over already.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    new = not _before
    for number in STOPPING:
        found = signal.signal(number, _raise)
        _before.setdefault(number, found)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    return new


def restore() -> None:
    """Give the signals back, and forget what came."""
    for number, handler in _before.items():
        signal.signal(number, handler)
    _before.clear()
    _raised.clear()


def leave_with_parent() -> None:
    """End this process, a rank that another one started, when that one is gone: the ranks may not have met yet."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        with suppress(OSError):
            rank = os.environ.get("LOCAL_RANK")
            said = f"error: rank {rank} ends: the process that started it is gone (start the same command again)\n"
            os.write(2, said.encode())
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def raised() -> signal.Signals | None:
    """The first signal that came."""
    return _raised[0] if _raised else None


def ignore() -> None:
    """For helpers of a run, which the run itself tells when to end, and for its own last moments."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Processes that this thread starts within it begin with signals held back, until they ``install`` their flag."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _raise(number: int, frame: FrameType | None) -> None:
    first = not _raised
    _raised.append(signal.Signals(number))
    if first:  # not by print, which the signal may have interrupted
        with suppress(OSError):  # a terminal that is gone
            os.write(2, f"\n{_raised[0].name}: saving at the next optimiser step (Ctrl-\\ leaves at once)\n".encode())

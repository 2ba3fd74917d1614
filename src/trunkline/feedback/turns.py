"""Whose turn it is to write to a store in a file, among processes: file locks, which go with the process that holds them, also by SIGKILL.

The kernel makes those who wait for the lock queue. Who may find its work done by another does not queue: it waits for the end of the turn at
hand, with all others that do at once. Turns are odd and even, each with a lock of its own, so that the next one keeps nobody asleep who waits for
this one, even if it begins before they are awake.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCKS = (".lock", ".odd", ".even")
"""The endings of the files, which hold no more than the number of the turn."""
_LOOKS = 8
"""So many turns are waited for before a place in the queue is taken."""
_PAUSE_SECONDS = 0.0005


class Turns:
    """Turns at one store. Safe to use from several threads."""

    def __init__(self, file: Path) -> None:
        self._files = [f"{file}{ending}" for ending in LOCKS]

    @contextmanager
    def turn(self, busy: Callable[[], object] | None = None) -> Iterator[None]:
        """Nobody else has a turn meanwhile.

        busy: called where somebody has one, before it is waited for and behind it. What it raises ends the waiting
        """
        with ExitStack() as stack:
            lock, *ends = reversed([stack.enter_context(_opened(path)) for path in reversed(self._files)])  # the lock is given back first
            _take(lock, ends, busy)
            number = 1 - int(os.pread(lock, 1, 0) == b"1")
            os.pwrite(lock, str(number).encode(), 0)
            fcntl.flock(ends[number], fcntl.LOCK_EX)
            yield


def _take(lock: int, ends: list[int], busy: Callable[[], object] | None) -> None:
    if _is_taken(lock, fcntl.LOCK_EX):
        return
    if busy is not None:
        busy()
        for _ in range(_LOOKS):
            _wait(ends)
            busy()
            if _is_taken(lock, fcntl.LOCK_EX):
                return
    fcntl.flock(lock, fcntl.LOCK_EX)


def _wait(ends: list[int]) -> None:
    """Until the turn at hand is over."""
    for one in ends:
        if not _is_taken(one, fcntl.LOCK_SH):
            fcntl.flock(one, fcntl.LOCK_SH)
            fcntl.flock(one, fcntl.LOCK_UN)
            return
        fcntl.flock(one, fcntl.LOCK_UN)
    time.sleep(_PAUSE_SECONDS)  # it only begins


def _is_taken(descriptor: int, how: int) -> bool:
    """The lock, if it can be had now."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

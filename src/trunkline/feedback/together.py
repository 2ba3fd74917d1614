"""Several threads that write at the same time share one transaction, and so one synced commit: whoever comes first writes for all that wait.

Each returns only when that commit is on the disk, or with its own error; an entry that is refused takes no other with it.
Source: DeWitt et al. 1984, "Implementation Techniques for Main Memory Database Systems", section 5 (group commit).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sqlalchemy import Connection

from trunkline.errors import FeedbackConflictError

Write = Callable[[Connection], str]


@dataclass(eq=False)
class _Waits:
    """One thread's write. woken: set when it is done, or when its thread has the next turn (then `said` is still None)."""

    write: Write
    woken: threading.Event = field(default_factory=threading.Event)
    said: str | BaseException | None = None


class Together:
    """`run` writes in transactions that `writing` opens. Safe to use from several threads."""

    def __init__(self, writing: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._writing = writing
        self._waiting: list[_Waits] = []
        self._busy, self._lock = False, threading.Lock()

    def run(self, write: Write) -> str:
        """What `write` gives, once it is kept for good. Raises: what it raises, or what kept the transaction from being kept."""
        own = _Waits(write)
        with self._lock:
            self._waiting.append(own)
            first, self._busy = not self._busy, True
        if not first:
            own.woken.wait()
        if own.said is None:
            try:
                self._write_all()
            finally:
                self._hand_on()
        if isinstance(own.said, str):
            return own.said
        raise own.said or RuntimeError("a write was not answered")

    def _write_all(self) -> None:
        """Writes for all that wait now."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        found: list[str | BaseException] = []
        try:
            with self._writing() as connection:
                for one in taken:
                    try:
                        found.append(one.write(connection))
                    except FeedbackConflictError as error:  # found before anything was written for it
                        found.append(error)
        except BaseException as error:  # nothing of it is kept, and each of those that wait is told so
            found = [error] * len(taken)
        for one, said in zip(taken, found, strict=True):
            one.said = said
            one.woken.set()

    def _hand_on(self) -> None:
        """The turn goes to who has waited longest: who writes for the others does so once, and is gone with its own answer."""
        with self._lock:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()

"""Who writes at the same time shares one transaction, and so one synced commit: whoever comes first writes for all that wait.

Each returns only when that commit is on the disk, or with its own error; an entry that is refused takes no other with it. Threads of one
process wait for each other (`Together`); to those of other processes what is wanted is handed in a file (`Left`).
Source: DeWitt et al. 1984, "Implementation Techniques for Main Memory Database Systems", section 5 (group commit); Hendler et al. 2010,
"Flat Combining and the Synchronization-Parallelism Tradeoff".
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trunkline.errors import DataError
from trunkline.feedback.entry import checked


@dataclass(frozen=True, eq=False)
class Wanted:
    """An entry (entry.py: checked) that is to be kept. salt: of its hash; drawn by who wants it, who can so tell whether another kept it."""

    entry: dict[str, Any]
    who: str
    key: str | None = None
    salt: str = field(default_factory=lambda: secrets.token_hex(32))


Keep = Callable[[list[Wanted]], Sequence[str | BaseException]]


@dataclass(eq=False)
class _Waits:
    """One thread's entry. woken: set when it is done, or when its thread has the next turn (then `said` is still None)."""

    wanted: Wanted
    woken: threading.Event = field(default_factory=threading.Event)
    said: str | BaseException | None = None


class Together:
    """keep: keeps entries in one transaction and gives an id or the error of each. Safe to use from several threads."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._waiting: list[_Waits] = []
        self._busy, self._lock = False, threading.Lock()

    def add(self, wanted: Wanted) -> str:
        """The id of the entry, once it is kept for good. Raises: its own error, or what kept the transaction from being kept."""
        own = _Waits(wanted)
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
        found: Sequence[str | BaseException]
        try:
            found = self._keep([one.wanted for one in taken])
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


class Left:
    """What writers that wait for those of other processes left for them, in a file beside the store.

    Nothing hangs on this file: whoever left something gets the lock in the end, looks whether it is kept, and keeps it if not. So it is neither
    synced nor locked, and a line that is cut off or lost is one that its owner writes. It is empty again after each turn.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = None if file is None else f"{file}.waiting"

    def leave(self, wanted: Sequence[Wanted]) -> None:
        """For whoever has the next turn."""
        if self._file is None:
            return
        data = b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in wanted)
        with suppress(OSError):
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

    def take(self) -> list[Wanted]:
        """All that was left. Only for who holds the lock of writers."""
        if self._file is None or not Path(self._file).exists():
            return []
        descriptor = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not (size := os.fstat(descriptor).st_size):
                return []
            data = os.read(descriptor, size)
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
        return [one for line in data.split(b"\n") if (one := _wanted(line)) is not None]


def _wanted(line: bytes) -> Wanted | None:
    """What a line asks for, or None where it is not whole."""
    try:
        one = Wanted(**json.loads(line))
        checked({"branch": one.who, "row": {"text": ""}, "comment": ""})
        return Wanted(checked(one.entry), one.who, one.key, one.salt)
    except (ValueError, TypeError, DataError):
        return None

"""`FeedbackStore`: what was served, and what people said of it. Append-only, each event chained to the one before, nothing acknowledged lost.

What was said lies apart from the fact that something was: a person is forgotten by deleting the first, and the chain still holds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.errors import FeedbackDamagedError, FeedbackError
from trunkline.feedback.database import LOCK_SECONDS, Database
from trunkline.feedback.entry import Record, chain_hash, checked, content_hash
from trunkline.feedback.schema import contents, events, meta, migrate
from trunkline.feedback.together import Together, Wanted
from trunkline.feedback.writer import ENTRY, Writer, id_of, put

from sqlalchemy import Connection, delete, or_, select  # isort: skip  (behind ours: database.py says which extra is missing)

FORGET = "forget"
_PURGE_SECONDS = 20
_PAGE = 1000


@dataclass(frozen=True)
class Found:
    """What `verify` saw. head: the id of the last event; keep it elsewhere, and a later `verify` shows that nothing before it was changed."""

    events: int
    entries: int
    forgotten: int
    head: str


class FeedbackStore:
    """A store in an SQLite file, or on PostgreSQL by URL. Safe to use from several threads and processes; open it anew after a fork.

    damage: what is wrong with it, in a sentence, or None. A damaged store can be read as far as it is whole, and takes nothing more.

    Raises on opening: OptionError for a place that is none, FeedbackDamagedError where nothing can be read, ArtefactError for a store of a newer
    Trunkline, FeedbackError where the database cannot be reached.
    """

    def __init__(self, place: str | Path) -> None:
        self._database = Database(place)
        self._together = Together(lambda wanted: self._writer.keep(wanted))  # looked up each time: a damaged store gets another one
        self.damage: str | None = None
        try:
            self._open()
        except FeedbackDamagedError as error:
            self._read_only(place, error)

    def __str__(self) -> str:
        return str(self._database)

    def add(self, entry: Mapping[str, Any], *, who: str, idempotency_key: str | None = None) -> str:
        """Keep one entry (entry.py: checked) for good before returning, and give its id: for the same key and entry always the same one.

        Raises: DataError for an entry that is refused; FeedbackConflictError where the key was used for another entry; FeedbackFullError,
        FeedbackDamagedError, FeedbackError where it could not be kept.
        """
        return self._together.add(Wanted(_checked(entry, who), who, idempotency_key))

    def add_all(self, entries: Sequence[tuple[Mapping[str, Any], str | None]], *, who: str) -> list[str]:
        """Keep entries with their keys, all or none, as `add` does one."""
        return self._writer.keep_all([Wanted(_checked(entry, who), who, key) for entry, key in entries])

    def records(self, *, branch: str | None = None, upto: int | None = None) -> Iterator[Record]:
        """What is kept, oldest first, of one branch or all, up to a number. Each is compared with its hashes before it is given.

        Raises: FeedbackDamagedError at the first that is not what was written.
        """
        with self._database.reading() as connection:
            for row, record in self._walk(connection):
                wanted = row.kind == ENTRY and branch in (None, record.branch)
                if wanted and (upto is None or record.number <= upto):  # the rest is read all the same: what is missing shows at the end
                    yield record

    def verify(self, ids: Sequence[str] = ()) -> Found:
        """Read everything and compare every hash; and that these ids, which somebody kept, are in the history.

        Raises: FeedbackDamagedError that says what does not fit.
        """
        if self.damage is not None:
            raise FeedbackDamagedError(self.damage)
        count = entries = forgotten = 0
        head, wanted = "0-", set(ids)
        with self._database.reading() as connection:
            for row, record in self._walk(connection):
                count, head = count + 1, record.id
                entries += row.kind == ENTRY
                forgotten += row.kind == ENTRY and record.entry is None
                wanted.discard(record.id)
        if wanted:
            raise FeedbackDamagedError(
                f"{self}: {len(wanted)} ids that were acknowledged are not in it, {sorted(wanted)[0]} for one. Its history was changed."
            )
        self._integrity()
        return Found(count, entries, forgotten, head)

    def forget(self, subject: str, *, who: str, states: Callable[[list[Record]], object] | None = None) -> int:
        """Remove all that was said by or about a person, and what belongs to the same requests. Gives how many entries that were.

        states: called first with those records, to remove what was made of their texts elsewhere (states.py), and again with those that came
        meanwhile: then nobody else writes, and it must not use this store. If it fails nothing is removed, so that it can be repeated. That
        something was forgotten, when, and by whom, stays in the history.
        Raises: FeedbackError where another program holds the old pages; repeat it then.
        """
        told = set[int]()
        if states is not None:  # may take long: most of it is done while others write
            with self._database.reading() as connection:
                told, found = self._new(connection, subject, told)
            if found:
                states(found)
        with self._database.writing() as connection:
            self._writer.left.take()  # in no file may there be anything of the person: who left something and still runs keeps it afterwards
            numbers = self._of(connection, subject)
            if states is not None and numbers - told:
                states(self._new(connection, subject, told)[1])
            if numbers:
                for some in _some(sorted(numbers)):
                    connection.execute(delete(contents).where(contents.c.number.in_(some)))
                self._writer.append(connection, FORGET, "", "", None, {"forgotten": sorted(numbers), "who": who})
                put(connection, purge="yes")
        self._purge()
        return len(numbers)

    def stats(self) -> dict[str, Any]:
        """Counts by branch and by what was said, from when to when, and the id of the last event."""
        by_branch: dict[str, dict[str, int]] = {}
        times, head = [], "0-"
        with self._database.reading() as connection:
            for row, record in self._walk(connection):
                head = record.id
                if row.kind != ENTRY:
                    continue
                times.append(record.at)
                said = record.entry or {}
                counts = by_branch.setdefault(record.branch, dict.fromkeys(_COUNTED, 0))
                for name, counted in _COUNTED.items():
                    counts[name] += counted(record, said)
        return {"store": str(self), "damage": self.damage, "branches": by_branch, "from": times[:1], "to": times[-1:], "head": head}

    def pseudonym(self, person: str) -> str:
        """A name for a person, always the same in this store, from which nobody finds the person without the store."""
        return hashlib.sha256(f"{self._salt}:person:{person}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    # Opening.

    def _open(self) -> None:
        if self._database.file is not None:
            with self._database.alone() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        self._integrity()
        with self._database.writing() as connection:
            migrate(connection)
            self._use(connection)
            unfinished = connection.execute(select(meta.c.value).where(meta.c.name == "purge")).scalar_one() == "yes"
        if unfinished:  # a kill came between forgetting and wiping
            self._purge()

    def _read_only(self, place: str | Path, error: FeedbackDamagedError) -> None:
        self.damage = str(error)
        self._database.close()
        self._database = Database(place, read_only=True)
        with self._database.reading() as connection:  # where not even this works, the error goes up
            self._use(connection)

    def _use(self, connection: Connection) -> None:
        self._salt, self._first = _secrets(connection)
        self._writer = Writer(self._database, self._salt, self._first)

    def _integrity(self) -> None:
        """SQLite's own check of its pages. Raises: FeedbackDamagedError."""
        if self._database.file is None:
            return
        with self._database.reading() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
        if said != ["ok"]:
            raise FeedbackDamagedError(
                f"{self}: is damaged ({'; '.join(said)[:200]}). It was not changed, and can be read only. Keep a copy of it, and restore a backup."
            )

    # Writing: within a transaction.

    def _of(self, connection: Connection, subject: str) -> set[int]:
        """The numbers of the entries by or about a person, and of those about the same requests."""
        by_or_about = (
            select(contents.c.number, contents.c.request)
            .join(events, events.c.number == contents.c.number)
            .where(events.c.kind == ENTRY, or_(contents.c.subject == subject, contents.c.who == subject))
        )
        found = connection.execute(by_or_about).all()
        requests = {row.request for row in found if row.request is not None}
        numbers = {row.number for row in found}
        for some in _some(sorted(requests)):
            numbers.update(connection.execute(select(contents.c.number).where(contents.c.request.in_(some))).scalars())
        return numbers

    def _new(self, connection: Connection, subject: str, told: set[int]) -> tuple[set[int], list[Record]]:
        """The numbers of all entries to forget with a person, and the records of those that are not among `told`."""
        numbers = self._of(connection, subject)
        new = numbers - told
        return numbers, [record for _, record in self._walk(connection) if record.number in new] if new else []

    def _purge(self) -> None:
        """Wipe what was deleted out of the files: the database is written anew, and its log emptied."""
        if self._database.file is None:
            with self._database.alone() as connection:
                connection.exec_driver_sql("VACUUM FULL feedback_contents")
        else:
            self._purge_file()
        with self._database.writing() as connection:
            put(connection, purge="no")

    def _purge_file(self) -> None:
        with self._database.alone() as connection:
            connection.exec_driver_sql("VACUUM")
        end = time.monotonic() + _PURGE_SECONDS
        while True:
            with self._database.alone() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout=0")  # we wait ourselves, and let writers in between
                busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
                connection.exec_driver_sql(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}")
                if not busy:
                    return
            if time.monotonic() > end:
                raise FeedbackError(
                    f"{self}: what was forgotten is out of the tables, but another program still reads the log that it stands in. "
                    "End that program, and forget the same person again."
                )
            time.sleep(0.05)

    # Reading: everything is compared with its hashes.

    def _walk(self, connection: Connection) -> Iterator[tuple[Any, Record]]:
        """Every event with its record, oldest first. Raises: FeedbackDamagedError at the first that does not fit, or where some are missing."""
        before, number, lost, forgotten = self._first, 0, set(), set()
        for row in _pages(connection):
            try:
                number += 1
                known = (row.at, row.kind, row.branch, row.version, row.key, row.content)
                if row.number != number or row.chain != chain_hash(before, number, *known):
                    raise ValueError("its hash is another")
                body = None if row.body is None else self._body(row)
                if body is None:
                    lost.add(number)
                elif row.kind == FORGET:
                    forgotten.update(body["forgotten"])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._changed(f"event {number} is not what was written ({error})") from error
            before = row.chain
            entry = {name: value for name, value in body.items() if name != "who"} if body and row.kind == ENTRY else None
            yield row, Record(number, id_of(number, row.chain), row.at, row.branch, row.version, body["who"] if body else None, entry)
        head = connection.execute(select(meta.c.value).where(meta.c.name == "head")).scalar_one()
        if head != (f"{number}:{before}" if number else "0:"):
            raise self._changed(f"its last event should be {head[:24]} and is {number}")
        if lost - forgotten:
            raise self._changed(f"the content of event {min(lost - forgotten)} is gone, and nobody forgot it")
        if present := sorted(forgotten - lost):
            raise self._changed(f"the content of event {present[0]} is there, and was forgotten")

    def _body(self, row: Any) -> dict[str, Any]:
        if content_hash(row.salt, row.body) != row.content:
            raise ValueError("what was said has another hash")
        body: dict[str, Any] = json.loads(row.body)
        if (body.get("subject"), body.get("request"), body["who"]) != (row.subject, row.request, row.who):
            raise ValueError("whom it is about has another hash")
        return body

    def _changed(self, what: str) -> FeedbackDamagedError:
        return FeedbackDamagedError(f"{self}: {what}: it is damaged, or somebody changed it. Keep a copy of it, and restore a backup.")


def _checked(entry: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The entry as it is kept. Raises: DataError."""
    checked({"branch": who, "row": {"text": ""}, "comment": ""})  # the same rules for who as for other names
    return checked(entry)


def _pages(connection: Connection) -> Iterator[Any]:
    """All events with their contents, in order, some at a time."""
    joined = (
        select(events, contents.c.subject, contents.c.request, contents.c.who, contents.c.salt, contents.c.body)
        .outerjoin(contents, contents.c.number == events.c.number)
        .order_by(events.c.number)
        .limit(_PAGE)
    )
    last = -(1 << 62)
    while rows := connection.execute(joined.where(events.c.number > last)).all():
        yield from rows
        last = rows[-1].number


def _secrets(connection: Connection) -> tuple[str, str]:
    """The salt of keys, and what the first event is chained to: a hash over it, so that a damaged salt shows."""
    store, salt = (connection.execute(select(meta.c.value).where(meta.c.name == name)).scalar_one() for name in ("store", "salt"))
    return salt, hashlib.sha256(f"{store}:{salt}".encode()).hexdigest()


def _some(values: list[Any]) -> Iterator[list[Any]]:
    """So many at a time as fit into one statement."""
    for start in range(0, len(values), _PAGE):
        yield values[start : start + _PAGE]


_COUNTED: dict[str, Callable[[Record, dict[str, Any]], bool]] = {
    "entries": lambda record, said: True,
    "labels": lambda record, said: "label" in said,
    "liked": lambda record, said: said.get("rating", 0) > 0,
    "disliked": lambda record, said: said.get("rating", 0) < 0,
    "preferences": lambda record, said: "chosen" in said,
    "forgotten": lambda record, said: record.entry is None,
}

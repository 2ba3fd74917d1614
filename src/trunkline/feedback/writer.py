"""Events into the tables of a store: one transaction for all that wait, each event chained to the one before, an entry with a known key not twice."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from trunkline.errors import FeedbackConflictError
from trunkline.feedback.database import Database
from trunkline.feedback.entry import chain_hash, content_hash, to_bytes
from trunkline.feedback.schema import contents, events, meta
from trunkline.feedback.together import Left, Wanted

from sqlalchemy import Connection, select, update  # isort: skip  (behind ours: database.py says which extra is missing)

ENTRY = "entry"
_GATHER_SECONDS = 0.002
"""Where other processes wrote a moment ago, so long is waited for what they want kept next: a synced commit takes several times that."""


class _KeptByOthersError(Exception):
    """Ends the waiting for a turn. found: the id of each entry, or why it is refused."""

    def __init__(self, found: list[str | FeedbackConflictError]) -> None:
        self.found = found


class Writer:
    """Writes to one store. salt: of its keys; first: what its first event is chained to. One thread at a time may call `keep`."""

    def __init__(self, database: Database, salt: str, first: str) -> None:
        self.left = Left(database.file)
        self._database, self._salt, self._first = database, salt, first
        self._is_crowded = False

    def keep(self, wanted: list[Wanted]) -> Sequence[str | FeedbackConflictError]:
        """Keep entries, and those that writers of other processes wait for, in one transaction. Gives an id or its own error for each."""
        before: int | None = None  # the last event before this waited: what others kept for it comes behind

        def leave_or_look() -> None:
            nonlocal before
            with self._database.reading() as connection:
                if before is None:
                    before = int(head(connection)[0])
                    self.left.leave(wanted)
                elif all(found := [self._kept(connection, one, before) for one in wanted]):
                    raise _KeptByOthersError([one for one in found if one])

        found, left = list[str | FeedbackConflictError](), list[Wanted]()
        try:
            with self._database.writing(leave_or_look) as connection:
                if self._is_crowded:
                    time.sleep(_GATHER_SECONDS)
                left += self.left.take()  # first: if this fails, nothing that is answered with an error may be kept later
                found += [self._kept(connection, one, before) or self._add(connection, one) for one in wanted]
                own = {one.salt for one in wanted}
                for one in left:  # who left it will look, and be told
                    _ = one.salt in own or self._kept(connection, one, None) or self._add(connection, one)
        except _KeptByOthersError as kept:
            found = kept.found
        self._is_crowded = bool(left) or before is not None
        return found

    def keep_all(self, wanted: Sequence[Wanted]) -> list[str]:
        """Keep all entries or none. Raises: FeedbackConflictError."""
        ids = []
        with self._database.writing() as connection:
            for one in wanted:
                found = self._kept(connection, one, None) or self._add(connection, one)
                if isinstance(found, FeedbackConflictError):
                    raise found
                ids.append(found)
        return ids

    def append(
        self, connection: Connection, kind: str, branch: str, version: str, key: str | None, body: dict[str, Any], salt: str | None = None
    ) -> str:
        """Write one event, within a transaction, and give its id."""
        last, before = head(connection)
        number, at, text, salt = int(last) + 1, _now(), to_bytes(body).decode(), salt or secrets.token_hex(32)
        content = content_hash(salt, text)
        chain = chain_hash(before or self._first, number, at, kind, branch, version, key, content)
        event = {"number": number, "at": at, "kind": kind, "branch": branch, "version": version, "key": key}
        connection.execute(events.insert(), {**event, "content": content, "chain": chain})
        where = {"subject": body.get("subject"), "request": body.get("request"), "who": body["who"]}
        connection.execute(contents.insert(), {"number": number, **where, "salt": salt, "body": text})
        put(connection, head=f"{number}:{chain}")
        return id_of(number, chain)

    def _add(self, connection: Connection, one: Wanted) -> str:
        version, hashed = one.entry.get("version", ""), None if one.key is None else self._hashed(one)
        return self.append(connection, ENTRY, one.entry["branch"], version, hashed, _body(one), one.salt)

    def _kept(self, connection: Connection, one: Wanted, before: int | None) -> str | FeedbackConflictError | None:
        """The id of an entry that is there, known by its key, or without one kept by another process since the event `before`; or a conflict."""
        if one.key is not None:
            return self._known(connection, self._hashed(one), _body(one))
        if before is None:
            return None
        content = content_hash(one.salt, to_bytes(_body(one)).decode())
        found = select(events.c.number, events.c.chain).where(events.c.number > before, events.c.content == content)
        row = connection.execute(found).one_or_none()
        return id_of(row.number, row.chain) if row else None

    def _known(self, connection: Connection, key: str, body: dict[str, Any]) -> str | FeedbackConflictError | None:
        """The id of the entry with this key, or why it cannot be used again."""
        joined = select(events, contents.c.salt).outerjoin(contents, contents.c.number == events.c.number)
        row = connection.execute(joined.where(events.c.key == key)).one_or_none()
        if row is None:
            return None
        if row.salt is None or content_hash(row.salt, to_bytes(body).decode()) != row.content:
            return FeedbackConflictError(
                f"the idempotency key was used for {'an entry that was forgotten' if row.salt is None else 'another entry'}, "
                f"{id_of(row.number, row.chain)}. Use a new key for a new entry."
            )
        return id_of(row.number, row.chain)

    def _hashed(self, one: Wanted) -> str:
        """The key as it is kept: each client's own."""
        return hashlib.sha256(f"{self._salt}:{one.who}:{one.key}".encode("utf-8", "surrogatepass")).hexdigest()


def head(connection: Connection) -> tuple[str, str]:
    """The number of the last event and its hash; "0" and nothing where there is none."""
    last, _, chain = connection.execute(select(meta.c.value).where(meta.c.name == "head")).scalar_one().partition(":")
    return last, chain


def put(connection: Connection, **values: str) -> None:
    """Set values that the store has of itself."""
    for name, value in values.items():
        connection.execute(update(meta).where(meta.c.name == name).values(value=value))


def id_of(number: int, chain: str) -> str:
    """The id of an event."""
    return f"{number}-{chain[:16]}"


def _body(one: Wanted) -> dict[str, Any]:
    return {**one.entry, "who": one.who}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

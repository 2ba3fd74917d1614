"""The tables of a feedback store, and how one of an older version becomes one of today's.

    events      one line for each thing that was ever said or forgotten; never changed, each with a hash over the one before
    contents    what was said and who said it, by number; a line goes when a person is forgotten
    meta        version, the store's own id and salt, the last event

Triggers refuse what would change the past. A migration is one transaction: after a crash the old schema is there or the new.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from sqlalchemy import BigInteger, Column, Connection, ForeignKey, MetaData, String, Table, Text, inspect, select, text, update

from trunkline.errors import ArtefactError

Step = Callable[[Connection], None]

_TABLES = MetaData()
meta = Table("trunkline_feedback", _TABLES, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))
events = Table(
    "feedback_events",
    _TABLES,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("branch", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("key", String(64), unique=True),
    Column("content", String(64), nullable=False),
    Column("chain", String(64), nullable=False),
)
contents = Table(
    "feedback_contents",
    _TABLES,
    Column("number", BigInteger, ForeignKey(events.c.number), primary_key=True, autoincrement=False),
    Column("subject", Text, index=True),
    Column("request", Text, index=True),
    Column("who", Text, nullable=False, index=True),
    Column("salt", String(64), nullable=False),
    Column("body", Text, nullable=False),
)

_GUARDED = (("feedback_events", "UPDATE"), ("feedback_events", "DELETE"), ("feedback_contents", "UPDATE"))


def _first(connection: Connection) -> None:
    _TABLES.create_all(connection)
    connection.execute(
        meta.insert(),
        [
            {"name": "version", "value": "0"},
            {"name": "store", "value": secrets.token_hex(16)},
            {"name": "salt", "value": secrets.token_hex(32)},
            {"name": "head", "value": "0:"},
            {"name": "purge", "value": "no"},
        ],
    )
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "CREATE FUNCTION feedback_stays() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'feedback is never changed'; END $$"
            )
        )
    for table, what in _GUARDED:
        body = (
            "EXECUTE FUNCTION feedback_stays()"
            if connection.dialect.name == "postgresql"
            else "BEGIN SELECT RAISE(ABORT, 'feedback is never changed'); END"
        )
        connection.execute(text(f"CREATE TRIGGER {table}_{what.lower()} BEFORE {what} ON {table} FOR EACH ROW {body}"))


STEPS: tuple[Step, ...] = (_first,)
"""What leads from each version to the next: the first from nothing to version 1."""


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> int:
    """Bring the store to the newest version, in the transaction that is open. Gives the version that it had.

    Raises: ArtefactError for a store of a newer version than is known here.
    """
    found = version(connection)
    if found > len(steps):
        raise ArtefactError(
            f"the feedback store has schema version {found}; this Trunkline knows up to {len(steps)}. Upgrade: pip install -U trunkline"
        )
    for step in steps[found:]:
        step(connection)
    if found < len(steps):
        connection.execute(update(meta).where(meta.c.name == "version").values(value=str(len(steps))))
    return found


def version(connection: Connection) -> int:
    """The schema version of a store; 0 where there is none yet."""
    there = set(inspect(connection).get_table_names())
    if meta.name not in there:
        if there and (connection.dialect.name == "sqlite" or there & set(_TABLES.tables)):
            raise ArtefactError(f"holds the tables {', '.join(sorted(there))[:200]}, and is no feedback store. Name another place.")
        return 0
    return int(connection.execute(select(meta.c.value).where(meta.c.name == "version")).scalar_one())

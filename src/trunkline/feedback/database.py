"""A database that keeps what it acknowledged: SQLite in a file (write-ahead log, every commit synced), or PostgreSQL by URL.

One writer at a time, since each event holds the hash of the one before. On SQLite file locks make writers take turns (turns.py), where
SQLite's own way would have them try again after a while, and sometimes give up; on PostgreSQL an advisory lock does.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trunkline.errors import FeedbackDamagedError, FeedbackError, FeedbackFullError, MissingExtra, OptionError
from trunkline.feedback.turns import Turns

try:
    from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoResultFound, NoSuchModuleError
    from sqlalchemy.pool import QueuePool
except ModuleNotFoundError as error:
    raise MissingExtra("sqlalchemy", "feedback", "the feedback store") from error

LOCK_SECONDS = 30
_LOG_PAGES = 4000
"""The log is written into the database when it has so many pages: four times SQLite's default, since all who write then wait for that too."""
_OPENS = "trunkline_opens"  # the words that open a transaction on SQLite
_ADVISORY = 0x7472756E6B6C696E  # "trunklin" as a number: the lock of writers on PostgreSQL
_FULL, _DAMAGED, _NO_DATABASE, _READ_ONLY, _INPUT_OUTPUT, _BUSY = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
)


class Database:
    """Connections to one store. `file` is None on PostgreSQL. Safe to use from several threads; to be made anew after a fork."""

    def __init__(self, place: str | Path, *, read_only: bool = False) -> None:
        self.url = _url(place)
        self.file = Path(self.url.database) if self.url.get_backend_name() == "sqlite" and self.url.database else None
        self.read_only = read_only
        if self.file is not None:
            self._touch(self.file)
        self.engine = self._engine()

    def __str__(self) -> str:
        return str(self.file) if self.file is not None else self.url.render_as_string(hide_password=True)

    @contextmanager
    def writing(self, busy: Callable[[], object] | None = None) -> Iterator[Connection]:
        """A transaction that no other writer runs beside. It is on the disk when the block has ended, or nothing of it is.

        busy: called, on SQLite, where another process writes: before waiting for it, and behind it. What it raises ends the waiting
        Raises: FeedbackError, FeedbackFullError, FeedbackDamagedError.
        """
        if self.read_only:
            raise FeedbackDamagedError(f"{self}: is open for reading only, since it is damaged. Restore a backup.")
        with self._explained(), self._alone(busy), self.engine.connect() as plain:
            connection = plain.execution_options(**{_OPENS: "BEGIN IMMEDIATE"})
            with connection.begin():
                if self.file is None:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store, whatever others write meanwhile."""
        with self._explained(), self.engine.connect() as plain:
            connection = plain if self.file is not None else plain.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A connection outside of any transaction, while no writer runs: for what cannot stand in one."""
        with self._explained(), self._alone(), self.engine.connect() as plain:
            plain.connection.rollback()  # the pool's question whether PostgreSQL still answers opens a transaction
            yield plain.execution_options(**({_OPENS: ""} if self.file is not None else {"isolation_level": "AUTOCOMMIT"}))

    def close(self) -> None:
        self.engine.dispose()

    def _engine(self) -> Engine:
        if self.file is None:
            made = create_engine(self.url, pool_pre_ping=True)
        else:
            place = f"file:{_quoted(self.file)}?mode={'ro' if self.read_only else 'rw'}"
            made = create_engine(
                "sqlite://", creator=lambda: sqlite3.connect(place, uri=True, check_same_thread=False), poolclass=QueuePool
            )
            event.listen(made, "connect", self._prepare)
            event.listen(made, "begin", _begin)
        return made

    def _prepare(self, connection: sqlite3.Connection, record: Any) -> None:
        """Every commit synced, what is deleted overwritten, nothing in temporary files."""
        connection.isolation_level = None  # transactions begin where we say so
        pragmas = [
            "synchronous=FULL",
            "fullfsync=ON",
            "secure_delete=ON",
            "temp_store=MEMORY",
            "foreign_keys=ON",
            f"wal_autocheckpoint={_LOG_PAGES}",
        ]
        for pragma in [f"busy_timeout={LOCK_SECONDS * 1000}", *pragmas]:
            connection.execute(f"PRAGMA {pragma}")

    @contextmanager
    def _alone(self, busy: Callable[[], object] | None = None) -> Iterator[None]:
        """While no other process writes."""
        if self.file is None or self.read_only:
            yield
            return
        with Turns(self.file).turn(busy):
            yield

    def _touch(self, file: Path) -> None:
        """Make the file, closed to others: what is in it is as private as the texts."""
        try:
            if not self.read_only:
                file.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise FeedbackError(
                f"{file}: cannot be opened as a feedback store ({error.strerror}). Name a file that can be written."
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The library's errors as ours."""
        try:
            yield
        except DBAPIError as error:
            raise self._told(error) from error
        except NoResultFound as error:
            raise FeedbackDamagedError(
                f"{self}: a line that every store has is not there. Keep a copy of it, and restore a backup."
            ) from error
        except OSError as error:
            raise FeedbackError(f"{self}: {error.strerror or error}. Nothing was kept.") from error

    def _told(self, error: Exception) -> FeedbackError:
        cause = getattr(error, "orig", error)
        code = (getattr(cause, "sqlite_errorcode", 0) or 0) & 0xFF
        told = cause.args[0] if cause.args and isinstance(cause.args[0], dict) else {}  # PostgreSQL's fields: C is the code, M the message
        said = str(told.get("M", cause) or type(cause).__name__).splitlines()[0][:200]
        if code in (_FULL, _INPUT_OUTPUT) or told.get("C") == "53100":
            return FeedbackFullError(
                f"{self}: the disk is full, or cannot be written ({said}). Nothing was kept; make room and send it again."
            )
        if code in (_DAMAGED, _NO_DATABASE) or "decode" in said:
            return FeedbackDamagedError(f"{self}: is damaged ({said}). It was not changed. Keep a copy of it, and restore a backup.")
        if code == _READ_ONLY:
            return FeedbackError(f"{self}: can be read only ({said}). Nothing was kept.")
        if code == _BUSY:
            return FeedbackError(f"{self}: another program held it for {LOCK_SECONDS} seconds ({said}). Nothing was kept; send it again.")
        return FeedbackError(f"{self}: {said}. Nothing was kept.")


def _url(place: str | Path) -> URL:
    """Where a store is: a URL, or the path of an SQLite file. Of PostgreSQL the driver is pg8000 where none is named."""
    text = str(place)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
        backend = url.get_backend_name()
        if backend == "sqlite" and url.database and url.database != ":memory:":
            return URL.create("sqlite", database=str(Path(url.database).absolute()))
        if backend == "postgresql" and url.username and url.database:
            return url if "+" in url.drivername else url.set(drivername="postgresql+pg8000")
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise OptionError(f"feedback store: not a URL that can be read ({str(error)[:100]}). {_FORMS}") from error
    raise OptionError(f"feedback store: {url.render_as_string(hide_password=True)}: no such store is known. {_FORMS}")


_FORMS = "Use the path of a file, or postgresql://user:password@host/database."


def _quoted(file: Path) -> str:
    """The path as it stands in an SQLite URI."""
    return str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _begin(connection: Connection) -> None:
    """A writer takes SQLite's lock at once: one that reads first and writes then may find that another was faster."""
    if words := connection.get_execution_options().get(_OPENS, "BEGIN"):
        connection.exec_driver_sql(words)

"""A copy of a store while it is in use, checked before it has its name."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from trunkline.errors import FeedbackError, OptionError
from trunkline.feedback.database import Database
from trunkline.feedback.schema import contents, events, meta, migrate
from trunkline.feedback.store import FeedbackStore, Found
from trunkline.feedback.turns import LOCKS

from sqlalchemy import delete, select  # isort: skip  (behind ours: database.py says which extra is missing)

_SOME = 1000


def backup(place: str | Path, out: str | Path) -> Found:
    """Write a copy of the store at `place` into the new file `out`, while others write to it, and verify the copy.

    The copy is an SQLite store, also of one on PostgreSQL, and can be used as it is. To restore a backup, name it, or copy it
    to where the damaged one was.
    Raises: OptionError where `out` exists; FeedbackDamagedError where the copy is not whole, and then there is none.
    """
    out = Path(out)
    if out.exists():
        raise OptionError(f"{out}: exists. Name a new file for the backup.")
    if "://" not in str(place) and not Path(place).is_file():
        raise OptionError(f"{place}: does not exist, so there is nothing to copy.")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        source = Database(place)
        try:
            if source.file is not None:
                _copy_file(source.file, temporary)
            else:
                _copy_rows(source, temporary)
        finally:
            source.close()
        found = _checked(temporary)
        _synced(temporary)
        temporary.rename(out)
        _synced(out.parent)
    except (sqlite3.Error, OSError) as error:
        raise FeedbackError(f"{out}: the backup could not be written ({error}).") from error
    finally:
        for left in ("", "-wal", "-shm", *LOCKS):
            Path(f"{temporary}{left}").unlink(missing_ok=True)
    return found


def _copy_file(file: Path, to: Path) -> None:
    """SQLite's own online copy, all pages within one view, so that it need not begin anew when somebody writes."""
    os.close(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy, pages=-1)


def _copy_rows(source: Database, to: Path) -> None:
    copy = Database(to)
    try:
        with source.reading() as old, copy.writing() as new:
            migrate(new)
            new.execute(delete(meta))
            for table in (meta, events, contents):
                for some in old.execute(select(table)).mappings().partitions(_SOME):
                    new.execute(table.insert(), [dict(row) for row in some])
    finally:
        copy.close()


def _checked(file: Path) -> Found:
    """Verify the copy, and bring it into one file."""
    store = FeedbackStore(file)
    try:
        found = store.verify()
    finally:
        store.close()
    with closing(sqlite3.connect(file)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
    return found


def _synced(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

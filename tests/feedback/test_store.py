"""The feedback store: what it acknowledged is there once and as it was said, whoever is killed, and what is forgotten is gone."""

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.feedback import places
from tests.feedback.places import ENTRY
from trunkline.errors import (
    ArtefactError,
    DataError,
    FeedbackConflictError,
    FeedbackDamagedError,
    FeedbackError,
    FeedbackFullError,
    OptionError,
)
from trunkline.feedback import schema
from trunkline.feedback.backup import backup
from trunkline.feedback.database import Database
from trunkline.feedback.store import FeedbackStore

from sqlalchemy import select, text  # isort: skip

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    made = FeedbackStore(tmp_path / "feedback.db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    if why := places.why_not():
        pytest.skip(why)
    with places.cluster() as url:
        yield url


def said(store: FeedbackStore) -> list[object]:
    return [record.entry and record.entry.get("comment") for record in store.records()]


def add(store: FeedbackStore, comment: str, key: str | None = None, who: str = "helper", **more: object) -> str:
    return store.add({**ENTRY, "comment": comment, **more}, who=who, idempotency_key=key)


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


# What is taken.


def test_an_entry_comes_back_as_it_was_said(store: FeedbackStore) -> None:
    given_ = {
        **ENTRY,
        "row": {"text": "卡在哪里 \u2028", "text_b": "b"},
        "label": ["a", 1, None],
        "rating": -1,
        "comment": "no",
        "subject": "p1",
    }
    id_ = store.add(given_, who="ann")
    (record,) = store.records()
    assert (record.entry, record.who, record.branch, record.version, record.id) == (given_, "ann", "intent", "abc", id_)
    assert record.at.endswith("Z")


@pytest.mark.parametrize(
    "wrong",
    [
        {"branch": None}, {"branch": "a\nb"}, {"row": {}}, {"row": {"text": 3}}, {"row": "text"}, {"rating": True}, {"rating": 2}, {"rating": 0.5},
        {"label": float("nan")}, {"label": {"a": "\x00"}}, {"comment": 3}, {"comment": "\x00"}, {"chosen": "a"}, {"texts": "a"}, {"comment": "\ud800"},
        {"row": {"messages": [{"role": "root", "content": "a"}]}}, {"answer": None, "label": None}, {"comment": "a" * (1 << 20)}, {"label": object()},
    ],
)  # fmt: skip
def test_what_is_no_entry_is_refused(store: FeedbackStore, wrong: dict) -> None:
    with pytest.raises(DataError):
        store.add({**ENTRY, **wrong}, who="ann")
    assert store.verify().events == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text("a\u2028\U0001f600\"\\'%", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(label=JSON.filter(lambda value: value is not None))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_kept(store: FeedbackStore, label: object) -> None:
    id_ = store.add({**ENTRY, "label": label}, who="ann")
    last = list(store.records())[-1]
    assert (last.id, last.entry and last.entry["label"]) == (id_, label)


def test_a_key_makes_repeating_safe(store: FeedbackStore) -> None:
    ids = {add(store, "a", key="k") for _ in range(10)}
    assert len(ids) == len(said(store)) == 1
    assert add(store, "a", key="k", who="bob") not in ids  # keys are each client's own
    with pytest.raises(FeedbackConflictError, match="another entry") as caught:
        add(store, "b", key="k")
    assert caught.value.status == 409
    store.forget("helper", who="admin")
    with pytest.raises(FeedbackConflictError, match="was forgotten"):
        add(store, "a", key="k")


def test_several_are_kept_all_or_none(store: FeedbackStore) -> None:
    with pytest.raises(FeedbackConflictError):
        store.add_all([({**ENTRY, "comment": "a"}, "k"), ({**ENTRY, "comment": "b"}, "k")], who="ann")
    assert said(store) == []


def test_the_past_cannot_be_changed_by_a_statement(store: FeedbackStore) -> None:
    add(store, "a")
    for words in ("UPDATE feedback_events SET at = ''", "DELETE FROM feedback_events", "UPDATE feedback_contents SET body = ''"):
        with pytest.raises(FeedbackError, match="never changed"), store._database.writing() as connection:
            connection.exec_driver_sql(words)


def test_only_the_owner_may_read_the_files(store: FeedbackStore, tmp_path: Path) -> None:
    add(store, "a")
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


# What is acknowledged is kept.


def apart(code: str) -> str:
    """What some code of killed.py prints in a process of its own."""
    code = f"from pathlib import Path; from tests.feedback.killed import *; print({code})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """bench/feedback_kills.py does it 500 times."""
    found = json.loads(apart(f"kill_writers(Path({str(tmp_path)!r}), 10)").replace("'", '"'))
    assert found["kills"] == 10
    assert found["lost"] == found["twice"] == 0
    assert found["acknowledged"] >= 1


def test_writers_at_once_never_meet_a_lock(tmp_path: Path) -> None:
    """bench/feedback_kills.py has the times, with eight processes and 1,000 entries each."""
    assert apart(f"len(write_together(Path({str(tmp_path)!r}), writers=4, each=15))") == "60\n"


def test_power_that_goes_at_any_moment_leaves_what_was_synced(tmp_path: Path) -> None:
    """The log cut at the end of each frame and in the middle of it: the store opens, and holds all that was acknowledged before."""
    (tmp_path / "live").mkdir()
    store, acknowledged = FeedbackStore(tmp_path / "live/f.db"), []
    log = tmp_path / "live/f.db-wal"
    for number in range(3):
        add(store, str(number))
        acknowledged.append(log.stat().st_size)
    base, whole = (tmp_path / "live/f.db").read_bytes(), log.read_bytes()
    store.close()
    frame = 24 + 4096
    start = acknowledged[0] - (acknowledged[1] - acknowledged[0])
    for cut in [size for at in range(start, len(whole) + 1, frame) for size in (at, at + frame // 2)]:
        (tmp_path / "f.db").write_bytes(base)
        (tmp_path / "f.db-wal").write_bytes(whole[:cut])
        (tmp_path / "f.db-shm").unlink(missing_ok=True)
        after = FeedbackStore(tmp_path / "f.db")
        assert said(after) == [str(n) for n in range(sum(size <= cut for size in acknowledged))]
        after.verify()
        after.close()


def test_every_commit_is_synced(store: FeedbackStore) -> None:
    with store._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_full_disk_acknowledges_nothing_and_heals(store: FeedbackStore) -> None:
    add(store, "before")
    with store._database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(FeedbackFullError, match="make room") as caught:
        add(store, "a" * 100_000)
    assert caught.value.status == 507
    assert said(store) == ["before"]
    with store._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    add(store, "b" * 100_000)
    assert len(said(store)) == 2
    store.verify()


# Damage and tampering.


def test_what_was_changed_behind_its_back_is_found(tmp_path: Path) -> None:
    for words in (
        "UPDATE feedback_contents SET body = replace(body, 'delivery', 'refund') WHERE number = 2",
        "UPDATE feedback_contents SET subject = 'bob' WHERE number = 2",
        "UPDATE feedback_events SET branch = 'other' WHERE number = 2",
        "DELETE FROM feedback_contents WHERE number = 2",
        "DELETE FROM feedback_contents WHERE number = 3; DELETE FROM feedback_events WHERE number = 3",
        "UPDATE trunkline_feedback SET value = 'x' WHERE name = 'salt'",
    ):
        place = tmp_path / "f.db"
        store = FeedbackStore(place)
        ids = [add(store, str(n), subject="ann") for n in range(3)]
        assert store.verify(ids).entries == 3
        store.close()
        with sqlite3.connect(place) as raw:
            for name in ("feedback_events_update", "feedback_events_delete", "feedback_contents_update"):
                raw.execute(f"DROP TRIGGER {name}")
            raw.executescript(words)
        raw.close()
        changed = FeedbackStore(place)
        with pytest.raises(FeedbackDamagedError):
            changed.verify()
        with pytest.raises(FeedbackDamagedError):
            list(changed.records())
        changed.close()
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_history_that_was_written_anew_is_found_by_a_kept_id(tmp_path: Path) -> None:
    one, other = FeedbackStore(tmp_path / "one.db"), FeedbackStore(tmp_path / "other.db")
    kept = add(one, "a")
    add(other, "a")
    other.verify()
    with pytest.raises(FeedbackDamagedError, match="acknowledged"):
        other.verify([kept])
    one.close()
    other.close()


@pytest.mark.parametrize("flips", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_byte_is_never_read_in_silence(tmp_path: Path, flips: int) -> None:
    store = FeedbackStore(tmp_path / "f.db")
    for number in range(20):
        add(store, f"comment {number}", key=str(number), subject=f"person {number}")
    truth = list(store.records())
    store.close()
    whole, chance, outcomes = (tmp_path / "f.db").read_bytes(), random.Random(0), []
    assert not (tmp_path / "f.db-wal").exists() or not (tmp_path / "f.db-wal").stat().st_size
    for _ in range(flips):
        broken, at = bytearray(whole), chance.randrange(len(whole))
        broken[at] ^= 1 << chance.randrange(8)
        (tmp_path / "f.db").write_bytes(broken)
        outcomes.append(_read_broken(tmp_path / "f.db", truth))
        assert abs((tmp_path / "f.db").stat().st_size - len(whole)) < 1 << 20
    assert outcomes.count("found") > flips / 10


def _read_broken(place: Path, truth: list) -> str:
    for name in ("f.db-wal", "f.db-shm"):
        place.with_name(name).unlink(missing_ok=True)
    try:
        store = FeedbackStore(place)
    except (FeedbackError, ArtefactError):
        return "found"
    try:
        assert list(store.records()) == truth
        return "found" if store.damage else "harmless"
    except FeedbackError:
        return "found"
    finally:
        store.close()


def test_a_damaged_store_is_read_and_takes_nothing(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "f.db")
    for number in range(200):
        add(store, f"comment {number}")
    with store._database.reading() as connection:
        page = connection.execute(text("SELECT rootpage FROM sqlite_master WHERE name = 'ix_feedback_contents_who'")).scalar_one()
    store.close()
    data = bytearray((tmp_path / "f.db").read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    (tmp_path / "f.db").write_bytes(data)
    damaged = FeedbackStore(tmp_path / "f.db")
    assert "damaged" in str(damaged.damage)
    with pytest.raises(FeedbackDamagedError, match="Restore a backup"):
        add(damaged, "more")
    assert len(said(damaged)) == 200
    damaged.close()
    assert (tmp_path / "f.db").read_bytes() == data


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "f.db") as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(ArtefactError, match="mine"):
        FeedbackStore(tmp_path / "f.db")
    (tmp_path / "g.db").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(FeedbackDamagedError):
        FeedbackStore(tmp_path / "g.db")
    for wrong in ("mysql://me@host/db", "sqlite://", "postgresql://[x", "://"):
        with pytest.raises(OptionError):
            FeedbackStore(wrong)


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(FeedbackError) as caught:
        FeedbackStore("postgresql://me:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)


# Forgetting.


def test_forgetting_leaves_no_byte(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "f.db")
    for number in range(150):
        canary = f"canary-{number}-" + "x" * (number * 7)
        add(store, canary, subject="ann smith" if number % 3 == 0 else f"p{number}", who="helper")
    add(store, "canary by request", request="r1")
    add(store, "kept")
    add(store, "canary-of-ann", request="r1", subject="ann smith")
    assert b"canary-3-" in bytes_on_disk(tmp_path)
    assert store.forget("ann smith", who="admin") == 52
    left = bytes_on_disk(tmp_path)
    for gone in (b"ann smith", b"canary by request", b"canary-of-ann", *(f"canary-{n}-".encode() for n in range(0, 150, 3))):
        assert gone not in left
    for stays in (b"kept", b"canary-4-", b"admin"):
        assert stays in left
    found = store.verify()
    assert (found.entries, found.forgotten) == (153, 52)
    assert store.forget("ann smith", who="admin") == 0
    store.close()


def test_forgetting_waits_for_who_reads(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "a", subject="ann")
    monkeypatch.setattr("trunkline.feedback.store._PURGE_SECONDS", 0.1)
    with store._database.reading() as reader:
        reader.execute(select(schema.contents)).all()
        with pytest.raises(FeedbackError, match="still reads"):
            store.forget("ann", who="admin")
    assert store.forget("ann", who="admin") == 0
    assert b"delivery" not in bytes_on_disk(Path(str(store)).parent)


def test_states_go_first_and_a_failure_keeps_all(store: FeedbackStore) -> None:
    add(store, "a", subject="ann")
    add(store, "b", subject="bob")

    def fails(records: list) -> None:
        assert [record.entry["comment"] for record in records] == ["a"]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.forget("ann", who="admin", states=fails)
    assert said(store) == ["a", "b"]
    seen: list = []
    assert store.forget("ann", who="admin", states=seen.extend) == len(seen) == 1
    assert said(store) == [None, "b"]


def forgets_what_comes_meanwhile(one: FeedbackStore, other: FeedbackStore) -> None:
    """Somebody says something while the states of a person are removed: those of the new entry are removed too, before it is gone itself."""
    add(one, "before", subject="ann")
    seen: list[list[str]] = []

    def states(records: list) -> None:
        seen.append([record.entry["comment"] for record in records])
        if len(seen) == 1:
            add(other, "meanwhile", subject="ann")

    assert one.forget("ann", who="admin", states=states) == 2
    assert seen == [["before"], ["meanwhile"]]
    assert said(one) == [None, None]
    add(one, "later", subject="ann")

    def fails(records: list) -> None:
        if records[0].entry["comment"] == "meanwhile again":
            raise RuntimeError("no")
        add(other, "meanwhile again", subject="ann")

    with pytest.raises(RuntimeError):
        one.forget("ann", who="admin", states=fails)
    assert [text for text in said(one) if text] == ["later", "meanwhile again"]


def test_what_is_said_while_somebody_is_forgotten_keeps_no_states(store: FeedbackStore) -> None:
    other = FeedbackStore(str(store))
    forgets_what_comes_meanwhile(store, other)
    other.close()


# Backups and migrations.


def test_a_backup_while_others_write(store: FeedbackStore, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            add(store, "more")

    before = [add(store, str(n)) for n in range(5)]
    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = backup(str(store), tmp_path / "copy.db")
    finally:
        stop.set()
        thread.join()
    copy = FeedbackStore(tmp_path / "copy.db")
    assert copy.verify(before).head == found.head
    assert list(copy.records()) == list(store.records(upto=found.events))
    add(copy, "goes on")
    copy.verify()
    copy.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name and "tmp" in path.name) == []
    with pytest.raises(OptionError, match="exists"):
        backup(str(store), tmp_path / "copy.db")


def test_a_damaged_store_gives_no_backup(store: FeedbackStore, tmp_path: Path) -> None:
    add(store, "a")
    with sqlite3.connect(str(store)) as raw:
        raw.execute("DROP TRIGGER feedback_contents_update")
        raw.execute("UPDATE feedback_contents SET body = replace(body, 'delivery', 'refund')")
    raw.close()
    with pytest.raises(FeedbackDamagedError):
        backup(str(store), tmp_path / "copy.db")
    assert not [path for path in tmp_path.iterdir() if "copy" in path.name]


class KilledError(Exception):
    """What a kill is to a transaction: it never commits."""


@pytest.mark.parametrize("killed_at", range(4))
def test_a_migration_is_whole_or_not_there(tmp_path: Path, killed_at: int) -> None:
    """With a version to come, whose steps are killed one after the other: the store is read before and after, and the step is done once."""
    store = FeedbackStore(tmp_path / "f.db")
    add(store, "a")
    store.close()

    def second(connection: object, until: int = 99) -> None:
        words = ["ALTER TABLE feedback_events ADD COLUMN colour TEXT", "CREATE TABLE further (a)", "INSERT INTO further VALUES (1)"]
        for at, line in enumerate(words):
            if at == until:
                raise KilledError
            connection.exec_driver_sql(line)  # type: ignore[attr-defined]

    database = Database(tmp_path / "f.db")
    with contextlib.suppress(KilledError), database.writing() as connection:
        schema.migrate(connection, [*schema.STEPS, lambda c: second(c, killed_at)])
        raise KilledError  # behind the last step, before the commit
    same = FeedbackStore(tmp_path / "f.db")
    assert said(same) == ["a"]
    same.close()
    with database.writing() as connection:
        assert schema.migrate(connection, [*schema.STEPS, second]) == 1
    with database.writing() as connection:
        assert schema.migrate(connection, [*schema.STEPS, second]) == 2
    with pytest.raises(ArtefactError, match="version 2"):
        FeedbackStore(tmp_path / "f.db")
    database.close()


# PostgreSQL.


def test_postgresql_does_the_same(cluster: str, tmp_path: Path) -> None:
    store = FeedbackStore(cluster)
    ids = [add(store, str(n), key=str(n), subject="ann" if n == 1 else None) for n in range(3)]
    assert add(store, "2", key="2") == ids[2]
    with pytest.raises(FeedbackConflictError):
        add(store, "other", key="0")
    with pytest.raises(FeedbackError, match="never changed"), store._database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM feedback_events")
    threads = [threading.Thread(target=add, args=(store, f"thread {n}")) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert store.verify(ids).entries == 9
    assert store.forget("ann", who="admin") == 1
    found = backup(cluster, tmp_path / "copy.db")
    copy = FeedbackStore(tmp_path / "copy.db")
    assert list(copy.records()) == list(store.records())
    assert copy.verify(ids) == store.verify(ids) == found
    assert (found.entries, found.forgotten) == (9, 1)
    copy.close()
    store.close()
    again = FeedbackStore(cluster)
    assert again.verify(ids) == found
    other = FeedbackStore(cluster)
    with other._database.writing() as connection:
        connection.exec_driver_sql("TRUNCATE feedback_events, feedback_contents")
        connection.exec_driver_sql("UPDATE trunkline_feedback SET value = '0:' WHERE name = 'head'")
    forgets_what_comes_meanwhile(again, other)
    other.close()
    again.close()

"""Threads that write at the same time share a commit: each is told only when it is on the disk, and none suffers for another's entry."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.feedback.places import ENTRY
from trunkline.errors import FeedbackConflictError, FeedbackError, FeedbackFullError
from trunkline.feedback.store import FeedbackStore


class Held:
    """The store's transactions, of which the first waits for `go`. open: whether one is; count: how many there were."""

    def __init__(self, store: FeedbackStore) -> None:
        self.go, self.begun, self.open, self.count = threading.Event(), threading.Event(), False, 0
        self.fails: Exception | None = None
        self._real = store._database.writing
        store._database.writing = self.writing  # type: ignore[method-assign]

    @contextlib.contextmanager
    def writing(self, busy: Callable[[], object] | None = None) -> Iterator[Connection]:
        self.count, self.open = self.count + 1, True
        with self._real(busy) as connection:
            self.begun.set()
            assert self.go.wait(30)
            yield connection
            time.sleep(0.05)  # who is told before the commit is told now
            if self.fails is not None and self.count > 1:
                raise self.fails
        self.open = False


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    made = FeedbackStore(tmp_path / "feedback.db")
    yield made
    made.close()


def at_once(store: FeedbackStore, held: Held, adds: list[Callable[[], str]]) -> list[object]:
    """What several adds give that come while another one writes."""
    found: list[object] = [None] * len(adds)

    def run(at: int) -> None:
        try:
            found[at] = adds[at]()
            assert not held.open or held.count > 2
        except FeedbackError as error:
            found[at] = error

    first = threading.Thread(target=store.add, args=(ENTRY,), kwargs={"who": "first"})
    first.start()
    assert held.begun.wait(30)
    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(adds))]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        until = time.monotonic() + 30
        while len(store._together._waiting) < number and time.monotonic() < until:
            time.sleep(0.001)
    held.go.set()
    for thread in [first, *threads]:
        thread.join(30)
        assert not thread.is_alive(), "it waits for ever"
    return found


def adding(store: FeedbackStore, comment: str, key: str | None = None) -> Callable[[], str]:
    return lambda: store.add({**ENTRY, "comment": comment}, who="helper", idempotency_key=key)


def test_who_waits_together_is_kept_by_one_commit(store: FeedbackStore) -> None:
    held = Held(store)
    ids = at_once(store, held, [adding(store, str(at)) for at in range(6)])
    assert held.count == 2
    assert store.verify([str(one) for one in ids]).entries == 7
    records = {record.id: record.entry and record.entry["comment"] for record in store.records() if record.who == "helper"}
    assert [records[str(one)] for one in ids] == [str(at) for at in range(6)]


def test_a_refused_entry_takes_no_other_with_it(store: FeedbackStore) -> None:
    held = Held(store)
    adds = [adding(store, "a", "k"), adding(store, "other", "k"), adding(store, "a", "k"), adding(store, "b")]
    first, refused, same, last = at_once(store, held, adds)
    assert isinstance(refused, FeedbackConflictError)
    assert first == same != last
    assert [record.entry and record.entry.get("comment") for record in store.records()] == [None, "a", "b"]
    assert held.count == 2


def test_a_commit_that_fails_acknowledges_nothing(store: FeedbackStore) -> None:
    held = Held(store)
    held.fails = FeedbackFullError("no room")
    found = at_once(store, held, [adding(store, str(at)) for at in range(4)])
    assert all(isinstance(one, FeedbackFullError) for one in found)
    held.fails = None
    store.add({**ENTRY, "comment": "after"}, who="helper")
    assert [record.entry and record.entry.get("comment") for record in store.records()] == [None, "after"]


def test_many_threads_lose_nothing(store: FeedbackStore) -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda n=n: ids.extend(adding(store, f"{n}-{at}")() for at in range(25))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(ids)) == store.verify(ids).entries == 200

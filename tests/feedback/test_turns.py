"""Processes that write take turns, and who waits for another is kept by it. A second store on the same file stands to the first as another process does."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.feedback.places import ENTRY
from trunkline.errors import FeedbackConflictError
from trunkline.feedback.store import FeedbackStore
from trunkline.feedback.together import Left, Wanted
from trunkline.feedback.turns import Turns

SALT = "0" * 64


def entry(comment: str) -> dict:
    return {**ENTRY, "comment": comment}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[FeedbackStore]]:
    made = [FeedbackStore(tmp_path / "f.db") for _ in range(6)]
    yield made
    for store in made:
        store.close()


def waiting(place: Path) -> int:
    return Path(f"{place}.waiting").read_bytes().count(b"\n") if Path(f"{place}.waiting").exists() else 0


def behind_a_turn(stores: list[FeedbackStore], calls: list[Callable[[], str]], drop: bool = False) -> tuple[list[object], int]:
    """What adds give that come while somebody else has a turn, and how many turns they took. drop: what they left is lost."""
    found, threads, turns = list[object]([None] * len(calls)), list[threading.Thread](), list[int]()
    place = Path(str(stores[0]))

    def run(at: int) -> None:
        try:
            found[at] = calls[at]()
        except FeedbackConflictError as error:
            found[at] = error

    for at, store in enumerate(stores):
        store._database.writing = counted(store._database.writing, turns, at)  # type: ignore[method-assign]
    with Turns(place).turn():
        for number in range(1, len(calls) + 1):
            threads.append(threading.Thread(target=run, args=(number - 1,)))
            threads[-1].start()
            until = time.monotonic() + 30
            while waiting(place) < number and time.monotonic() < until:
                time.sleep(0.001)
        assert waiting(place) == len(calls)
        if drop:
            Left(place).take()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it waits for ever"
    assert waiting(place) == 0
    return found, len(turns)


def counted(real: Callable, turns: list[int], at: int) -> Callable:
    @contextmanager
    def writing(busy: Callable[[], object] | None = None) -> Iterator[object]:
        with real(busy) as connection:
            turns.append(at)
            yield connection

    return writing


def test_those_who_wait_for_another_process_are_kept_by_one_commit(stores: list[FeedbackStore]) -> None:
    calls = [lambda n=n, store=store: store.add(entry(str(n)), who="ann") for n, store in enumerate(stores)]
    ids, turns = behind_a_turn(stores, calls)
    assert turns <= 2, "of six; on a machine whose cores are all taken one may come too late for the first"
    assert stores[0].verify([str(one) for one in ids]).entries == 6
    said = {record.id: record.entry["comment"] for record in stores[0].records() if record.entry}
    assert [said[str(one)] for one in ids] == [str(n) for n in range(6)]


def test_what_was_left_and_lost_is_kept_by_its_owner(stores: list[FeedbackStore]) -> None:
    """As after a leader whose commit failed: nothing hangs on the file."""
    ids, turns = behind_a_turn(stores, [lambda n=n, s=s: s.add(entry(str(n)), who="ann") for n, s in enumerate(stores)], drop=True)
    assert turns == 6
    assert stores[0].verify([str(one) for one in ids]).entries == 6


def test_a_key_means_one_entry_across_processes(stores: list[FeedbackStore]) -> None:
    said = ["a", "b", "a", "b", "a", "a"]
    calls = [lambda t=t, s=s: s.add(entry(t), who="ann", idempotency_key="k") for t, s in zip(said, stores, strict=True)]
    found, _ = behind_a_turn(stores, calls)
    kept = {text for text, one in zip(said, found, strict=True) if isinstance(one, str)}
    assert len(kept) == 1
    assert len({one for one in found if isinstance(one, str)}) == 1
    assert all(isinstance(one, FeedbackConflictError) for text, one in zip(said, found, strict=True) if text not in kept)
    assert stores[0].verify().entries == 1


def test_what_a_killed_writer_left_is_kept_once_or_forgotten(stores: list[FeedbackStore], tmp_path: Path) -> None:
    store, left = stores[0], Left(tmp_path / "f.db")
    left.leave([Wanted(entry("whole"), "ann", None, SALT)])
    with Path(f"{store}.waiting").open("ab") as file:
        file.write(b'{"entry": {"branch": "intent"\n[]\n\xff\n{"entry": {}, "who": "ann", "key": null, "salt": "x"}\n{"entry": {"bran')
    store.add(entry("own"), who="bob")
    assert sorted(record.entry["comment"] for record in store.records() if record.entry) == ["own", "whole"]
    left.leave([Wanted(entry("canary"), "ann", None, SALT)])
    assert store.forget("ann", who="admin") == 1
    assert b"canary" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.verify()


def test_nobody_else_has_a_turn_and_who_waits_can_stop(tmp_path: Path) -> None:
    inside, most, done, turns = 0, 0, list[int](), Turns(tmp_path / "f")

    def run() -> None:
        nonlocal inside, most
        for _ in range(20):
            with turns.turn(lambda: None):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1
            done.append(1)

    threads = [threading.Thread(target=run) for _ in range(5)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert (len(done), most) == (100, 1)
    looks = list[int]()

    def stop() -> None:
        looks.append(1)
        raise KeyError

    with turns.turn(), pytest.raises(KeyError), turns.turn(stop):
        pytest.fail("two have a turn")
    assert looks == [1]
    with turns.turn(stop):
        assert looks == [1]

"""Writers that are killed, and writers at once: processes that keep feedback and write down what was acknowledged.

They are forked, so all of this runs in a process that has one thread only.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from tests.feedback.places import ENTRY
from trunkline.feedback.store import FeedbackStore


def kill_writers(folder: Path, kills: int, *, writers: int = 4, seed: int = 0, longest: float = 0.05) -> dict[str, int]:
    """Kill one of the writers that often, each time after a random while. Gives what the store and the acknowledgements say at the end.

    A writer that is started again first sends once more what was not acknowledged, as a client does, under the same key.
    """
    chance, place = random.Random(seed), folder / "feedback.db"
    FeedbackStore(place).close()
    running = {number: start(place, folder, number) for number in range(writers)}
    done = before = 0
    try:
        while done < kills:
            before = wait_for_more(folder, before)
            time.sleep(chance.uniform(0, longest))
            number = chance.randrange(writers)
            end(running[number])
            running[number] = start(place, folder, number)
            done += 1
    finally:
        for process in running.values():
            end(process)
    return {"kills": done, **compare(place, folder)}


def wait_for_more(folder: Path, before: int) -> int:
    """Wait until more was acknowledged than before, so that a busy machine does not make every kill one of a writer that only began."""
    end_of_waiting = time.monotonic() + 20
    while (size := sum(file.stat().st_size for file in folder.glob("acknowledged-*"))) <= before and time.monotonic() < end_of_waiting:
        time.sleep(0.001)
    return size


def write_together(folder: Path, *, writers: int, each: int) -> list[float]:
    """So many processes at once, each keeping so many entries. Gives the seconds that each entry took. Raises: where one of them failed."""
    place = folder / "feedback.db"
    FeedbackStore(place).close()
    running = []
    for number in range(writers):
        process = os.fork()
        if process == 0:
            code = 1
            try:
                store, spent = FeedbackStore(place), []
                for at in range(each):
                    began = time.perf_counter()
                    store.add({**ENTRY, "comment": f"{number}-{at}"}, who=f"writer {number}")
                    spent.append(time.perf_counter() - began)
                (folder / f"seconds-{number}").write_text("\n".join(map(str, spent)))
                code = 0
            finally:
                os._exit(code)
        running.append(process)
    codes = [os.waitpid(process, 0)[1] for process in running]
    if any(codes):
        raise RuntimeError(f"writers ended with {codes}")
    store = FeedbackStore(place)
    found = [record.entry["comment"] for record in store.records() if record.entry]
    store.verify()
    store.close()
    if sorted(found) != sorted(f"{number}-{at}" for number in range(writers) for at in range(each)):
        raise RuntimeError(f"{len(found)} entries are there")
    return [float(line) for file in folder.glob("seconds-*") for line in file.read_text().splitlines()]


def write_in_threads(folder: Path, *, writers: int, each: int) -> list[float]:
    """So many threads of this process at once, as in a server, each keeping so many entries. Gives the seconds that each entry took."""
    store, spent = FeedbackStore(folder / "threads.db"), list[float]()

    def write_some(number: int) -> None:
        for at in range(each):
            began = time.perf_counter()
            store.add({**ENTRY, "comment": f"{number}-{at}"}, who=f"writer {number}")
            spent.append(time.perf_counter() - began)

    threads = [threading.Thread(target=write_some, args=(number,)) for number in range(writers)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    found = store.verify().entries
    store.close()
    if found != writers * each:
        raise RuntimeError(f"{found} entries are there")
    return spent


def start(place: Path, folder: Path, number: int) -> int:
    """A writer in a process of its own; only a process without threads may be forked."""
    process = os.fork()
    if process == 0:
        try:
            write(place, folder / f"acknowledged-{number}", number)
        finally:
            os._exit(1)
    return process


def write(place: Path, acknowledged: Path, number: int) -> None:
    at = len(acknowledged.read_text().splitlines()) if acknowledged.exists() else 0
    store = FeedbackStore(place)
    log = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        key = f"{number}-{at}"
        id_ = store.add({**ENTRY, "comment": key}, who=f"writer {number}", idempotency_key=key)
        os.write(log, f"{key} {id_}\n".encode())
        at += 1


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def compare(place: Path, folder: Path) -> dict[str, int]:
    """lost: acknowledged and not there, or under another id; twice: there more than once. Every hash is compared on the way."""
    acknowledged = dict(line.split() for file in folder.glob("acknowledged-*") for line in file.read_text().splitlines() if " " in line)
    store = FeedbackStore(place)
    found = store.verify(list(acknowledged.values()))
    kept = [(record.entry["comment"], record.id) for record in store.records() if record.entry]
    store.close()
    there, counts = dict(kept), Counter(key for key, _ in kept)
    return {
        "acknowledged": len(acknowledged),
        "kept": found.entries,
        "lost": sum(there.get(key) != id_ for key, id_ in acknowledged.items()),
        "twice": sum(count > 1 for count in counts.values()),
    }

"""Run by the tests as a process of its own: forks writers, kills some of them, and prints as JSON what it found.

`python -m tests.states.crash FOLDER`. The forks are why this is not in the test process: here only one thread ever runs,
torch is loaded once, and a writer is up in a millisecond. A warning is an error: a kill must never look like damage.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from tests.states.fake_trunk import FakeTrunk, files, random_tokens
from trunkline import storage
from trunkline.states.encode import encode
from trunkline.states.store import States

TRUNK = FakeTrunk(width=32)
TEXTS = random_tokens(240)
KILLS = 15
GONE = [one.key for one in TEXTS[::7]]


def open_store(folder: Path) -> States:
    return States.open(folder, trunk_id=TRUNK.id, width=TRUNK.width, dtype="float32")


def fill(folder: Path, texts: list = TEXTS) -> None:
    encode(texts, TRUNK, open_store(folder), progress=False, max_tokens=256, shard_bytes=90_000)


def child(work: Callable[[], None]) -> int:
    """Start a process that does `work` and ends with status 0, or 1 where it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def wait(pid: int) -> bool:
    """True if the child was killed. A child that failed ends this script."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit(f"a writer failed with status {status}")
    return os.WIFSIGNALED(status)


def die_at(step: int) -> None:
    """Let this process kill itself at the `step`-th point of its writes: before and after each write, rename and sync."""
    points = iter(range(1_000_000))

    def guarded(name: str) -> None:
        plain = getattr(storage, name)

        def run(*arguments: object) -> None:
            for part in (lambda: None, lambda: plain(*arguments)):
                part()
                if next(points) == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(storage, name, run)

    for name in ("_write", "_rename", "_sync_folder"):
        guarded(name)


def random_kills(folder: Path) -> dict:
    started = time.perf_counter()
    wait(child(lambda: fill(folder / "clean")))
    seconds, clean, chance = time.perf_counter() - started, files(folder / "clean"), random.Random(1)
    kills = equal = rounds = 0
    while kills < KILLS:
        target, rounds, killed = folder / f"round{rounds}", rounds + 1, True
        while killed:
            pid = child(lambda: fill(target))  # noqa: B023 - the child runs at once
            time.sleep(chance.random() * seconds)
            os.kill(pid, signal.SIGKILL)
            killed = wait(pid)
            kills += killed
            if kills >= KILLS and killed:
                killed = wait(child(lambda: fill(target)))  # noqa: B023
        equal += files(target) == clean
    return {"kills": kills, "rounds": rounds, "equal": equal, "shards": len(clean) - 1}


def kills_at_each_step(folder: Path) -> dict:
    wait(child(lambda: fill(folder / "clean")))
    clean, step, equal, killed = files(folder / "clean"), 0, 0, True
    while killed:
        target = folder / f"step{step}"
        killed = wait(child(lambda: (die_at(step), fill(target))))  # noqa: B023
        wait(child(lambda: fill(target)))  # noqa: B023
        equal += files(target) == clean
        step += 1
    return {"kills": step - 1, "equal": equal - 1}


def forget_killed_at_each_step(folder: Path) -> dict:
    wait(child(lambda: fill(folder / "full")))
    whole, step, sound, killed = set(), 0, 0, True
    while killed:
        target = folder / f"step{step}"
        shutil.copytree(folder / "full", target)
        killed = wait(child(lambda: (die_at(step), open_store(target).forget(GONE))))  # noqa: B023
        states = open_store(target)
        whole.add(len(states))
        states.forget(GONE)
        sound += len(states) == len(TEXTS) - len(GONE) and not any(key in data for data in files(target).values() for key in GONE)
        step += 1
    return {"kills": step - 1, "sound": sound - 1, "sizes": sorted(whole)}


def together(folder: Path) -> dict:
    """Two writers whose texts overlap by a third."""
    writers = [child(lambda part=part: fill(folder, part)) for part in (TEXTS[:160], TEXTS[80:])]
    for pid in writers:
        wait(pid)
    states = open_store(folder)
    listed = sum(entry.rows for entry in states._entries())
    return {"rows": len(states), "rows_in_shards": listed, "missing": len(states.missing(TEXTS))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    parts = {"random": random_kills, "steps": kills_at_each_step, "forget": forget_killed_at_each_step, "together": together}
    print(json.dumps({name: part(Path(sys.argv[1]) / name) for name, part in parts.items()}))

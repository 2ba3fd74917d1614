"""Run by the tests as a process of its own: kills saves at every step of their way, and prints as JSON what was then on disk.

`python -m tests.train.crash FOLDER`. As in tests/states/crash.py the forks are why: only one thread ever runs here, and torch is
loaded once. A warning is an error: a kill must never look like damage.
"""

import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from tests import tiny
from tests.train.samples import make_branch, make_rows
from trunkline import branch as branches
from trunkline import storage
from trunkline.errors import ArtefactError
from trunkline.train.checkpoint import Checkpoints

STEPS = ("_write", "_rename", "_exchange", "_sync_folder", "_forget")
SAVES = ((1, 1), (2, 2), (3, 3), (3, 4))
"""Step and content of each save: the third drops the first, the fourth takes the place of the third."""
SAVES_OF_ONE_STEP = ((1, 1), (1, 2))


def die_at(point: int) -> None:
    """Let this process kill itself at the `point`-th point: before and after each write, rename, exchange, sync and deletion."""
    points = iter(range(1_000_000))

    def guarded(name: str) -> None:
        plain = getattr(storage, name)

        def run(*arguments: object) -> None:
            for part in (lambda: None, lambda: plain(*arguments)):
                part()
                if next(points) == point:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(storage, name, run)

    for name in STEPS:
        guarded(name)


def without_exchange() -> None:
    """Let this process believe that its system cannot swap two folders in one step."""
    storage.sys = SimpleNamespace(platform="other")


def killed(work: Callable[[], None]) -> bool:
    """Do `work` in a process of its own; True when it was killed."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit(f"a child failed with status {status}")
    return os.WIFSIGNALED(status)


def save(kept: Checkpoints, step: int, content: int, groups: tuple[str, ...] = ("weights", "optimizer")) -> None:
    tensors = {name: {"x": torch.full((50,), float(content))} for name in groups}
    kept.save(step, tensors, {"content": content})


def save_all(folder: Path, done: Path, saves: Sequence[tuple[int, int]]) -> None:
    with Checkpoints(folder, {}) as kept:
        for step, content in saves:
            save(kept, step, content)
            with done.open("a") as file:
                file.write(".")


def checkpoints(folder: Path, prepare: Callable[[], None], saves: Sequence[tuple[int, int]]) -> dict:
    """Every save, killed at each point: what is read then is whole, and is what was saved last or what was being saved."""
    folder.mkdir()
    point, whole, ended, alive, steps = 0, 0, 0, False, min(2, len({step for step, _ in saves}))
    while not alive:
        target, done = folder / f"at{point}", folder / f"done{point}"
        done.touch()
        alive = not killed(lambda: (prepare(), die_at(point), save_all(target, done, saves)))  # noqa: B023 - the child runs at once
        finished = done.stat().st_size
        with Checkpoints(target, {}) as kept:
            found = kept.latest()
            clean = not strays(target)
        content = found[1]["content"] if found else 0
        same = found is None or all(bool((tensors["x"] == content).all()) for tensors in found[0].values())
        whole += same and clean and content in (finished, finished + 1)
        save_all(target, done, saves[content:] or saves[-1:])
        with Checkpoints(target, {}) as kept:
            ended += kept.latest()[1]["content"] == saves[-1][1] and len(list(target.glob("step-*"))) == steps and not strays(target)
        point += 1
    return {"kills": point - 1, "whole": whole - 1, "ended": ended - 1}


def strays(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def branch(folder: Path, prepare: Callable[[], None]) -> dict:
    """A branch saved over another and killed at each point: the old one is there or the new one, and the next save cleans up."""
    folder.mkdir()
    old, new = (make_branch(folder.parent / "model", make_rows(), method="lora", seed=seed) for seed in (0, 1))
    saved = {"old": old.save(folder / "old"), "new": new.save(folder / "new")}
    wanted = {name: (path / "branch.safetensors").read_bytes() for name, path in saved.items()}
    point, whole, ended, seen, alive = 0, 0, 0, set(), False
    while not alive:
        target = folder / f"at{point}" / "branch"
        shutil.copytree(folder / "old", target)
        alive = not killed(lambda: (prepare(), die_at(point), new.save(target)))  # noqa: B023
        branches.load(target)
        data = (target / "branch.safetensors").read_bytes()
        seen |= {name for name, content in wanted.items() if content == data}
        whole += data in wanted.values()
        new.save(target)
        ended += (target / "branch.safetensors").read_bytes() == wanted["new"] and not strays(target.parent)
        point += 1
    return {"kills": point - 1, "whole": whole - 1, "ended": ended - 1, "seen": sorted(seen)}


def locks(folder: Path) -> dict:
    """100 tries to enter a folder while another process holds it; then that process is killed, and the next try enters."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with Checkpoints(folder, {}):
                os.write(writing, b".")
                signal.pause()
        finally:
            os._exit(1)
    os.read(reading, 1)
    refused = 0
    for _ in range(100):
        try:
            Checkpoints(folder, {}).__enter__()
        except ArtefactError as error:
            refused += "another run is using this folder" in str(error)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with Checkpoints(folder, {}) as kept:
        return {"refused": refused, "recovered": kept.latest() is None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    place = Path(sys.argv[1])
    tiny.save("bert", place / "model")
    found = {
        "checkpoints": checkpoints(place / "c", lambda: None, SAVES),
        "checkpoints, no exchange": checkpoints(place / "d", without_exchange, SAVES_OF_ONE_STEP),
        "branch": branch(place / "b", lambda: None),
        "branch, no exchange": branch(place / "e", without_exchange),
        "locks": locks(place / "l"),
    }
    print(json.dumps(found))

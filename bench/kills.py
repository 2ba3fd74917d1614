"""Kills runs of `tune` with SIGKILL at random moments, starts them again, and compares what they end with to runs that were left alone.

    python bench/kills.py                    # 100 kills
    python bench/kills.py --kills 10 --json

Each run is a process of its own, forked from this one (only one thread ever runs here, and torch is loaded once, so a run is up
in a millisecond). It goes from a CSV file to a saved branch: read, split, encode into an empty store, train with a checkpoint
after every step, measure, save. A run is killed, started again by the same call, killed again, until it ends. "identical" counts
the runs whose branch.safetensors equals that of the clean run byte for byte and whose history (losses, metrics) is the same;
"without strays" those after which no temporary file is left.
A warning or an error in a run that goes on is a failure: a kill must never look like damage. Exit code 1 unless all are both.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from tests import tiny
from trunkline.data.read import read
from trunkline.train.settings import Settings
from trunkline.train.together import tune_together
from trunkline.train.tune import tune

MODES = {
    "classify full": ("classify", "full", 1),
    "regress lora": ("regress", "lora:rank=2", 2),
    "classify all": ("classify", "full", "all"),
    "together": ("classify", "full", 1),
}
KILLS_A_RUN = 6
"""At most: then a run is left alone, so that each comes to its end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many kills  [default: 100]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments  [default: 0]")
    parser.add_argument("--folder", help="where the runs are kept meanwhile  [default: the system's folder for such]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=told.folder) as name:
        folder = Path(name)
        prepare(folder)
        found = kill_runs(folder, told.kills, random.Random(told.seed))
    print(json.dumps(found) if told.json else "\n".join(f"{key:>12}: {value}" for key, value in found.items()))
    return 0 if found["identical"] == found["without strays"] == found["runs"] and found["kills"] >= told.kills else 1


def prepare(folder: Path) -> None:
    """A tiny model and a file of rows for each task."""
    tiny.save("bert", folder / "model")
    words = sorted({word for text in tiny.TEXTS for word in text.split()})
    chance = random.Random(0)
    texts = [" ".join(chance.choices(words, k=chance.randint(3, 9))) for _ in range(60)]
    for task in ("classify", "regress"):
        lines = [f"{text.replace(',', '')},{len(text) % 3 if task == 'regress' else 'abc'[len(text) % 3]}" for text in texts]
        (folder / f"{task}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")


def job(folder: Path, mode: str, name: str) -> None:
    """The call that is killed and repeated."""
    task, method, depth = MODES[mode]
    os.environ["TRUNKLINE_CACHE"] = str(folder / f"{name}.cache")
    warnings.filterwarnings("error", category=UserWarning, module="trunkline")
    settings = Settings(epochs=4, batch_size=4, checkpoint_seconds=0, threads=1, patience=None, evaluate_every=5, dropout=0.1)
    rows = read(folder / f"{task}.csv", task, text="text", label="label")
    if mode == "together":
        second = read(folder / "regress.csv", "regress", text="text", label="label")
        tune_together({"first": rows, "second": second}, folder / "model", method=method, depth=depth, settings=settings, out=folder / name)
        return
    tune(rows, folder / "model", method=method, depth=depth, settings=settings, out=folder / name)


def kill_runs(folder: Path, wanted: int, chance: random.Random) -> dict:
    clean, seconds = {}, {}
    for mode in MODES:
        started = time.perf_counter()
        wait(child(lambda: job(folder, mode, f"clean {mode}")))  # noqa: B023 - the child runs at once
        seconds[mode] = time.perf_counter() - started
        clean[mode] = result(folder / f"clean {mode}")
    kills = runs = identical = clear = 0
    reached: Counter[str] = Counter()
    while kills < wanted:
        mode, name = list(MODES)[runs % len(MODES)], f"run{runs}"
        of_this, over = 0, False
        while not over and of_this < KILLS_A_RUN and kills < wanted:
            over = not killed_after(chance.random() * seconds[mode], folder, mode, name)
            if not over:
                of_this, kills = of_this + 1, kills + 1
                reached[stage(folder, name)] += 1
            elif not of_this:
                seconds[mode] *= 0.8  # the clean run was slower, on a machine that had more to do then
        if not over:
            wait(child(lambda: job(folder, mode, name)))  # noqa: B023
        runs += 1
        identical += result(folder / name) == clean[mode]
        clear += not strays(folder)
        for path in (folder / name, folder / f"{name}.cache"):
            shutil.rmtree(path, ignore_errors=True)
    return {"kills": kills, "runs": runs, "identical": identical, "without strays": clear, "killed": dict(sorted(reached.items()))}


def killed_after(pause: float, folder: Path, mode: str, name: str) -> bool:
    """Start a run and kill it after so many seconds; False when it was quicker."""
    pid = child(lambda: job(folder, mode, name))
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def stage(folder: Path, name: str) -> str:
    """How far a killed run had come."""
    kept = next((path for path in (folder / f"{name}.checkpoints", folder / name / "together.checkpoints") if path.exists()), folder)
    steps = sorted(kept.glob("seed-0/step-*"))
    if (folder / name / "manifest.json").exists() or (folder / name / "first/manifest.json").exists():
        return "after the branch was saved"
    if not steps:
        return "before the first checkpoint"
    state = json.loads((steps[-1] / "state.json").read_text(encoding="utf-8"))
    return "between the last step and the saved branch" if state["progress"]["done"] else "in training"


def result(folder: Path) -> list[tuple[bytes, list]]:
    """What must be the same of each branch: the weights, and the history but for its seconds."""
    found = []
    for report in sorted(folder.rglob("report.json")):
        history = json.loads(report.read_text(encoding="utf-8"))["history"]
        told = [{k: v for k, v in entry.items() if k != "seconds"} for run in history for entry in run]
        found.append((report.with_name("branch.safetensors").read_bytes(), told))
    return found


def strays(folder: Path) -> list[str]:
    """Temporary files that the last start should have taken away."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp*")]


def child(work: Callable[[], None]) -> int:
    """Start a process that does `work` and ends with status 0, or 1 where it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # the fork must end here, whatever came
        print(f"a run failed: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def wait(pid: int) -> bool:
    """True if the child was killed. Raises: RuntimeError if it failed."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise RuntimeError("a run failed; its error is above")
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    sys.exit(main())

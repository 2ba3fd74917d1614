"""Kills runs of learning from rewards with SIGKILL while they write, judge and learn, goes on, and compares every byte with runs left alone (R10).

    python bench/ppo_kills.py                # 100 kills of tiny models
    python bench/ppo_kills.py --kills 10 --json

As in bench/kills.py each run is a process of its own, forked from this one. It is killed at a random moment, started again by the same call,
killed again, until it ends. Checkpoints are written after every step, or, in three of the five kinds of run, a tenth of a second after the last at the
earliest, so that several steps are done again. "identical" counts the runs whose last checkpoint (policy, value, the weights to go back to, optimizer) and whose
history, as JSON in its own order and without its seconds, are those of the clean run byte for byte. Printed: what the kills fell into. Exit code 1
unless all are identical.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from kills import KILLS_A_RUN, child, wait

from tests import tiny
from tests.alignment.worlds import PROMPTS, TOY, count, start
from trunkline.alignment import grpo, ppo, rloo
from trunkline.alignment.online import Loop, learn
from trunkline.train.checkpoint import Checkpoints

TOLD = {**TOY, "steps": 6, "answers": 16, "minibatch": 8, "epochs": 2}
MODES = {
    "ppo, gpt2": ("gpt2", ppo, {"kl_target": 1.0}, {"method": "full"}),
    "ppo, gpt2 lora": ("gpt2", ppo, {"entropy": 0.01, "value_from": "policy", "checkpoint_seconds": 0.1}, {"method": "lora"}),
    "ppo, t5": ("t5", ppo, {"checkpoint_seconds": 0.1}, {"task": "seq2seq"}),
    "grpo, llama": ("llama", grpo, {"group": 4}, {"method": "lora"}),
    "rloo, gpt2": ("gpt2", rloo, {"group": 4, "epochs": 1, "checkpoint_seconds": 0.1}, {}),
}
PHASES = ("elsewhere", "draw", "score", "update", "save")
AT = mmap.mmap(-1, 1)
"""What a run is doing, for its parent to read when it has killed it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(1)
    for name in PHASES[1:]:
        setattr(Loop, name, _noted(name, getattr(Loop, name)))
    with tempfile.TemporaryDirectory() as name:
        found = kill_runs(Path(name), told.kills, random.Random(told.seed))
    print(json.dumps(found) if told.json else "\n".join(f"{key:>12}: {value}" for key, value in found.items()))
    return 0 if found["identical"] == found["runs"] and found["kills"] >= told.kills else 1


def _noted(name: str, work: Any) -> Any:
    def then(*given: Any, **told: Any) -> Any:
        AT[0] = PHASES.index(name)
        found = work(*given, **told)
        AT[0] = 0
        return found

    return then


def job(folder: Path, mode: str, name: str) -> None:
    """The call that is killed and repeated."""
    warnings.filterwarnings("error", category=UserWarning, module="trunkline")
    model, goal, told, how = MODES[mode]
    config = goal.Config(**{**TOLD, "checkpoint_seconds": 0.0, **told})
    branch = start(folder / model, **how)
    with Checkpoints(folder / name, {"mode": mode}) as kept:
        found = learn(branch, PROMPTS, count, goal.GOAL, config, checkpoints=kept)
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in found.history]
    (folder / name / "history.json").write_text(json.dumps(history))


def kill_runs(folder: Path, wanted: int, chance: random.Random) -> dict[str, Any]:
    for model in {mode[0] for mode in MODES.values()}:
        tiny.save(model, folder / model)
    clean, seconds = {}, {}
    for mode in MODES:
        began = time.perf_counter()
        wait(child(lambda: job(folder, mode, f"clean {mode}")))  # noqa: B023 - the child runs at once
        clean[mode], seconds[mode] = result(folder / f"clean {mode}"), time.perf_counter() - began
    kills = runs = identical = 0
    reached: Counter[str] = Counter()
    apart: dict[str, list[str]] = {}
    while kills < wanted:
        mode, name, of_this, over = list(MODES)[runs % len(MODES)], f"run{runs}", 0, False
        while not over and of_this < KILLS_A_RUN and kills < wanted:
            over, phase = killed_after(chance.random() * seconds[mode], folder, mode, name)
            if not over:
                of_this, kills = of_this + 1, kills + 1
                reached[phase] += 1
        if not over:
            wait(child(lambda: job(folder, mode, name)))  # noqa: B023
        found = result(folder / name)
        differ = sorted(key for key in found.keys() | clean[mode].keys() if found.get(key) != clean[mode].get(key))
        runs, identical = runs + 1, identical + (not differ)
        if differ:
            apart[f"{mode}, {name}"] = differ
        shutil.rmtree(folder / name)
    return {"kills": kills, "runs": runs, "identical": identical, "killed in": dict(reached), "differ": apart}


def killed_after(pause: float, folder: Path, mode: str, name: str) -> tuple[bool, str]:
    """Start a run and kill it after so many seconds: whether it had ended before, and what it was doing."""
    AT[0] = 0
    pid = child(lambda: job(folder, mode, name))
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    return not wait(pid), PHASES[AT[0]]


def result(folder: Path) -> dict[str, bytes]:
    """What must be the same: the history, and every tensor file of the last checkpoint."""
    last = max(folder.glob("step-*"))
    found = {path.name: path.read_bytes() for path in last.glob("*.safetensors")}
    return found | {"history": (folder / "history.json").read_bytes()}


if __name__ == "__main__":
    sys.exit(main())

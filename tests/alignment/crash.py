"""Run by the tests as a process of its own: kills a run of PPO while it writes and while it learns, and prints as JSON how it ended.

`python -m tests.alignment.crash FOLDER`. As in tests/train/crash.py, forks keep one thread and one import.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from tests import tiny
from tests.alignment.worlds import PROMPTS, TOY, count, start
from tests.train.crash import killed
from trunkline.alignment import online, ppo
from trunkline.alignment.online import Loop, learn
from trunkline.train.checkpoint import Checkpoints

SETTINGS = ppo.Config(**{**TOY, "steps": 4, "answers": 16, "minibatch": 8, "epochs": 2, "kl_target": 1.0, "checkpoint_seconds": 0.0})


def run(branch: object, folder: Path) -> None:
    with Checkpoints(folder, {"told": 1}) as kept:
        found = learn(branch, PROMPTS, count, ppo.GOAL, SETTINGS, checkpoints=kept)
    digest = hashlib.sha256()
    for name, parameter in sorted(found.policy.network.learned().items()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in found.history]
    (folder / "end.json").write_text(json.dumps([digest.hexdigest(), history], sort_keys=True))


def die(place: str, at: int) -> None:
    """Let this process kill itself in its `at`-th minibatch, or within the `at`-th drawing, when a part of the answers is written."""
    counter = iter(range(1_000_000))

    def guarded(work: object) -> object:
        def then(*given: object, **told: object) -> object:
            found = work(*given, **told)
            if next(counter) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return then

    if place == "learning":
        Loop.minibatch = guarded(Loop.minibatch)
    else:
        online.roll_out.__wrapped__.__globals__["_answer"] = guarded(online.roll_out.__wrapped__.__globals__["_answer"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    branch = start(tiny.save("gpt2", place / "model"))
    killed(lambda: ((place / "clean").mkdir(), run(branch, place / "clean")))
    wanted, same, kills = (place / "clean" / "end.json").read_text(), 0, 0
    for where, at in (("learning", 1), ("learning", 6), ("writing", 5), ("writing", 40)):
        folder = place / f"{where}{at}"
        folder.mkdir()
        kills += killed(lambda: (die(where, at), run(branch, folder)))  # noqa: B023 - the child runs at once
        killed(lambda: run(branch, folder))  # noqa: B023
        same += (folder / "end.json").read_text() == wanted
    print(json.dumps({"kills": kills, "identical": same, "steps": len(json.loads(wanted)[1])}))

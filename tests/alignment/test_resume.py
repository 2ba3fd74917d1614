"""R10: a run that was killed while it wrote or while it learned ends with the same bytes as one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.alignment.worlds import PROMPTS, TOY, count, start
from trunkline.alignment import ppo
from trunkline.alignment.online import learn
from trunkline.errors import OptionError
from trunkline.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


@pytest.mark.wide
def test_kills_while_writing_and_while_learning_change_no_byte(tmp_path):
    command = [sys.executable, "-m", "tests.alignment.crash", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 4, "identical": 4, "steps": 5}


def test_a_history_is_the_same_whether_or_not_it_went_through_a_checkpoint(tiny_folder, tmp_path):
    """Its names too come in one order, so that what is written of it is the same bytes."""
    branch, told = start(tiny_folder("gpt2")), {**TOY, "answers": 4, "minibatch": 4, "epochs": 1, "steps": 2, "checkpoint_seconds": 0.0}
    with Checkpoints(tmp_path / "c", {}) as kept:
        alone = learn(branch, PROMPTS, count, ppo.GOAL, ppo.Config(**told), checkpoints=kept)
        again = learn(branch, PROMPTS, count, ppo.GOAL, ppo.Config(**told), checkpoints=kept)
    assert json.dumps(again.history) == json.dumps(alone.history)


def test_a_checkpoint_of_other_settings_is_refused(tiny_folder, tmp_path):
    branch = start(tiny_folder("gpt2"))
    settings = ppo.Config(**{**TOY, "steps": 1, "answers": 4, "minibatch": 4, "epochs": 1})
    with Checkpoints(tmp_path / "c", {"kl": 0.1}) as kept:
        learn(branch, PROMPTS, count, ppo.GOAL, settings, checkpoints=kept)
    with Checkpoints(tmp_path / "c", {"kl": 0.2}) as kept, pytest.raises(OptionError, match="belongs to another run"):
        learn(branch, PROMPTS, count, ppo.GOAL, settings, checkpoints=kept)

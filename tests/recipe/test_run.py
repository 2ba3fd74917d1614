"""`run`: what is skipped and why, where a killed run goes on, and one table of gains."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trunkline.recipe
from trunkline.branch import load
from trunkline.recipe.run import run

WORDS = ("card", "order", "money", "account", "password", "package")
RECIPE = """\
out: runs/toy
measure:
  held-out answers: {{file: held.jsonl}}
  reward: {{file: held.jsonl, reward: $judge, rows: 4}}
steps:
  sft:
    tune: {{file: chats.jsonl, task: "generate:max_new_tokens=4", model: {llama}, method: lora, depth: 1, epochs: 1, batch_size: 8, device: cpu}}
  judge:
    tune: {{file: pairs.jsonl, task: reward, model: {llama}, method: full, depth: 1, epochs: 1, batch_size: 8, device: cpu}}
  policy:
    align: {{file: pairs.jsonl, goal: "dpo:samples=0", start: $sft, epochs: 1, batch_size: 8, device: cpu}}
  checked:
    evaluate: {{branch: $judge, file: pairs.jsonl}}
"""


@pytest.fixture
def folder(tiny_folder, tmp_path, cache):
    said = [(f"who can help me with the {a} {b}", f"please, {a} today", f"the {a} was damaged") for a in WORDS for b in WORDS]

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("chats.jsonl", [{"prompt": asked, "response": good} for asked, good, _ in said])
    write("held.jsonl", [{"prompt": f"my {a} has not arrived", "response": f"please, {a} today"} for a in WORDS])
    write("pairs.jsonl", [{"prompt": asked, "chosen": good, "rejected": bad} for asked, good, bad in said])
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(llama=tiny_folder("llama")))
    return tmp_path


def carried_out(path):
    done = []
    found = run(path, on_step=lambda step, skipped: done.append(step.name) if not skipped else None)
    return done, found


@pytest.mark.wide
def test_steps_that_are_done_are_skipped_until_something_they_depend_on_changes(folder):
    path = folder / "recipe.yaml"
    done, found = carried_out(path)
    assert done == ["sft", "judge", "policy", "checked"]
    assert [step["skipped"] for step in found.steps] == [False] * 4
    before = {g.step: g for g in found.gains if g.measure == "held-out answers"}
    assert list(before) == ["model before tuning", "sft", "policy"]
    assert before["sft"].gain == pytest.approx(before["sft"].value - before["model before tuning"].value)
    assert before["model before tuning"].gain is None
    assert {g.metric for g in found.gains} == {"Perplexity", "mean reward"}
    assert "against the step before" in str(found)
    assert json.loads((folder / "runs/toy/recipe.json").read_text())["gains"][0]["step"] == "model before tuning"

    assert carried_out(path)[0] == [], "nothing changed"
    path.write_text(path.read_text().replace('goal: "dpo:samples=0"', 'goal: "ipo:samples=0"'))
    assert carried_out(path)[0] == ["policy"]
    chats = folder / "chats.jsonl"
    chats.write_text("".join(chats.read_text().splitlines(keepends=True)[:-2]))
    assert carried_out(path)[0] == ["sft", "policy"], "the step that reads the file, and the one that begins from it"
    weights = folder / "runs/toy/judge/branch.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert carried_out(path)[0] == ["judge"], "a damaged branch is made again; it comes out the same, so what follows is still done"


def test_a_measure_of_labels_is_the_share_that_is_right(tiny_folder, tmp_path, cache):
    """The held-out rows have the second label only, so that a truth that is not read shows."""
    rows = [{"text": f"the {a} {b}", "label": "bad" if b in WORDS[:3] else "good"} for a in WORDS for b in WORDS]
    for name, some in (("train", rows), ("held", [row for row in rows if row["label"] == "good"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    text = f"""
measure:
  labels: {{file: held.jsonl, task: classify}}
steps:
  tuned:
    tune: {{file: train.jsonl, model: {tiny_folder("bert")}, depth: 1, epochs: 1, batch_size: 8, device: cpu}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    _, found = carried_out(tmp_path / "recipe.yaml")
    (value,) = [gain.value for gain in found.gains if gain.step == "tuned"]
    answers = load(tmp_path / "runs/recipe/tuned").predict([row["text"] for row in rows if row["label"] == "good"])
    assert value == pytest.approx(sum(answer.value == "good" for answer in answers) / len(answers))
    assert value != 0.5


@pytest.mark.wide
def test_a_killed_run_goes_on_at_its_step(folder):
    path = folder / "recipe.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[4:7] + lines[9:11]))  # two steps, nothing measured
    code = f"""
import os, signal
from trunkline.recipe.run import run
run({str(folder / "recipe.yaml")!r}, on_step=lambda step, skipped: os.kill(os.getpid(), signal.SIGKILL) if step.name == "policy" else None)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(trunkline.recipe.__file__).parents[3], check=False, capture_output=True)
    assert killed.returncode == -9
    started = time.time()
    assert carried_out(folder / "recipe.yaml")[0] == ["policy"]
    assert (folder / "runs/toy/sft/branch.safetensors").stat().st_mtime < started

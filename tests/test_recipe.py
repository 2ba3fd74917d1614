"""`run`: what is skipped and why, where a killed run goes on, errors with their lines, and one table of gains."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trunkline import recipe as recipes
from trunkline.branch import load
from trunkline.errors import DataError
from trunkline.recipe import read_recipe, run

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


def test_a_killed_run_goes_on_at_its_step(folder):
    path = folder / "recipe.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[4:7] + lines[9:11]))  # two steps, nothing measured
    code = f"""
import os, signal
from trunkline.recipe import run
run({str(folder / "recipe.yaml")!r}, on_step=lambda step, skipped: os.kill(os.getpid(), signal.SIGKILL) if step.name == "policy" else None)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(recipes.__file__).parents[2], check=False, capture_output=True)
    assert killed.returncode == -9
    started = time.time()
    assert carried_out(folder / "recipe.yaml")[0] == ["policy"]
    assert (folder / "runs/toy/sft/branch.safetensors").stat().st_mtime < started


def problems(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        read_recipe(tmp_path / "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: {}\n", "r.yaml:1: key='stepps': unknown. Did you mean 'steps'?"),
        ("out: x\n", "there are no steps"),
        ("steps:\n  a:\n    tunne: {file: a.jsonl}\n", "r.yaml:3: step 'a': verb='tunne': unknown. Did you mean 'tune'?"),
        ("steps:\n  a:\n    tune:\n      file: a.jsonl\n      modle: x\n", "r.yaml:5: step 'a': key='modle': unknown. Did you mean 'model'?"),
        ("steps:\n  a:\n    tune:\n      file: a.jsonl\n      epochs: many\n", "r.yaml:5: step 'a': epochs='many'"),
        ("steps:\n  a:\n    tune:\n      file: a.jsonl\n      epochs: 0\n", "r.yaml:5: step 'a': epochs=0: use 1 to 10000"),
        ("steps:\n  a:\n    tune:\n      file: a.jsonl\n      task: clasify\n", "r.yaml:5: step 'a': task='clasify': unknown"),
        ("steps:\n  a:\n    align:\n      file: a.jsonl\n      goal: dppo\n", "r.yaml:5: step 'a': goal='dppo': unknown"),
        ("steps:\n  a:\n    tune: {model: x}\n", "r.yaml:3: step 'a': file is missing"),
        ("steps:\n  a:\n    tune:\n      file: b.jsonl\n", "r.yaml:4: step 'a': file='b.jsonl': no such file"),
        ("steps:\n  a:\n    align:\n      file: a.jsonl\n      start: $b\n  b:\n    tune: {file: a.jsonl}\n", "r.yaml:5: step 'a': $b is no earlier"),
        ("steps:\n  a b:\n    tune: {file: a.jsonl}\n", "r.yaml:2: the step's name 'a b'"),
        ("measure:\n  m: {file: a.jsonl, reward: a}\nsteps:\n  a:\n    tune: {file: a.jsonl}\n", "r.yaml:2: measure 'm': reward='a': write $"),
        ("measure:\n  m: {}\nsteps:\n  a:\n    tune: {file: a.jsonl}\n", "r.yaml:2: measure 'm': file is missing"),
        ("steps:\n  a:\n    tune: {file: !!python/object/apply:os.system ['true']}\n", "r.yaml:3: a tag"),
        ("steps:\n  a: &x\n    tune: {file: a.jsonl}\n", "r.yaml:2: the anchor"),
    ],
)  # fmt: skip
def test_each_problem_is_told_with_its_line(text, said, tmp_path):
    assert said in problems(tmp_path, text)


def test_all_problems_are_told_together(tmp_path):
    said = problems(tmp_path, "steps:\n  a:\n    tune:\n      modle: x\n      epochs: 0\n      file: gone.jsonl\n")
    assert [line.split(":")[1] for line in said.splitlines()] == ["4", "5", "6"]

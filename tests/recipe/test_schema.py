"""Recipes that are not right: each problem is told with its line, and all of them together."""

import pytest

from trunkline.errors import DataError
from trunkline.recipe.schema import read_recipe


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

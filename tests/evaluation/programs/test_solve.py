"""Problems written by a branch, run and counted: what is asked of the branch, what of its answers is run, and what the report says."""

import json
from itertools import count

import pytest
from click.testing import CliRunner

from trunkline.branch import Branch
from trunkline.commands.branches import commands
from trunkline.errors import OptionError
from trunkline.evaluation.programs.sandbox import CodeProblem, Limits
from trunkline.evaluation.programs.solve import completion, solve
from trunkline.methods.full import Config
from trunkline.model.backbone import load_backbone
from trunkline.tasks import classify, generate
from trunkline.types import Answer

ADD = CodeProblem("t/0", "def add(a, b):\n", "def check(f):\n    assert f(1, 2) == 3", "add", "    return a + b")
TAKE = CodeProblem("t/1", 'def take(a, b):\n    """a less b"""\n', "def check(f):\n    assert f(3, 2) == 1", "take", "    return a - b")
SLOW = Limits(seconds=20)


@pytest.fixture(scope="module")
def branch(tiny_folder):
    return Branch.new(load_backbone(tiny_folder("gpt2")), generate.TaskSpec(max_tokens=64), "full", Config(), 1)


def test_a_branch_that_has_learned_nothing_solves_nothing(branch) -> None:
    report = solve(branch, [ADD, TAKE], max_new_tokens=8, limits=SLOW)
    assert report.results[0]["metrics"]["pass_at_1"]["value"] == 0
    assert [row["text"] for row in report.samples] == [ADD.prompt, TAKE.prompt]
    assert "2 programs" in report.data["notes"][0]


def test_of_several_samples_each_is_drawn_anew_and_those_that_pass_are_counted(branch, monkeypatch) -> None:
    asked, turn = [], count()

    def predict(self, texts):
        asked.append(self.spec)
        right = [ADD.solution, "```python\ndef take(a, b):\n    return a - b\n```" if next(turn) % 2 else "    return 0"]
        return [Answer(text, text) for text in right]

    monkeypatch.setattr(Branch, "predict", predict)
    found = solve(branch, [ADD, TAKE], samples=5, limits=SLOW).results[0]["metrics"]
    assert found["pass_at_1"]["value"] == pytest.approx((1 + 2 / 5) / 2)
    assert found["pass_at_5"]["value"] == 1
    assert "pass_at_10" not in found
    assert [spec.seed for spec in asked] == [0, 1, 2, 3, 4]
    assert {spec.temperature for spec in asked} == {0.8}


def test_what_cannot_be_asked(branch, tiny_folder) -> None:
    with pytest.raises(OptionError, match="all of them would be alike"):
        solve(branch, [ADD], samples=2, temperature=0)
    with pytest.raises(OptionError, match="give one at the least"):
        solve(branch, [])
    labels = Branch.new(load_backbone(tiny_folder("bert")), classify.TaskSpec(labels=("a", "b")), "full", Config(), 1)
    with pytest.raises(OptionError, match="only a branch of the task generate"):
        solve(labels, [ADD])


def test_a_body_is_taken_up_to_where_something_else_begins() -> None:
    assert completion("    return 1\n\ndef g():\n    pass") == "    return 1\n"
    assert completion("Sure:\n```\ndef f():\n    return 2\n```\nDone.\n```\nno\n```") == "def f():\n    return 2\n"


def test_from_the_command_line(branch, tmp_path) -> None:
    branch.save(tmp_path / "coder")
    problem = {
        "task_id": ADD.id,
        "prompt": ADD.prompt,
        "test": ADD.test,
        "entry_point": ADD.entry_point,
        "canonical_solution": ADD.solution,
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n", encoding="utf-8")
    told = CliRunner().invoke(commands, ["evaluate", str(tmp_path / "coder"), str(tmp_path / "problems.jsonl"), "--code", "1"])
    assert told.exit_code == 0, told.output
    assert "pass@1" in told.output
    assert "1 programs: 1 failed" in told.output

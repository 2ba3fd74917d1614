"""What people said as training data: rows that `tune` reads, pairs and liked answers that `align` reads; and states that are forgotten."""

import hashlib
import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import trunkline as tl
from tests.feedback.places import ENTRY
from trunkline import cli, names
from trunkline.branch import Branch
from trunkline.errors import DataError, FeedbackDamagedError, OptionError
from trunkline.feedback.export import export, rows
from trunkline.feedback.states import forget_states
from trunkline.feedback.store import FeedbackStore
from trunkline.model.backbone import load_backbone
from trunkline.states.encode import encode
from trunkline.states.store import States


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    made = FeedbackStore(tmp_path / "feedback.db")
    yield made
    made.close()


def add(store: FeedbackStore, text: str, **said: object) -> str:
    entry = {"branch": "intent", "row": {"text": text}, **said}
    return store.add({name: value for name, value in entry.items() if value is not None}, who="ann")


def test_rows_have_what_is_right(store: FeedbackStore) -> None:
    add(store, "a", answer="x", label="y")
    add(store, "b", answer="x", rating=1)
    add(store, "c", answer="x", rating=-1)
    add(store, "d", answer="x")
    add(store, "e", comment="what?")
    add(store, "a", answer="x", label="z", subject="bob")  # the last word on a row counts
    found = rows(store)
    assert [(row["text"], row["label"], row["id"]) for row in found] == [("b", "x", "feedback-2"), ("a", "z", "feedback-6")]
    assert found.source == f"feedback {export(store).id}"
    assert "bob" not in export(store).to_bytes().decode()
    assert export(store, upto=1).rows[0]["label"] == "y"
    assert export(store, upto=1).id == export(store, upto=1).id != export(store).id


def test_persons_are_groups(store: FeedbackStore) -> None:
    for text, person in (("a", "ann"), ("b", "ann"), ("c", "bob"), ("d", None), ("e", None)):
        add(store, text, label="x", subject=person)
    groups = [row["group"] for row in export(store).rows]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4
    guesses = [hashlib.sha256(guess.encode()).hexdigest()[:16] for guess in ("ann", "intent:ann", ":ann")]
    assert not set(guesses) & set(groups)


def test_labels_of_several_branches_are_not_mixed(store: FeedbackStore) -> None:
    add(store, "a", label="x")
    add(store, "a", label="good", branch="mood")
    with pytest.raises(OptionError, match="intent, mood"):
        export(store)
    assert [row["label"] for row in rows(store, branch="mood")] == ["good"]
    with pytest.raises(DataError, match="nobody"):
        rows(store, branch="other")


def test_pairs_and_liked_answers_are_read_again(store: FeedbackStore, tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    add(store, "", row=chat, answer="What?", label="Hello!")
    add(store, "Bye", answer="Go", chosen="Bye!", rejected="Go")
    add(store, "Bye", answer="Go", rating=-1)
    add(store, "Thanks", answer="Sure", rating=1)
    (tmp_path / "pairs.jsonl").write_bytes(export(store, "pairs").to_bytes())
    (tmp_path / "liked.jsonl").write_bytes(export(store, "liked").to_bytes())
    pairs, liked = tl.read(tmp_path / "pairs.jsonl", task="generate"), tl.read(tmp_path / "liked.jsonl", task="generate")
    assert [(row["messages"][-1]["content"], row["label"], row["rejected"]) for row in pairs] == [
        ("Hi", "Hello!", "What?"),
        ("Bye", "Bye!", "Go"),
    ]
    assert [(row["messages"][-1]["content"], row["label"], row["liked"]) for row in liked] == [
        ("Bye", "Go", False),
        ("Thanks", "Sure", True),
    ]
    with pytest.raises(OptionError, match="pairs"):
        export(store, "pair")


def test_forgotten_is_in_no_export(store: FeedbackStore) -> None:
    add(store, "a", label="x", subject="bob")
    add(store, "b", label="x")
    store.forget("bob", who="admin")
    assert [row["text"] for row in export(store).rows] == ["b"]


def test_states_are_forgotten(store: FeedbackStore, tmp_path: Path, cache: Path, tiny_folder: Callable[[str], Path]) -> None:
    backbone, task = load_backbone(tiny_folder("bert")), names.task("classify")
    spec = task.TaskSpec(task="classify", labels=("x", "y"))
    branch = Branch.new(backbone, spec, "probe", names.method("probe").Config(), 1)
    trunk = backbone.trunk(1)
    states = States.open(cache / "states" / "one", trunk_id=trunk.id, width=trunk.width, dtype="float16")
    tokens = [item.tokens[0] for item in branch.prepare([{"text": "my card"}, {"text": "my order"}])]
    encode(tokens, trunk, states, progress=False)
    add(store, "my card", label="x", subject="bob")
    assert store.forget("bob", who="admin", states=lambda records: forget_states(branch, records)) == 1
    again = States.open(cache / "states" / "one", trunk_id=trunk.id, width=trunk.width, dtype="float16")
    assert [one.key in again for one in tokens] == [False, True]


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.commands, ["feedback", *words], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_the_commands(store: FeedbackStore, tmp_path: Path) -> None:
    place, out = str(store), tmp_path / "rows.jsonl"
    id_ = store.add({**ENTRY, "subject": "bob"}, who="ann")
    add(store, "b", label="x")
    assert "intent" in run("stats", place)
    assert json.loads(run("stats", place, "--json"))["branches"]["intent"]["entries"] == 2
    run("export", place, "--out", str(out))
    assert [row["label"] for row in tl.read(out, id="id", group="group")] == ["delivery", "x"]
    assert "2 entries" in run("verify", place, id_)
    with pytest.raises(FeedbackDamagedError):
        run("verify", place, "1-0123456789abcdef")
    run("backup", place, str(tmp_path / "copy.db"))
    assert "1 " in run("forget", place, "bob", "--yes")
    run("export", place, "--out", str(out))
    assert b"card" not in out.read_bytes()
    assert json.loads(run("stats", str(tmp_path / "copy.db"), "--json"))["branches"]["intent"]["forgotten"] == 0
    with pytest.raises(OptionError, match="does not exist"):
        run("stats", str(tmp_path / "none.db"))


def test_the_example_runs(
    cache: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = Path(__file__).parents[2] / "examples" / "feedback.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(path))["main"](str(tiny_folder("bert")), settings=tl.Settings(epochs=1))
    printed = capsys.readouterr().out
    assert "forgotten: 3" in printed
    assert "tuned branch" in printed

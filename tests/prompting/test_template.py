"""Templates: what a row becomes, which files are read, and what is refused."""

from pathlib import Path

import pytest

from trunkline.errors import DataError, OptionError
from trunkline.prompting.template import Template, default_template, read_template

FILE = """version: 1
instruction: Say what the message is about.
form: "Message: {text}\\nTopic: {label}"
labels:
  refund: a refund
  "0": nothing
"""


def test_a_file_is_a_template_and_back(tmp_path: Path) -> None:
    path = tmp_path / "topics.yaml"
    path.write_text(FILE, encoding="utf-8")
    found = read_template(path)
    assert found.name == "topics"
    assert found.labels == {"refund": "a refund", "0": "nothing"}
    assert found.to_json()["version"] == 1
    assert found.prompt({"text": "money back"}, [{"text": "hello", "label": "0"}]) == (
        "Say what the message is about.\n\nMessage: hello\nTopic: nothing\n\nMessage: money back\nTopic:"
    )
    assert (found.lead, found.gap) == ("Topic:", " ")


def test_what_stands_in_a_text_is_no_field() -> None:
    assert Template("{text} // {label}").query({"text": "{label} {text_b}"}) == "{label} {text_b} //"


def test_pairs() -> None:
    found = default_template(["yes", "no"], paired=True)
    assert found.paired
    assert found.query({"text": "a", "text_b": "b"}) == "Text 1: a\nText 2: b\nLabel:"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("instruction:", "instructions:", "Did you mean 'instruction'"),
        ("version: 1", "version: 2", "version: 1"),
        ("{text}", "{txt}", "Did you mean 'text'"),
        ("{label}", "", "needs"),
        ("Topic: {label}", "{label}", "nothing stands between"),
        ("a refund", "nothing", "two labels"),
        ("a refund", "3", "each label with its words"),
        ("Say what the message is about.", "[1, 2]", "use a text"),
    ],
)
def test_refusals(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(FILE.replace(old, new), encoding="utf-8")
    with pytest.raises((DataError, OptionError), match=message):
        read_template(path)


def test_default_is_in_the_language_of_the_labels() -> None:
    assert default_template(["退款", "物流"]).lead == "类别："
    assert default_template(["refund", "late_delivery"]).labels["late_delivery"] == "late delivery"
    assert default_template(["a_b", "a b"]).labels == {"a_b": "a_b", "a b": "a b"}
    assert "of: " not in default_template([f"intent {n}" for n in range(77)]).instruction

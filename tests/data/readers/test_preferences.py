"""Every form that preferences are kept in, to a prompt, a better answer and a worse one."""

import json

import pytest

from trunkline.data.read import read
from trunkline.errors import DataError

MESSAGES = [{"role": "user", "content": "Hello"}]


def pairs(rows, **told):
    return [(row["text"], row["text_b"], row["rejected"], row.get("margin")) for row in read(rows, "reward", **told)]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hello", "chosen": "good", "rejected": "bad"},
        {"instruction": "Hello", "input": "", "chosen": "good", "rejected": "bad"},
        {"chosen": "\n\nHuman: Hello\n\nAssistant: good", "rejected": "\n\nHuman: Hello\n\nAssistant: bad"},
        {"conversations": [{"from": "human", "value": "Hello"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        {"messages": MESSAGES, "chosen": "good", "rejected": "bad"},
        {"chosen": [*MESSAGES, {"role": "assistant", "content": "good"}], "rejected": [*MESSAGES, {"role": "assistant", "content": "bad"}]},
        {"prompt": "Hello", "answers": ["good", "bad"]},
        {"prompt": "Hello", "responses": ["bad", "good"], "ranks": [2, 1]},
        {"prompt": "Hello", "answers": json.dumps([{"text": "bad", "rank": 2}, {"text": "good", "rank": 1}])},
        {"messages": MESSAGES, "answers": ["good", "bad"]},
    ],
)  # fmt: skip
def test_one_record_is_one_pair(record):
    (row,) = read([record], "reward")
    assert (row["text"], row["text_b"], row["rejected"]) == ("Hello", "good", "bad")
    assert row["messages"] == MESSAGES
    assert "label" not in row


def test_a_ranking_is_all_its_pairs_and_equals_make_none():
    found = pairs([{"prompt": "q", "answers": ["a", "b", "c", "d"], "ranks": [1, 2, 2, 3]}])
    assert {(good, bad) for _, good, bad, _ in found} == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")}
    assert {margin for *_, margin in found} == {None}


def test_ratings_have_a_margin():
    assert pairs([{"prompt": "q", "answers": ["a", "b"], "ratings": [2, 4.5]}]) == [("q", "b", "a", 2.5)]
    apart = [{"prompt": "q", "response": "a", "rating": 2}, {"prompt": "p", "response": "x", "rating": 1},
             {"prompt": "q", "response": "b", "rating": 5}, {"prompt": "q", "response": "c", "rating": 5}]  # fmt: skip
    rows = read(apart, "reward")
    assert [(row["text"], row["text_b"], row["rejected"], row["margin"]) for row in rows] == [("q", "b", "a", 3.0), ("q", "c", "a", 3.0)]
    assert any("1 of 2 prompts have no two answers" in note for note in rows.notes)


@pytest.mark.parametrize(
    ("name", "up", "down"), [("kto_tag", True, False), ("thumb", "up", "down"), ("label", True, False), ("liked", 1, 0)]
)
def test_thumbs_of_one_prompt_are_pairs(name, up, down):
    said = [{"role": "assistant", "content": "good"}]
    assert pairs([{"prompt": "q", "response": "good", name: up}, {"prompt": "q", "response": "bad", name: down}]) == [
        ("q", "good", "bad", None)
    ]
    records = [{"messages": [*MESSAGES, *said], name: up}, {"messages": [*MESSAGES, {"role": "assistant", "content": "bad"}], name: down}]
    assert pairs(records) == [("Hello", "good", "bad", None)]


def test_annotators_ids_and_groups_are_carried():
    records = [{"prompt": "q", "chosen": "a", "rejected": "b", "rater": "Ann", "id": "7"}]
    (row,) = read(records, "reward", id="id")
    assert (row["annotator"], row["id"], len(row["group"])) == ("Ann", "7", 16)


def test_a_prompt_with_one_answer_can_be_scored():
    rows = read([{"prompt": "q", "response": "a"}], "reward", labelled=False)
    assert (rows[0]["text"], rows[0]["text_b"], "rejected" in rows[0]) == ("q", "a", False)


def test_what_cannot_be_used_is_told_with_its_line(tmp_path):
    with pytest.raises(DataError, match="which answer was preferred"):
        read([{"prompt": "q", "response": "a"}], "reward")
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in [{"prompt": "q", "answers": ["a", "b"]}, {"prompt": "p", "answers": ["a"]}]))
    with pytest.raises(DataError, match=r"bad.jsonl:2: there are fewer than two answers"):
        read(path, "reward")
    with pytest.raises(DataError, match="not a number"):
        read([{"prompt": "q", "answers": ["a", "b"], "ratings": [worth, 1]} for worth in (2, "x")], "reward")

"""Pairs and histories in the forms that people keep them in; and passages that a ranking is measured among."""

import json

import pytest

from trunkline.data.read import read
from trunkline.data.readers.passages import among
from trunkline.errors import DataError, OptionError
from trunkline.types import Rows

PAIRS = [{"query": f"question {n}", "positive": f"passage {n}", "negatives": [f"wrong {n}", "wrong"]} for n in range(3)]


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_from_lines_of_json(tmp_path):
    path = written(tmp_path, "pairs.jsonl", "\n".join(map(json.dumps, PAIRS)))
    rows = read(path, "rank")
    assert rows[1] == {"text": "question 1", "text_b": "passage 1", "negatives": ["wrong 1", "wrong"]}
    assert "text = column 'query', text_b = column 'positive'" in rows.notes[0]


def test_pairs_from_columns_with_a_score_and_a_group(tmp_path):
    path = written(tmp_path, "pairs.csv", "a,b,score,topic\nhello there,good day,0.9,x\nred house,blue sea,0.1,y\n")
    rows = read(path, "rank", text="a", text_b="b", group="topic")
    assert list(rows) == [
        {"text": "hello there", "text_b": "good day", "label": 0.9, "group": "x"},
        {"text": "red house", "text_b": "blue sea", "label": 0.1, "group": "y"},
    ]
    assert "label" not in read(path, "rank", text="a", text_b="b", labelled=False)[0]


def test_questions_of_articles_are_pairs_with_their_paragraphs(tmp_path):
    article = {"title": "T", "paragraphs": [{"context": "Paris is old.", "qas": [{"id": "1", "question": "What is old?", "answers": []}]}]}
    rows = read(written(tmp_path, "squad.json", json.dumps({"data": [article]})), "rank")
    assert list(rows) == [{"text": "What is old?", "text_b": "Paris is old.", "id": "1", "group": "T"}]


def test_histories_from_lines_of_json(tmp_path):
    lines = [{"history": ["one", "two"], "next": "three", "user": "u"}, {"history": ["two"], "next": "one", "user": "v"}]
    path = written(tmp_path, "histories.jsonl", "\n".join(map(json.dumps, lines)))
    assert list(read(path, "recommend", group="user")) == [
        {"text": "one\ntwo", "text_b": "three", "history": ["one", "two"], "group": "u"},
        {"text": "two", "text_b": "one", "history": ["two"], "group": "v"},
    ]
    assert "text_b" not in read([{"history": ["one"]}], "recommend", labelled=False)[0]


@pytest.mark.parametrize("history", [None, [], "one", [1], [""]])
def test_a_bad_history_is_a_problem(history, tmp_path):
    good = [{"history": ["one"], "next": "two"}] * 200
    rows = read([*good, {"history": history, "next": "x"}], "recommend", skip_bad=tmp_path / "bad.jsonl")
    assert len(rows) == 200
    assert len(rows.problems) == 1
    assert rows.problems[0].line == 201


def test_a_bad_negative_is_a_problem(tmp_path):
    rows = read([*PAIRS, {**PAIRS[0], "negatives": ["fine", 7]}], "rank", skip_bad=tmp_path / "bad.jsonl")
    assert len(rows) == 3
    assert "a text of the list is a int" in rows.problems[0].reason


def test_columns_that_are_not_there_are_named():
    with pytest.raises(DataError, match=r"no column looks like the text_b .*text_b=NAME"):
        read([{"query": "a", "x": "b"}], "rank")
    with pytest.raises(OptionError, match=r"'positiv': unknown\. Did you mean 'positive'"):
        read(PAIRS, "rank", text_b="positiv")


def test_further_passages_are_dealt_out_and_none_comes_twice():
    rows = Rows(tuple({"text": f"q{n}", "text_b": f"p{n}", "negatives": ["n"]} for n in range(3)), "rank")
    made = among(rows, ["p1", "a", "n", "b", "a", "c", "d"])
    assert [row.get("others") for row in made] == [["a", "d"], ["b"], ["c"]]
    again = among(made, ["a", "e", "f"])
    assert [row.get("others") for row in again] == [["a", "d", "e"], ["b", "f"], ["c"]]
    assert among(Rows((), "rank"), ["a"]) == Rows((), "rank")
    assert "4 further passages" in made.notes[-1]

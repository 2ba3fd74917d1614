"""Questions with answers in a passage: the shapes of files, answers whose places are wrong, and what is refused."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trunkline.data.read import read
from trunkline.data.readers.squad import NEAR, place
from trunkline.errors import DataError, OptionError

PASSAGE = "Ada Lovelace was born in London in 1815. She wrote the first program in 1843."
ASKED = [
    {"id": "q1", "question": "Where was she born?", "answers": [{"text": "London", "answer_start": 25}, {"text": "in London", "answer_start": 22}]},
    {"id": "q2", "question": "Who was her dog?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Ada", "answer_start": 0}]},
]  # fmt: skip
ANSWERS = [[[25, "London"], [22, "in London"]], []]
DATA = os.environ.get("TRUNKLINE_DATA", str(Path(__file__).parents[4] / "shared" / "data"))


def articles(questions=ASKED, context=PASSAGE, **more):
    return {"version": "v2.0", "data": [{"title": "Ada Lovelace", **more, "paragraphs": [{"context": context, "qas": questions}]}]}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def flat(answers, **more):
    return [{"question": asked["question"], "context": PASSAGE, "answers": given, **more} for asked, given in zip(ASKED, answers)]


def test_squad(tmp_path):
    rows = read(write(tmp_path / "squad.json", articles()), "span")
    assert [row["label"] for row in rows] == ANSWERS
    assert rows[0] == {"text": "Where was she born?", "text_b": PASSAGE, "label": ANSWERS[0], "id": "q1", "group": "Ada Lovelace"}
    assert rows.notes == ("1 questions have no answer in their passage.",)


PAIRS = [[[25, "London"], [22, "in London"]], []]
DICTS = [asked["answers"] for asked in ASKED]
COLUMNS = [{"text": ["London", "in London"], "answer_start": [25, 22]}, {"text": [], "answer_start": []}]


@pytest.mark.parametrize("answers", [PAIRS, DICTS, COLUMNS, [["London", "in London"], []]], ids=["pairs", "dicts", "columns", "texts"])
@pytest.mark.parametrize("form", ["rows.json", "rows.jsonl", "rows.csv", "memory"])
def test_flat_rows(tmp_path, answers, form):
    rows, path = flat(answers), tmp_path / form
    if form == "rows.csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "answers": json.dumps(row["answers"])} for row in rows)
    elif form != "memory":
        path.write_text(json.dumps(rows) if form == "rows.json" else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    read_rows = read(rows if form == "memory" else path, "span")
    assert [row["label"] for row in read_rows] == ANSWERS
    assert {row["text_b"] for row in read_rows} == {PASSAGE}
    assert any("Guessed: label = column 'answers', text = column 'question', text_b = column 'context'" in note for note in read_rows.notes)


def test_parquet_as_data_sets_are_published(tmp_path):
    rows = flat(COLUMNS, title="Ada Lovelace")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "squad.parquet")
    found = read(tmp_path / "squad.parquet", "span")
    assert [row["label"] for row in found] == ANSWERS
    assert found[0]["group"] == "Ada Lovelace"


def test_one_answer_as_a_word_and_columns_that_are_told():
    rows = [{"ask": "Where?", "where": PASSAGE, "say": "London", "page": "Ada"}]
    found = read(rows, "span", text="ask", text_b="where", label="say", group="page")
    assert found[0] == {"text": "Where?", "text_b": PASSAGE, "label": [[25, "London"]], "group": "Ada"}
    assert found.notes == ("1 answers came without their place: the first one in the passage was taken.",)


def test_flat_rows_take_their_title_as_the_group():
    found = read([{**row, "title": "Ada Lovelace"} for row in flat(DICTS)], "span")
    assert found[0]["group"] == "Ada Lovelace"
    assert "group = column 'title'" in found.notes[0]


def test_cmrc(tmp_path):
    passage = "尤金袋鼠分布在澳洲南部岛屿及西岸地区。"
    asked = [
        {"query_text": "尤金袋鼠分布在哪些地区？", "query_id": "T_0", "answers": ["澳洲南部岛屿", "澳洲南部岛屿及西岸地区", "澳洲南部岛屿"]}
    ]
    file = write(tmp_path / "cmrc.json", [{"context_id": "T", "context_text": passage, "qas": asked, "title": "尤金袋鼠"}])
    (row,) = read(file, "span")
    assert row == {
        "text": asked[0]["query_text"], "text_b": passage, "label": [[7, "澳洲南部岛屿"], [7, "澳洲南部岛屿及西岸地区"]], "id": "T_0", "group": "尤金袋鼠",
    }  # fmt: skip


def test_articles_in_lines_without_ids_or_titles(tmp_path):
    lines = [{"paragraphs": [{"context": PASSAGE, "qas": [{"question": "Where?", "answers": ["London"]}]}]}] * 2
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = read(tmp_path / "rows.jsonl", "span")
    assert [row["group"] for row in rows] == ["article 1", "article 2"]
    assert "id" not in rows[0]


@pytest.mark.parametrize(("said", "found"), [(25, 25), (24, 25), (27, 25), (25 + NEAR, 25), (5, 25), (25 + NEAR + 1, None), (4, None)])
def test_a_wrong_place_is_looked_for_nearby(said, found):
    rows = flat([[{"text": "London", "answer_start": said}], []])
    assert place("London", said, PASSAGE) == found
    if found is None:
        with pytest.raises(
            DataError, match=r"memory:1: the answer 'London' does not stand at character \d+ of the passage, nor within 20 of it"
        ):
            read(rows, "span")
        return
    read_rows = read(rows, "span")
    assert read_rows[0]["label"] == [[25, "London"]]
    assert any("1 answers did not stand where" in note for note in read_rows.notes) == (said != found)


def test_the_nearest_of_several_is_taken():
    assert place("in", 23, PASSAGE) == 22
    assert place("in", 30, PASSAGE) == 32
    assert place("in", None, PASSAGE) == 22


def test_white_space_around_an_answer_and_control_characters():
    rows = [{"question": "Where?", "context": "born\x0bin\x01London", "answers": [{"text": " London ", "answer_start": 7}]}]
    (row,) = read(rows, "span")
    assert row["text_b"] == "born in London"
    assert row["label"] == [[8, "London"]]


def bad():
    yield "is_impossible is True", [{**ASKED[0], "is_impossible": True}]
    yield "is_impossible is False, and there are 0 answers", [{**ASKED[1], "is_impossible": False}]
    yield "the answer 'Paris' does not stand in the passage", [{**ASKED[0], "answers": ["Paris"]}]
    yield "(question 'q1')", [{**ASKED[0], "answers": ["Paris"]}]
    yield "label is missing", [{"id": "1", "question": "Where?"}]
    yield "no whole number", [{**ASKED[0], "answers": [{"text": "London", "answer_start": "25"}]}]
    yield "'' is no answer", [{**ASKED[0], "answers": [{"text": "", "answer_start": 0}]}]
    yield "'5' is no answer", [{**ASKED[0], "answers": [5]}]
    yield "text is missing", [{"id": "1", "answers": ["London"]}]
    yield "text is a int", [{"id": "1", "question": 5, "answers": ["London"]}]
    yield "question 1 of paragraph 1 is a str", ["Where?"]
    yield "paragraph 1 has no list of questions", "Where?"


@pytest.mark.parametrize(("reason", "questions"), list(bad()), ids=[reason for reason, _ in bad()])
def test_what_cannot_be_used_is_a_problem_with_its_place(tmp_path, reason, questions):
    file = write(tmp_path / "squad.json", articles(questions))
    file.write_text(file.read_text("utf-8").replace('"data": [', f'"data": [\n{json.dumps(articles()["data"][0])},\n'), encoding="utf-8")
    rows = read(file, "span", skip_bad=tmp_path / "bad.jsonl")
    assert (len(rows), len(rows.problems)) == (2, 1)
    assert reason in rows.problems[0].reason
    assert rows.problems[0].line == 6
    assert json.loads((tmp_path / "bad.jsonl").read_text("utf-8"))["line"] == 6


def test_broken_articles(tmp_path):
    good = articles()["data"][0]
    file = write(
        tmp_path / "squad.json", {"data": [good, {"title": "x", "paragraphs": 5}, {"title": "x"}, 5, {"title": "x", "paragraphs": [5]}]}
    )
    rows = read(file, "span", skip_bad=tmp_path / "bad.jsonl")
    reasons = [problem.reason for problem in rows.problems]
    assert len(rows) == 2
    assert reasons == ["'paragraphs' is a int, not a list", "paragraph 1 has no list of questions ('qas')", "is a JSON int, not an object",
                       "paragraph 1 has no list of questions ('qas')"]  # fmt: skip


@pytest.mark.parametrize("missing", ["question", "context", "answers"])
def test_a_column_that_is_not_there(missing):
    rows = [{k: v for k, v in row.items() if k != missing} for row in flat(DICTS)]
    what = {"question": "question", "context": "passage", "answers": "answers"}[missing]
    with pytest.raises(DataError, match=f"no column looks like the {what}. Say which one"):
        read(rows, "span")
    with pytest.raises(OptionError, match=r"column=.answer.: unknown\. Did you mean .answers."):
        read(flat(DICTS), "span", label="answer")


def test_columns_of_nested_files_are_not_told(tmp_path):
    with pytest.raises(OptionError, match="name their own fields"):
        read(write(tmp_path / "squad.json", articles()), "span", text="question")
    with pytest.raises(DataError, match="no rows"):
        read([5], "span")


def test_without_answers_for_prediction(tmp_path):
    asked = [{"id": "q1", "question": "Where?"}]
    rows = read(write(tmp_path / "squad.json", articles(asked)), "span", labelled=False)
    assert rows[0] == {"text": "Where?", "text_b": PASSAGE, "id": "q1", "group": "Ada Lovelace"}
    rows = read([{"question": "Where?", "context": PASSAGE}], "span", labelled=False)
    assert rows[0] == {"text": "Where?", "text_b": PASSAGE}


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "count", "groups"), [*((f"xquad/xquad.{language}.json", 1190, 48) for language in ("en", "zh", "de", "es")), ("drcd/DRCD_dev.json", 3524, 383)]
)  # fmt: skip
def test_real_files(file, count, groups):
    path = Path(DATA, file)
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = read(path, "span")
    assert (len(rows), len(rows.problems), len({row["group"] for row in rows})) == (count, 0, groups)
    assert all(row["text_b"][start:].startswith(answer) for row in rows for start, answer in row["label"])
    assert all(row["label"] for row in rows)

"""Texts and what they become: two files side by side, columns, nested values; and the real files."""

import gzip
import json
import os
from pathlib import Path

import pytest

from trunkline.data.columns import Columns
from trunkline.data.formats import Form
from trunkline.data.read import read
from trunkline.data.readers.parallel import open_parallel
from trunkline.errors import DataError, OptionError

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


def pairs(source, **options):
    return [(row["text"], row.get("label")) for row in read(source, "seq2seq", **options)]


def write(folder, name, text):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".txt"])
def test_two_files(tmp_path, ending) -> None:
    english = write(tmp_path, f"train.en{ending}", 'A "cat", here\r\nTwo dogs\n')
    german = write(tmp_path, f"train.de{ending}", "Eine Katze\nZwei Hunde")
    expected = [('A "cat", here', "Eine Katze"), ("Two dogs", "Zwei Hunde")]
    assert pairs((english, german)) == expected
    assert pairs(str(tmp_path / ("train.{en,de}" + ending))) == expected
    rows = read((english, german), "seq2seq")
    assert rows.notes[0] == f"Sources are the lines of {english}, targets those of {german}."


def test_files_of_differing_length_are_refused_with_both_counts(tmp_path) -> None:
    one, other = write(tmp_path, "a.en", "1\n2\n3\n4\n"), write(tmp_path, "a.de", "1\n2\n")
    with pytest.raises(DataError, match=r"a.en has 4 lines and .*a.de has 2, so they do not belong together"):
        read((one, other), "seq2seq")
    with pytest.raises(DataError, match=r"a.de has 2 lines and .*a.en has 4"):
        read((other, one), "seq2seq")
    with pytest.raises(DataError, match=r"a.fr: no such file. Two files are read side by side"):
        read(str(tmp_path / "a.{en,fr}"), "seq2seq")


def test_an_empty_line_is_a_problem_and_shifts_nothing(tmp_path) -> None:
    one, other = write(tmp_path, "a.en", "1\n\n3\n4\n"), write(tmp_path, "a.de", "eins\nzwei\n \nvier\n")
    rows = read((one, other), "seq2seq", skip_bad=tmp_path / "bad.jsonl")
    assert [(row["text"], row["label"]) for row in rows] == [("1", "eins"), ("4", "vier")]
    assert [(found.line, found.reason) for found in rows.problems] == [
        (2, "the source is an empty line"),
        (3, "the target is an empty line"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"source": "a", "target": "b"},
        {"fname": "1", "dialogue": "a", "summary": "b", "topic": "c"},
        {"translation": {"en": "a", "de": "b"}},
        {"text": "a", "label": "b"},
        {"zh": "b", "en": "a"},
        {"原文": "a", "译文": "b"},
    ],
)
def test_columns_by_their_names(record) -> None:
    assert pairs([record]) == [("a", "b")]


def test_several_right_targets() -> None:
    assert pairs([{"dialogue": "a", "summary1": "b", "summary2": "c", "summary3": ""}]) == [("a", ["b", "c"])]
    assert pairs([{"source": "a", "target": ["b", "c"]}, {"source": "d", "target": "e"}]) == [("a", ["b", "c"]), ("d", ["e"])]
    assert pairs([{"source": '["x', "target": '["b", "c"]'}]) == [('["x', ["b", "c"])]


def test_told_columns() -> None:
    record = {"en": "a", "zh": "b", "translation": {"fr": "c"}}
    assert pairs([record], text="zh", label="translation.fr") == [("b", "c")]
    assert pairs([record], text="zh", label="en") == [("b", "a")]
    assert pairs([{**record, "score": 1}], labelled=False) == [("a", None)]
    with pytest.raises(OptionError, match=r"column='translation\.de': unknown. Did you mean 'translation'.*translation.fr"):
        pairs([record], text="en", label="translation.de")


def test_what_is_guessed_is_said() -> None:
    assert read([{"document": "a", "summary": "b"}], "seq2seq").notes == (
        "Guessed: text = column 'document', label = column 'summary'. To choose, give text and label yourself.",
    )


def test_no_pair_of_columns_is_refused(tmp_path) -> None:
    path = write(tmp_path, "pairs.tsv", "Hi.\t嗨。\tCC-BY\nRun.\t跑。\tCC-BY\n")
    with pytest.raises(DataError, match=r"text=NAME and label=NAME. There are: Hi., 嗨。, CC-BY. If the first line is a row.*--no-header"):
        read(path, "seq2seq")
    assert pairs(path, header=False, text="0", label="1") == [("Hi.", "嗨。"), ("Run.", "跑。")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"source": "a", "target": None}, "label is missing"),
        ({"source": "a", "target": " "}, "label is missing"),
        ({"source": "", "target": "b"}, "text is empty|text is missing"),
        ({"source": "a", "target": []}, "label is missing"),
        ({"source": "a", "target": 3}, "label is a int, not a text"),
        ({"source": "a", "target": ["b", 3]}, "a text of the list is a int, not a string"),
        ({"source": 7, "target": "b"}, "text is a int, not a string"),
    ],
)
def test_bad_rows(tmp_path, record, reason) -> None:
    with pytest.raises(DataError, match=rf":2: ({reason})"):
        read([{"source": "a", "target": "b"}, record], "seq2seq")


def test_other_sources_are_left_alone(tmp_path) -> None:
    assert open_parallel([{"source": "a", "target": "b"}], Form(), Columns()) is None
    assert open_parallel(write(tmp_path, "a{b,c}.csv", "source,target\na,b\n"), Form(), Columns()) is None  # a file of that very name
    assert open_parallel(tmp_path / "none.csv", Form(), Columns()) is None


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("tatoeba_en_zh/cmn.txt", {"header": False, "text": "0", "label": "1"}, 29_155),
        ("multi30k/train.{en,de}.gz", {}, 29_000),
        ("multi30k/test_2016_flickr.{en,cs}.gz", {}, 1_000),
        ("dialogsum/normalised/train.jsonl", {}, 12_460),
        ("dialogsum/normalised/test.jsonl", {}, 500),
        ("csl/ts/dev.tsv", {"header": False, "text": "1", "label": "2"}, 1_000),
    ],
)
def test_real_files(name, options, count) -> None:
    if not (DATA / name.split("/")[0]).exists():
        pytest.skip(f"{DATA / name} is not there")
    rows = read(str(DATA / name), "seq2seq", **options)
    assert (len(rows), rows.problems) == (count, ())
    assert isinstance(rows[0]["label"], list if name.endswith("test.jsonl") else str)


def test_json_lines_keep_their_line(tmp_path) -> None:
    path = write(
        tmp_path, "a.jsonl", "".join(json.dumps({"source": str(n), "target": "" if n == 150 else "b"}) + "\n" for n in range(1, 301))
    )
    rows = read(path, "seq2seq")
    assert (len(rows), rows.problems[0].line) == (299, 150)

"""Files of each form, well made: separators, headers, gzip, JSON in its shapes; and which columns are taken."""

import gzip
import json

import pytest

from trunkline.data.read import read
from trunkline.errors import DataError, OptionError

PAIRS = [("my card, is lost", "card"), ("where is; my refund", "refund"), ('they said "no"', "refund"), ("我的卡丢了，怎么办", "card")]


def expect(rows):
    assert [(row["text"], row["label"]) for row in rows] == PAIRS


def quoted(separator, header=True, end="\n"):
    lines = ["text", "label"] if header else []
    lines = [separator.join(lines)] if header else []
    return end.join([*lines, *('"' + text.replace('"', '""') + f'"{separator}{label}' for text, label in PAIRS), ""])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".CSV", ".csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_are_found(tmp_path, separator, ending, end):
    data = quoted(separator, end=end).encode()
    path = tmp_path / f"rows{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    rows = read(path)
    expect(rows)
    usual = "\t" if ending in (".tsv", ".txt") else ","
    assert any("separated by" in note for note in rows.notes) == (separator != usual)


def test_no_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(quoted(",", header=False))
    rows = read(path, header=False)
    expect(rows)
    assert rows.columns == {"text": "0", "label": "1"}
    with pytest.raises(DataError, match="--no-header"):
        read(path)


def test_sentence_at_label(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(
        "Sales rose , it said .@positive\nSales fell , by 3 , it said .@negative\nNothing new .@neutral\nUp again .@positive\n", "latin-1"
    )
    assert [row["label"] for row in read(path, header=False)] == ["positive", "negative", "neutral", "positive"]
    assert len(read(path, header=False, separator="@")) == 4


def test_unquoted_tabs(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"Good" he said\ta\n"open\tb\n"two\tcells"\tb\nclose"\ta\n"whole"\ta\nplain\tb\n')
    rows = read(path, skip_bad=tmp_path / "bad.jsonl")
    assert [row["text"] for row in rows] == ['"Good" he said', '"open', "two\tcells", 'close"', "whole", "plain"]
    assert any("read as they stand" in note for note in rows.notes)


def test_spreadsheet_tail_and_index_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff,text,label\n0,hello there,a\n1,good bye,b\n,,\n,,\n\n")
    rows = read(path)
    assert (len(rows), len(rows.problems)) == (2, 0)
    assert "2 lines without any content were passed over." in rows.notes


@pytest.mark.parametrize("separator", ["", "ab", '"', "\n"])
def test_what_is_no_separator(tmp_path, separator):
    path = tmp_path / "rows.csv"
    path.write_text(quoted(","))
    with pytest.raises(OptionError, match="use one character"):
        read(path, separator=separator)


OBJECTS = [{"text": text, "label": label} for text, label in PAIRS]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", json.dumps(OBJECTS)),
        ("indented.json", json.dumps(OBJECTS, indent=2, ensure_ascii=False)),
        ("data.json", json.dumps({"version": "1", "tags": [], "data": OBJECTS})),
        ("named.json", json.dumps({"examples": OBJECTS, "n": 4})),
        ("lines.json", "\n".join(map(json.dumps, OBJECTS))),
        ("rows.jsonl", "\n\n".join(map(json.dumps, OBJECTS)) + "\n"),
        ("rows.ndjson", "\r\n".join(json.dumps(row, ensure_ascii=False) for row in OBJECTS)),
        ("list.jsonl", json.dumps(OBJECTS)),
        ("mark.jsonl", "\ufeff" + "\n".join(map(json.dumps, OBJECTS))),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_shapes_of_json(tmp_path, name, text, encoding):
    if encoding == "utf-16" and text[0] == "\ufeff":
        text = text[1:]
    (tmp_path / name).write_bytes(text.encode(encoding))
    expect(read(tmp_path / name))
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode(encoding)))
    expect(read(tmp_path / f"{name}.gz"))


def test_wrong_path(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"no such file\. Did you mean '.*reviews\.csv'"):
        read(tmp_path / "review.csv")

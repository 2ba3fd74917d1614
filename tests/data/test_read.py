"""`read`: what is counted, what is said, and what a text or a label may be. Bars D3, D4 and D6; malformed files are in test_malformed."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.data.read import read
from trunkline.errors import DataError, OptionError

REAL = Path(os.environ.get("TRUNKLINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
BAD_CHARACTERS = "\x00" + "".join(map(chr, range(0xD800, 0xE000)))


def write(path, text):
    path.write_bytes(text.encode())
    return path


def rows_of(count, label="ab"):
    return [{"text": f"message {n}", "label": label[n % len(label)]} for n in range(count)]


def test_reads_what_the_issue_shows(tmp_path):
    path = write(tmp_path / "reviews.csv", "stars,text\n5,It works\n1,It stopped working after two days\n")
    rows = read(path, task="classify", text="text", label="stars")
    assert list(rows) == [{"text": "It works", "label": "5"}, {"text": "It stopped working after two days", "label": "1"}]
    assert rows.columns == {"text": "text", "label": "stars"}
    assert rows.notes == ()
    assert rows.source == str(path)


@pytest.mark.parametrize(("bad", "stops"), [(0, False), (1, False), (2, False), (3, True)])
def test_default_stop_is_above_one_percent(bad, stops):
    source = rows_of(200 - bad) + [{"text": "", "label": "a"}] * bad
    if stops:
        with pytest.raises(DataError, match="3 of 200 rows cannot be used"):
            read(source)
        return
    rows = read(source)
    assert len(rows) + len(rows.problems) == 200
    assert len(rows.problems) == bad
    assert any("left out" in note for note in rows.notes) == bool(bad)


@pytest.mark.parametrize(("bad", "stops"), [(100, False), (101, True)])
def test_default_stop_is_above_a_hundred(bad, stops):
    source = rows_of(20_000) + [{"text": "", "label": "a"}] * bad
    if stops:
        with pytest.raises(DataError, match="101 of 20,101") as caught:
            read(source)
        assert str(caught.value).count("text is empty") == 10
        assert "and 91 more" in str(caught.value)
    else:
        assert len(read(source)) == 20_000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["good", "", None, 5, "a\x00"]), min_size=1, max_size=60))
def test_kept_and_bad_are_the_total(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("q") / "bad.jsonl"
    good = texts.count("good")
    source = [{"text": text, "label": "a"} for text in texts]
    if not good:
        with pytest.raises(DataError, match="no rows"):
            read(source, text="text", skip_bad=path)
    else:
        rows = read(source, text="text", skip_bad=path)
        assert (len(rows), len(rows.problems)) == (good, len(texts) - good)
    assert len(path.read_text().splitlines()) == len(texts) - good


def test_quarantine_holds_the_row_and_can_be_read_again(tmp_path):
    bad = tmp_path / "bad.jsonl"
    read([*rows_of(3), {"text": "我的\ud800卡", "label": "a", "page": 3}], text="text", skip_bad=bad)
    (one,) = [json.loads(line) for line in bad.read_text("utf-8").splitlines()]
    assert one["row"] == {"text": "我的\ud800卡", "label": "a", "page": 3}
    assert one["line"] == 4
    assert "U+D800" in one["reason"]


def test_quarantine_is_not_the_source(tmp_path):
    path = write(tmp_path / "rows.csv", "text,label\na,b\n")
    with pytest.raises(OptionError, match="is the file that is read"):
        read(path, skip_bad=path)
    assert path.read_text() == "text,label\na,b\n"


def test_quarantine_of_an_earlier_run_does_not_stay(tmp_path):
    bad = write(tmp_path / "bad.jsonl", "old\n")
    read(rows_of(3), skip_bad=bad)
    assert bad.read_text() == ""


# D6
def test_repeated_ids():
    source = [{"id": n, "text": f"message {n}", "label": "a"} for n in range(50)]
    rows = read([*source, *source[:7]], id="id")
    assert (len(rows), len(rows.problems)) == (50, 7)
    assert rows.problems[0].reason == "repeats id '0' of line 1"
    assert any("7 rows repeat an id" in note for note in rows.notes)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 99), min_size=1, max_size=20))
def test_one_id_with_two_labels_is_always_found(places):
    source = [{"id": n, "text": f"message {n}", "label": "a"} for n in range(100)]
    with pytest.raises(DataError, match=rf"{len(places)} rows repeat an id with other content") as caught:
        read([*source, *({**source[n], "label": "b"} for n in sorted(places))], id="id")
    assert "with another label" in str(caught.value)


def test_one_id_with_two_texts():
    with pytest.raises(DataError, match="with another text"):
        read([{"id": 1, "text": "one", "label": "a"}, {"id": 1.0, "text": "two", "label": "a"}], id="id")


# D3
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda text: any(char.isalnum() for char in text)))
def test_round_trip_of_any_unicode(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("d3")
    source = [{"text": text, "label": "a"}]
    (folder / "rows.jsonl").write_text(json.dumps(source[0]) + "\n", "utf-8")
    quoted = text.replace('"', '""')
    write(folder / "rows.csv", f'text,label\n"{quoted}",a\n')
    for place in (source, folder / "rows.jsonl", folder / "rows.csv"):
        assert read(place, text="text", label="label")[0]["text"] == text


@pytest.mark.parametrize(
    "text", ["a" + "\u0301" * 10_000, "\u202eabc\u202c", "a\u200bb", "👩‍👩‍👧", "\ufdfa", "𠮷野家", "line\r\nline\ttab"]
)
def test_odd_but_good_text_is_kept(text):
    assert read([{"text": text, "label": "a"}])[0]["text"] == text


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.sampled_from(BAD_CHARACTERS), st.text(max_size=20))
def test_nul_and_lone_surrogates_make_a_row_bad(before, bad, after):
    with pytest.raises(DataError, match="damaged on the way"):
        read([{"text": before + bad + after, "label": "a"}], text="text", label="label")


def test_other_control_characters_are_taken_out_and_counted():
    rows = read([{"text": "a\x08b\x0cc\x92d", "label": "x\x1fy"}, {"text": "b", "label": "z"}])
    assert rows[0] == {"text": "ab cd", "label": "x y"}
    assert any("control characters" in note and ": 2" in note for note in rows.notes)


# D4, small
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_huge_cell_is_refused_in_little_memory(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    with path.open("w") as file:
        file.write("text,label\nfirst,a\n" if form == "csv" else '{"text": "first", "label": "a"}\n')
        file.write("" if form == "csv" else '{"text": "')
        for _ in range(32):
            file.write("x" * (1 << 20))
        file.write(",b\nlast,a\n" if form == "csv" else '", "label": "b"}\n{"text": "last", "label": "a"}\n')
    tracemalloc.start()
    try:
        rows = read(path, skip_bad=tmp_path / "bad.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row["text"] for row in rows] == ["first", "last"]
    assert [(problem.line, "longer than" in problem.reason) for problem in rows.problems] == [(3 if form == "csv" else 2, True)]
    assert peak < 40 << 20


def test_a_huge_cell_of_many_lines_is_refused_soon(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\na b,x\n"' + "yy yy\n" * 300_000 + '",b\n')
    with pytest.raises(DataError, match="so far, and reading was stopped"):
        read(path, skip_bad=tmp_path / "bad.jsonl")


# Labels
@pytest.mark.parametrize(
    ("value", "label"), [("1", "1"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (" pos ", "pos"), ("1.0", "1.0"), ("标签", "标签")]
)
def test_labels_of_classes_are_strings(value, label):
    assert read([{"text": "hello", "label": value}])[0]["label"] == label


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), float("inf"), {"a": 1}, b"x", "x" * 1001])
def test_what_is_no_label(value):
    with pytest.raises(DataError, match="label"):
        read([{"text": "hello", "label": value}])


def test_labels_of_several_classes():
    source = [{"text": "a b", "label": ["x", "y", "x"]}, {"text": "c d", "label": "y"}, {"text": "e f", "label": []}]
    assert [row["label"] for row in read(source)] == [["x", "y"], ["y"], []]
    source = [{"text": "a b", "label": "x| y |x|"}, {"text": "c d", "label": "y"}]
    assert [row["label"] for row in read(source, multi_label_separator="|")] == [["x", "y"], ["y"]]


@pytest.mark.parametrize(("value", "number"), [("1.5", 1.5), (" -2 ", -2.0), ("1e-3", 0.001), (3, 3.0), (".5", 0.5)])
def test_labels_of_regress_are_numbers(value, number):
    assert read([{"text": "hello", "label": value}], task="regress")[0]["label"] == number


@pytest.mark.parametrize("value", ["high", "1,5", "1_0", "nan", "inf", "9" * 400, 10**400, float("nan"), True, None, "", "１", [1]])
def test_what_is_no_number(value):
    with pytest.raises(DataError, match="label"):
        read([{"text": "hello", "label": value}], task="regress", text="text", label="label")


@pytest.mark.parametrize(
    ("first", "count"),
    [("message", 2), ("留言内容", 3), ("文本", 2), ("My card is lost", 3), ("Where is it? It was sent in May and is not here yet.", 3)],
)
def test_of_one_column_the_first_line_is_a_text_unless_it_names_it(tmp_path, first, count):
    path = tmp_path / "live.txt"
    path.write_text(f"{first}\nI want, please, a new card\nand: where is my money; tell me\n", encoding="utf-8")
    rows = read(path, labelled=False)
    assert len(rows) == count
    assert rows[-1]["text"] == "and: where is my money; tell me"
    assert any("names no column" in note for note in rows.notes) == (count == 3)


def test_texts_without_labels():
    rows = read([{"text": "hello"}, {"text": "there"}], labelled=False)
    assert list(rows) == [{"text": "hello"}, {"text": "there"}]
    rows = read([{"text": "hello", "label": "a"}, {"text": "there", "label": None}], labelled=False, label="label")
    assert list(rows) == [{"text": "hello", "label": "a"}, {"text": "there"}]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1970-01-02", 86400), ("1970/1/2", 86400), ("1970年1月2日", 86400), ("1970-01-01T01:00:00+01:00", 0), ("2019", 2019), (5, 5)],
)
def test_times(value, seconds):
    assert read([{"text": "hello", "label": "a", "when": value}], time="when")[0]["time"] == seconds


def test_times_of_two_forms_are_refused():
    source = [{"text": "hello", "label": "a", "when": value} for value in ("2024-01-05", 17)]
    with pytest.raises(DataError, match="dates in some rows and bare numbers"):
        read(source, time="when")
    with pytest.raises(DataError, match="is no date"):
        read([{"text": "hello", "label": "a", "when": "last week"}], time="when")


def test_fields_of_a_row():
    source = [{"text": "a b", "other": "c d", "label": "x", "who": 7, "n": 1, "split": "dev"}]
    (row,) = read(source, text="text", text_b="other", label="label", group="who", id="n")
    assert row == {"text": "a b", "text_b": "c d", "label": "x", "group": "7", "id": "1", "split": "validation"}


def test_wrong_arguments():
    with pytest.raises(OptionError, match="Did you mean 'classify'"):
        read(rows_of(3), "clasify")
    with pytest.raises(OptionError, match=r"Did you mean 'label'.*Allowed: label, text"):
        read(rows_of(3), label="lable")
    with pytest.raises(OptionError, match="source is a int"):
        read(5)


def test_same_rows_same_fingerprint():
    assert read(rows_of(5)).fingerprint == read(rows_of(5)).fingerprint != read(rows_of(6)).fingerprint


REAL_FILES = [
    ("banking77/train.csv", {}, 10_003, 77),
    ("banking77/test.csv", {}, 3_080, 77),
    ("sst2/train.tsv", {"header": False}, 6_920, 2),
    ("cold_zh_offensive/train.csv", {}, 25_726, 2),
    ("cold_zh_offensive/test.csv", {}, 5_323, 2),
    ("stsb_en/stsbenchmark.tsv.gz", {"task": "regress"}, 8_628, None),
    ("financial_phrasebank/Sentences_50Agree.txt", {"header": False}, 4_846, 3),
    ("kbert_zh/datasets/chnsenticorp/train.tsv", {}, 9_600, 2),
]


@pytest.mark.real
@pytest.mark.parametrize(("name", "options", "count", "classes"), REAL_FILES, ids=[name for name, *_ in REAL_FILES])
def test_real_files(name, options, count, classes):
    if not (REAL / name).is_file():
        pytest.skip(f"{REAL / name} is not there")
    rows = read(REAL / name, **options)
    assert (len(rows), len(rows.problems)) == (count, 0)
    assert classes is None or len({row["label"] for row in rows}) == classes

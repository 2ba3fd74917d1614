"""Entities in every form that people keep them in, and what is said of those that do not fit."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.data.columns import Columns
from trunkline.data.formats import Form, open_table
from trunkline.data.readers.spans import as_entities
from trunkline.data.table import Table, from_dicts, from_objects
from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

TEXT = "Ann Lee went to Bonn"
WANTED = [[0, 7, "PER"], [16, 20, "LOC"]]


def made(rows, told=None, labelled=True):
    table, columns = as_entities(from_objects(rows), told or Columns(), labelled=labelled)
    return list(table.records), table.notes, columns


def one(row, told=None):
    """The record of one row, or the reason why it is bad."""
    (record,), notes, _ = made([row], told)
    return record.reason if isinstance(record, Problem) else {**record[1], "notes": notes}


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "label": WANTED},
        {"text": TEXT, "label": [["LOC", 16, 20], ["PER", 0, 7]]},
        {"text": TEXT, "entities": [(0, 7, "PER"), (16, 20, "LOC"), (16, 20, "LOC")]},
        {"sentence": TEXT, "spans": [{"start": 0, "end": 7, "label": "PER"}, {"start": 16, "end": 20, "label": "LOC", "text": "Bonn"}]},
        {"text": TEXT, "entities": [{"start_offset": 0, "end_offset": 7, "label": "PER", "id": 3}, {"begin": 16, "end": 20, "type": "LOC"}]},
        {"text": TEXT, "ner": [{"start_idx": 0, "end_idx": 6, "type": "PER", "entity": "Ann Lee"}, {"from": 16, "to": 19, "type": "LOC", "entity": "Bonn"}]},
        {"text": TEXT, "label": {"PER": {"Ann Lee": [[0, 6]]}, "LOC": {"Bonn": [[16, 19]]}}},
        {"text": TEXT, "label": '[[0, 7, "PER"], [16, 20, "LOC"]]'},
        {"text": TEXT, "label": "B-PER I-PER O O B-LOC"},
        {"text": TEXT, "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"]},
        {"tokens": TEXT.split(), "ner_tags": ["B-PER", "E-PER", "O", "O", "S-LOC"]},
        {"tokens": '["Ann", "Lee", "went", "to", "Bonn"]', "ner_tags": '["I-PER", "I-PER", "O", "O", "I-LOC"]'},
        {"text": TEXT, "label": [[-0, 8, "PER"], [15, 20, "LOC"]]},
    ],
)  # fmt: skip
def test_every_form_gives_the_same_entities(row):
    found = one(row)
    assert found["label"] == WANTED, found
    assert found["text"] == TEXT
    assert "words" not in found or [TEXT[a:b] for a, b in found["words"]] == TEXT.split()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ([[0, 21, "LOC"]], "does not lie inside the text, which has 20 characters"),
        ([[-1, 3, "PER"]], "does not lie inside"),
        ([[5, 5, "PER"]], "does not lie inside"),
        ([[7, 5, "PER"]], "does not lie inside"),
        ([[0, 7, "PER"], [4, 8, "LOC"]], "'LOC' from 4 to 7 lies over 'PER' from 0 to 7"),
        ([{"start": 0, "end": 3, "label": "PER", "text": "Bob"}], "should be 'Bob', and the text has 'Ann' there"),
        ({"PER": {"Bob": [[0, 2]]}}, "should be 'Bob'"),
        ({"PER": {"Ann": [[0]]}}, "is no .start, end."),
        ([[0, 3]], "is no .start, end, type."),
        ([[0, 3, " "]], "is no .start, end, type."),
        ([[0, True, "PER"]], "is no .start, end, type."),
        ([{"start": 0, "label": "PER"}], "has no start, end and label"),
        ([{"start": "0", "end": "3", "label": "PER"}], "has no start, end and label"),
        ("[[0, 3", "begins like JSON and is none"),
        (7, "is no list of entities"),
        ([["PER"]], "is no .start, end, type."),
    ],
)
def test_entities_that_do_not_fit_are_told(label, reason):
    table, _ = as_entities(from_objects([{"text": TEXT, "label": WANTED}, {"text": TEXT, "label": label}]), Columns())
    good, bad = table.records
    assert good[1]["label"] == WANTED
    assert isinstance(bad, Problem)
    assert bad.line == 2
    assert bad.text == TEXT
    assert re.search(reason, bad.reason), bad.reason


def test_tags_must_be_as_many_as_words_and_of_the_scheme():
    rows = [{"tokens": ["a", "b"], "tags": ["B-A", "O"]}, {"tokens": ["a"], "tags": ["O", "O"]}, {"tokens": ["a"], "tags": ["A"]},
            {"tokens": ["a", " "], "tags": ["O", "O"]}, {"tokens": [], "tags": []}]  # fmt: skip
    records, _, _ = made(rows)
    reasons = [record.reason for record in records[1:]]
    assert reasons[0] == "there are 2 tags for 1 words"
    assert "'A' is no tag" in reasons[1]
    assert "are not strings with something in them" in reasons[2]
    assert reasons[3] == "text is empty"


def test_ids_of_tags_are_named_by_the_source():
    names = ("O", "B-PER", "I-PER")
    rows = [{"tokens": ["Ann", "Lee", "left"], "ner_tags": [1, 2, 0]}, {"tokens": ["so"], "ner_tags": [3]}]
    table, _ = as_entities(Table("x", ("tokens", "ner_tags"), from_dicts(rows, "x"), classes={"ner_tags": names}), Columns())
    good, bad = table.records
    assert good[1] == {"text": "Ann Lee left", "words": [[0, 3], [4, 7], [8, 12]], "label": [[0, 7, "PER"]]}
    assert "not all among the 3" in bad.reason


def test_what_was_put_right_is_counted():
    assert one({"text": TEXT, "entities": [[0, 8, "PER"]]})["notes"][-1] == "1 entities had white space around them, which was left out."
    inclusive = one({"text": TEXT, "entities": [{"start": 0, "end": 6, "type": "PER", "text": "Ann Lee"}]})
    assert inclusive["notes"][-1] == "1 entities count their last character in (their surface says so)."
    assert one({"text": "a b", "label": "O E-A"})["notes"][-1] == "1 tags are not legal in bioes and were read as well as could be."


def test_no_entity_is_an_answer_and_no_label_is_none():
    assert one({"text": TEXT, "label": []})["label"] == []
    assert one({"text": TEXT, "label": {}})["label"] == []
    assert "label" not in one({"text": TEXT, "label": None})
    records, _, columns = made([{"text": TEXT, "label": "whatever"}], labelled=False)
    assert columns.label is None
    assert "label" in records[0][1]  # an unused column like any other


def test_columns_are_told_or_found_and_said():
    row = {"a": TEXT, "b": WANTED, "text": "x", "id": 7}
    found = one(row, Columns(text="a", label="b"))
    assert (found["text"], found["label"], found["id"]) == (TEXT, WANTED, 7)
    assert made([row], Columns(text="a", label="b"))[2] == Columns(text="text", label="label")
    assert "Guessed: text = column 'content', label = column '实体'" in made([{"content": TEXT, "实体": WANTED}])[1][0]
    with pytest.raises(OptionError, match="column='c': unknown"):
        made([row], Columns(text="c"))
    with pytest.raises(DataError, match="no column looks like entities"):
        made([{"text": TEXT}])
    with pytest.raises(DataError, match="no column looks like the text"):
        made([{"label": WANTED, "id": 1}])
    with pytest.raises(DataError, match="memory: the letters of the tags"):
        made([{"text": TEXT, "label": "M-A U-A O O O"}])


def test_control_characters_become_spaces_so_that_offsets_stay():
    found = one({"text": "A\x07nn saw\tBob", "label": [[9, 12, "PER"]]})
    assert (found["text"], found["label"]) == ("A nn saw\tBob", [[9, 12, "PER"]])


def test_words_that_a_row_brings_by_offsets_are_kept_and_checked():
    assert one({"text": TEXT, "label": WANTED, "words": [[0, 3], [4, 7]]})["words"] == [[0, 3], [4, 7]]
    assert "over the next one" in one({"text": TEXT, "label": WANTED, "words": [[0, 5], [4, 7]]})
    assert "words" not in one({"text": TEXT, "label": WANTED, "words": "3 words"})


def test_rows_of_files_keep_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"Ann, yes","[[0, 3, ""PER""]]"\nBob,"[[0, 9, ""PER""]]"\n', encoding="utf-8")
    table, _ = as_entities(open_table(path, Form()), Columns())
    good, bad = table.records
    assert good == (2, {"text": "Ann, yes", "label": [[0, 3, "PER"]]})
    assert str(bad).startswith(f"{path}:3: 'PER' from 0 to 9 does not lie inside")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 25)
    | st.floats(allow_nan=True)
    | st.sampled_from(["PER", "B-PER", "O", "Ann", "", " ", "[[0, 3", "start"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["start", "end", "label", "text", "Ann"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.fixed_dictionaries({"text": st.just(TEXT) | JSON, "label": JSON, "words": st.none() | JSON}), min_size=1, max_size=3))
def test_whatever_stands_there_is_a_row_or_a_reason(rows):
    try:
        records, _, _ = made(rows)
    except DataError:
        return
    assert len(records) == len(rows)
    for record in records:
        if not isinstance(record, Problem):
            text = record[1]["text"]
            assert all(0 <= start < end <= len(text) and isinstance(kind, str) for start, end, kind in record[1].get("label", []))

"""A log and its items become rows: in order of time, each item once, nothing dropped without a word."""

import numpy as np
import pytest

from trunkline.data.quality import check, require
from trunkline.data.readers.interactions import read_interactions
from trunkline.data.split import split
from trunkline.errors import DataError, OptionError

ITEMS = [{"item": str(n), "text": f"book {n}"} for n in range(1, 9)]


def log(*events):
    return [{"user": user, "item": item, "time": time} for user, item, time in events]


def short(rows):
    return [(row["group"], [text[5:] for text in row["history"]], row["text_b"][5:], row.get("split")) for row in rows]


def test_rows_follow_the_time_and_say_their_part():
    events = log(("u", 3, 30), ("u", 1, 10), ("v", 7, 5), ("u", 2, 20), ("v", 8, 6), ("u", 4, 40), ("w", 1, 1), ("w", 2, 2), ("w", 3, 3))
    found = read_interactions(events, ITEMS)
    assert short(found.rows) == [
        ("u", ["1"], "2", "train"),
        ("u", ["1", "2"], "3", "validation"),
        ("u", ["1", "2", "3"], "4", "test"),
        ("v", ["7"], "8", "train"),
        ("w", ["1"], "2", "train"),
        ("w", ["1", "2"], "3", "test"),
    ]
    assert found.rows[1]["text"] == "book 1\nbook 2"
    assert found.rows[1]["time"] == 30
    assert found.catalogue == tuple(f"book {n}" for n in range(1, 9))


def test_history_is_cut_to_the_last_items():
    found = read_interactions(log(*(("u", n, n) for n in range(1, 9))), ITEMS, history=3)
    assert short(found.rows)[-1] == ("u", ["5", "6", "7"], "8", "test")


def test_what_is_left_out_is_counted_and_said():
    events = log(("u", 1, 1), ("u", 99, 2), ("u", 1, 3), ("u", 2, 4), ("v", 1, 1), ("w", 98, 1), ("u", 98, 9))
    found = read_interactions(events, ITEMS)
    assert short(found.rows) == [("u", ["1"], "2", "train")]
    said = " ".join(found.rows.notes)
    for words in (
        "items file does not have: 3.",
        "took an item again, which count once: 1.",
        "fewer than two such events, who teach nothing: 2.",
    ):
        assert words in said


def test_items_with_one_text_are_one_item():
    items = [*ITEMS, {"item": "100", "text": "book 1"}]
    found = read_interactions(log(("u", 1, 1), ("u", 100, 2), ("u", 2, 3)), items)
    assert short(found.rows) == [("u", ["1"], "2", "train")]
    assert "count as one: 1." in " ".join(found.rows.notes)
    assert len(found.catalogue) == 8


def test_files_with_other_names_of_columns(tmp_path):
    (tmp_path / "log.csv").write_text("uid,product,timestamp\n1,a,2026-01-02\n1,b,2026-01-01\n2,a,2026-01-05\n2,b,2026-01-06\n")
    (tmp_path / "items.tsv").write_text("product\ttitle\na\tred lamp\nb\tblue chair\n")
    rows = read_interactions(tmp_path / "log.csv", tmp_path / "items.tsv", leave="none").rows
    assert [(row["group"], row["history"], row["text_b"]) for row in rows] == [
        ("1", ["blue chair"], "red lamp"),
        ("2", ["red lamp"], "blue chair"),
    ]
    assert "split" not in rows[0]
    assert "user = column 'uid'" in " ".join(rows.notes)


def test_one_moment_is_one_side_of_the_border():
    generator = np.random.default_rng(0)
    events = log(*((f"u{generator.integers(20)}", int(generator.integers(1, 9)), int(generator.integers(50))) for _ in range(300)))
    parts = split(read_interactions(events, ITEMS, leave="none").rows, by="time")
    assert max(row["time"] for row in parts.train) < min(row["time"] for row in parts.validation)
    assert max(row["time"] for row in parts.validation) < min(row["time"] for row in parts.test)


def test_users_in_several_parts_are_no_leak():
    events = log(*((f"u{user}", item, item) for user in range(30) for item in range(1, 6 + user % 3)))
    parts = split(read_interactions(events, ITEMS).rows, by="given")
    assert {row["group"] for row in parts.train} & {row["group"] for row in parts.test}
    require(check(parts))


def test_bad_events_are_problems_with_their_line(tmp_path):
    lines = ["user,item,time", *(f"u{n % 20},{1 + n % 8},{n}" for n in range(200)), "u1,2,soon"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    rows = read_interactions(tmp_path / "log.csv", ITEMS).rows
    assert [(problem.line, problem.reason[:18]) for problem in rows.problems] == [(202, "time 'soon' is no ")]
    (tmp_path / "log.csv").write_text("\n".join([*lines, ",2,7", "u1,,7", "u1,2,"]))
    with pytest.raises(DataError, match=r"4 of 204 events cannot be used(.|\n)*user is missing"):
        read_interactions(tmp_path / "log.csv", ITEMS)


def test_what_cannot_be_used_is_said():
    for events, message in (
        (log(("u", 1, 1)), "no user has two events"),
        ([{"who": "u", "item": 1, "time": 1}], "no column looks like the user"),
        (log(("u", 1, 1), ("u", 2, "2026-01-01")), "a date in some rows and a bare number"),
    ):
        with pytest.raises(DataError, match=message):
            read_interactions(events, ITEMS)
    for options, message in (({"user": "usr"}, "'usr': unknown"), ({"history": 0}, "history=0"), ({"leave": "lst"}, "'lst'")):
        with pytest.raises(OptionError, match=message):
            read_interactions(log(("u", 1, 1), ("u", 2, 2)), ITEMS, **options)

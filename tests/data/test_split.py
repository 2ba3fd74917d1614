"""`split`: shares, stability, and who never stands on two sides."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.data.split import Split, split, text_key
from trunkline.errors import DataError, OptionError
from trunkline.types import Rows


def make(rows, task="classify"):
    return Rows(tuple(rows), task)


def numbered(count, classes=4):
    return make({"text": f"message {n}", "label": f"c{n % classes}", "n": n} for n in range(count))


def sides(parts):
    return {text_key(row): name for name, part in parts.parts().items() for row in part}


def test_shares_are_near_what_was_asked_in_each_label():
    parts = split(numbered(8_000))
    for label in ("c0", "c1", "c2", "c3"):
        counts = {name: sum(row["label"] == label for row in part) for name, part in parts.parts().items()}
        assert abs(counts["test"] - 400) < 60
        assert abs(counts["validation"] - 200) < 45
        assert sum(counts.values()) == 2_000


def test_same_seed_same_split_and_another_seed_another():
    rows = numbered(500)
    assert split(rows, seed=1) == split(rows, seed=1)
    assert sides(split(rows, seed=1)) != sides(split(rows, seed=2))
    assert "seed 1" in split(rows, seed=1).how


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(200, 600))
def test_sides_stay_when_rows_are_added_and_shuffled(random, count):
    rows = list(numbered(600))
    before = sides(split(make(rows[:count])))
    random.shuffle(rows)
    after = sides(split(make(rows)))
    assert all(after[key] == side for key, side in before.items())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Hello", "hello ", "ＨＥＬＬＯ", "卡", "bye", "x1", "x2", "x3", "x4"]), st.sampled_from("abc")),
        min_size=1,
    )
)
def test_every_row_is_somewhere_once_and_same_texts_together(pairs):
    rows = make({"text": text, "label": label, "n": n} for n, (text, label) in enumerate(pairs))
    parts = split(rows)
    assert sorted(row["n"] for part in parts.parts().values() for row in part) == list(range(len(pairs)))
    places = defaultdict(set)
    for name, part in parts.parts().items():
        for row in part:
            places[text_key(row)].add(name)
    assert all(len(names) == 1 for names in places.values())
    assert {row["label"] for row in rows} == {row["label"] for row in parts.train}


def test_a_label_with_five_texts_is_in_every_part():
    rows = make({"text": f"text {c} {n}", "label": f"c{c}"} for c in range(60) for n in range(5))
    for part in split(rows).parts().values():
        assert len({row["label"] for row in part}) == 60


def test_pairs_count_as_one_text():
    rows = make({"text": "same", "text_b": f"other {n}", "label": "ab"[n % 2]} for n in range(200))
    assert len(split(rows).test) > 20


def test_labels_of_several_classes_are_all_in_train():
    rows = make({"text": f"text {n}", "label": [f"c{n % 50}", f"d{n % 7}"]} for n in range(100))
    assert len({label for row in split(rows, test=0.6).train for label in row["label"]}) == 57


def test_numbers_need_no_classes():
    parts = split(make([{"text": f"text {n}", "label": float(n)} for n in range(300)], "regress"))
    assert [len(part) > 10 for part in parts.parts().values()] == [True] * 3


def test_groups_stay_together():
    rows = make({"text": f"text {n}", "label": "ab"[n % 2], "group": f"g{n % 40}"} for n in range(800))
    parts = split(rows, by="group")
    groups = [{row["group"] for row in part} for part in parts.parts().values()]
    assert sum(map(len, groups)) == 40
    assert all(groups)


def test_the_latest_are_the_test():
    rows = make({"text": f"text {n}", "label": "ab"[n % 2], "time": float((n * 37) % 100)} for n in range(100))
    parts = split(rows, by="time")
    assert [len(part) for part in parts.parts().values()] == [70, 10, 20]
    assert max(row["time"] for row in parts.train) < min(row["time"] for row in parts.validation)
    assert max(row["time"] for row in parts.validation) < min(row["time"] for row in parts.test)


def test_rows_of_one_moment_stay_together():
    rows = make({"text": f"text {n}", "label": "ab"[n % 2], "time": float(n // 25)} for n in range(100))
    assert [Counter(row["time"] for row in part) for part in split(rows, by="time", validation=0).parts().values()][2] == {3.0: 25}


def test_the_column_split():
    names = ["train"] * 60 + ["test"] * 20 + ["validation"] * 10
    rows = make({"text": f"text {n}", "label": "ab"[n % 2], "split": name} for n, name in enumerate(names))
    assert [len(part) for part in split(rows, by="given").parts().values()] == [60, 10, 20]
    without = make(row for row in rows if row["split"] != "validation")
    parts = split(without, by="given")
    assert len(parts.test) == 20
    assert 0 < len(parts.validation) < 20


def test_given_files():
    held_out = numbered(30)
    parts = split(numbered(200), test=held_out)
    assert parts.test is held_out
    assert parts.given == ("test",)
    assert len(parts.train) + len(parts.validation) == 200
    parts = split(numbered(200), test=held_out, validation=held_out)
    assert len(parts.train) == 200


def test_share_nought():
    parts = split(numbered(100), test=0)
    assert (len(parts.test), parts.unwanted) == (0, ("test",))


@pytest.mark.parametrize("shares", [{"test": 1.0}, {"test": 0.6, "validation": 0.4}, {"validation": -0.1}, {"test": 20}])
def test_shares_out_of_range(shares):
    with pytest.raises(OptionError, match="use shares from 0"):
        split(numbered(10), **shares)


def test_what_rows_lack():
    with pytest.raises(OptionError, match="Did you mean 'label'"):
        split(numbered(10), by="lable")
    for by, word in (("group", "group=COLUMN"), ("time", "time=COLUMN"), ("given", "named 'split'")):
        with pytest.raises(DataError, match=word):
            split(numbered(10), by=by)


def test_no_rows():
    assert isinstance(split(make([])), Split)
    assert isinstance(split(make([]), by="time"), Split)


def test_auto_divides_no_group_and_otherwise_goes_by_label():
    grouped = Rows(tuple({"text": f"message {n}", "label": "ab"[n % 2], "group": str(n % 10)} for n in range(100)), "classify")
    parts = split(grouped).parts()
    assert not {row["group"] for row in parts["train"]} & {row["group"] for row in parts["test"]}
    assert "by group" in split(grouped).how
    assert "by label" in split(replace(grouped, rows=({"text": "a message", "label": "a"}, *grouped))).how


def test_auto_follows_what_a_log_says_of_its_users():
    rows = tuple({"text": f"item {n}", "text_b": "next", "group": str(n % 10), "split": "test" if n >= 90 else "train"} for n in range(100))
    assert len(split(Rows(rows, "recommend")).test) == 10

"""`check`: each finding is made where it is due and not where it is not; bars D7 (exact part), D8 and D9."""

import pytest

from trunkline.data.quality import check, drop_leaks, require
from trunkline.data.split import Split, split
from trunkline.errors import DataError
from trunkline.types import Rows


def make(*pairs, task="classify"):
    return Rows(tuple({"text": text, "label": label} for text, label in pairs), task)


WORDS = "card refund lost money late broken price help login parcel".split()  # noqa: SIM905


def plain(count=60, start=0):
    return [
        (f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} {WORDS[(n * 7 + n // 100) % 10]} {n}", "ab"[n % 2]) for n in range(start, start + count)
    ]


GOOD = make(*plain())


def findings(data, level=None):
    return [finding.what for finding in check(data) if level in (None, finding.level)]


def parts(train, validation, test):
    return Split(make(*train), make(*validation), make(*test))


def test_good_rows_have_no_findings():
    assert check(GOOD) == []
    assert check(split(make(*plain(600)))) == []
    require([])


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (make(), "rows has no rows"),
        (make(("a b", "x"), ("c d", "x")), "there is one class only: 'x'"),
        (make(*plain(), ("alone", "c")), "classes with fewer than two rows: 1"),
        (make(("a", 1.0), ("b", 1.0), task="regress"), "every row has the same number"),
        (Rows(({"text": "a"}, {"text": "b"}), "classify"), "no row has a label"),
    ],
)
def test_errors_of_rows(rows, what):
    assert any(what in found for found in findings(rows, "error"))
    with pytest.raises(DataError, match="cannot be trained on"):
        require(check(rows))


def test_all_errors_come_together():
    data = parts([("a b", "x")], [], [("a b", "z")])
    with pytest.raises(DataError) as caught:
        require(check(data))
    for what in (
        "validation has no rows",
        "fewer than two rows: 2",
        "stand in train and in test: 1",
        "labels of test that train does not have: 1",
    ):
        assert what in str(caught.value)
    assert str(caught.value).count("->") == 4


def test_leaks_are_found_however_they_are_written():
    train = [*plain(), ("My Card　is lost", "a"), ("我的卡丢了", "b")]
    data = parts(train, plain(10, 100), [*plain(10, 200), ("ｍｙ card is LOST ", "a"), ("我的卡丢了", "b")])
    assert findings(data, "error") == ["texts that stand in train and in test: 2"]
    clean = drop_leaks(data)
    assert findings(clean, "error") == []
    assert (len(clean.train), len(clean.test)) == (60, 12)
    assert any("2 rows were taken out of train" in note for note in clean.notes)


def test_all_planted_leaks_are_dropped():
    train, test = plain(500), plain(100, 600)
    data = parts([*train, *test[:40]], [*plain(50, 800), *test[40:60]], test)
    clean = drop_leaks(data)
    assert (len(clean.train), len(clean.validation), len(clean.test)) == (500, 50, 100)


def test_second_texts_count():
    rows = [{"text": "same", "text_b": f"other {n}", "label": "ab"[n % 2]} for n in range(40)]
    data = Split(Rows(tuple(rows[:20]), "classify"), Rows(tuple(rows[20:30]), "classify"), Rows(tuple(rows[30:]), "classify"))
    assert findings(data, "error") == []


def test_groups_across_parts():
    def grouped(pairs, group):
        return Rows(tuple({"text": text, "label": label, "group": group} for text, label in pairs), "classify")

    data = Split(grouped(plain(), "g1"), grouped(plain(10, 100), "g2"), grouped(plain(10, 200), "g1"))
    assert findings(data, "error") == ["groups that stand in train and in test: 1"]


def test_unknown_labels_name_the_known():
    found = check(parts(plain(), plain(10, 100), [*plain(10, 200), ("new one", "c"), ("new two", "c")]))
    assert [finding.what for finding in found] == ["labels of test that train does not have: 1"]
    assert found[0].do.endswith("Known: a, b")
    assert found[0].rows == ("'c': 2 rows",)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ([("refund help now 5", "a"), ("Refund  help now 5", "b")], "texts that stand there with different labels: 1"),
        ([("x" * 10_001, "a")], "texts over 10,000 characters: 1"),
        ([("one more", "A"), ("and more", "A")], "labels that differ only in case"),
        ([(f"{WORDS[n % 10]} zxq {n}", "c") for n in range(30)], "words that alone give a label away: 1"),
        ([(f"{WORDS[n % 10]}我看看这个{n}", "c") for n in range(30)], "words that alone give a label away"),
    ],
)
def test_warnings(extra, what):
    found = findings(make(*plain(), *extra))
    assert len(found) == 1
    assert what in found[0]
    require(check(make(*plain(), *extra)))


@pytest.mark.parametrize(("rare", "warned"), [(2, True), (3, False)])
def test_imbalance(rare, warned):
    rows = make(*((text, "a") for text, _ in plain(60)), *((text, "b") for text, _ in plain(rare, 100)))
    assert any("the largest class" in what for what in findings(rows, "warning")) == warned


def test_what_is_not_wanted_may_be_empty():
    assert findings(split(make(*plain(200)), test=0), "error") == []

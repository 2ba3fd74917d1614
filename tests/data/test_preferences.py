"""What is noticed in pairs: each finding on planted rows, and silence on rows without it."""

from trunkline.data.preferences import FEW, check_pairs
from trunkline.data.quality import check
from trunkline.types import Rows


def rows(count=60, **fields):
    return [{"text": f"q{at}", "text_b": f"good {at} " + "x" * (at % 2), "rejected": f"bad! {at} " + "x" * ((at + 1) % 2), **fields} for at in range(count)]  # fmt: skip


def found(pairs):
    return [what for _, what, _, _ in check_pairs(pairs)]


def test_nothing_is_noticed_in_enough_ordinary_pairs():
    assert found(rows(FEW)) == []


def test_few_identical_and_conflicting_pairs_are_noticed():
    pairs = [*rows(), {"text": "q", "text_b": "Same ", "rejected": "same"}, {"text": "q0", "text_b": "bad! 0 x", "rejected": "good 0"}]
    said = found(pairs)
    assert any("62 pairs" in one for one in said)
    assert any("two identical answers: 1" in one for one in said)
    assert any("both ways round: 1" in one for one in said)


def test_pairs_of_which_the_longer_answer_is_preferred_are_noticed():
    longer = [{**row, "text_b": row["text_b"] + " and more"} for row in rows()]
    assert any("100% of the pairs the preferred answer is the longer" in one for one in found(longer))
    assert not any("of the pairs the preferred" in one for one in found(rows()))


def test_one_annotator_who_says_most_is_noticed():
    pairs = [{**row, "annotator": "a" if at % 4 else "b"} for at, row in enumerate(rows())]
    assert any("'a' alone preferred in 75%" in one for one in found(pairs))
    even = [{**row, "annotator": "ab"[at % 2]} for at, row in enumerate(rows())]
    assert not any("alone preferred" in one for one in found(even))


def test_quality_tells_them():
    assert any("pairs" in finding.what for finding in check(Rows(tuple(rows()), "reward")))

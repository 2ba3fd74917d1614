"""Words, and tags of every scheme to entities and back."""

import itertools
import random

import pytest

from trunkline.data.tagging import (
    SCHEMES,
    begins,
    covered,
    ends,
    find_scheme,
    follows,
    join_words,
    parts_of,
    spans_of,
    split_words,
    tags_of,
    words_of,
)
from trunkline.errors import DataError, OptionError


def random_spans(chance, words, kinds=("PER", "LOC")):
    """Entities that lie beside each other, often close."""
    spans, at = [], 0
    while at < words:
        end = min(words, at + chance.randint(1, 4))
        if chance.random() < 0.6:
            spans.append((at, end, chance.choice(kinds)))
        at = end + (chance.random() < 0.3)
    return spans


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_read_as_it_is_written_and_found(scheme):
    chance = random.Random(scheme)
    cases = [(random_spans(chance, words), words) for words in chance.choices(range(1, 12), k=200)]
    written = [tags_of(spans, words, scheme) for spans, words in cases]
    assert [spans_of(tags, scheme) for tags in written] == [(spans, 0) for spans, _ in cases]
    assert find_scheme(written) == scheme


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "iob1"])
def test_what_is_written_is_what_may_follow(scheme):
    chance = random.Random(scheme)
    kinds = ("PER", "LOC")
    seen = set()
    for _ in range(2000):
        tags = tags_of(random_spans(chance, 6, kinds), 6, scheme)
        assert begins(tags[0])
        assert ends(tags[-1], scheme)
        seen |= set(itertools.pairwise(tags))
    every = sorted({tag for pair in seen for tag in pair})
    assert {(a, b) for a in every for b in every if follows(a, b, scheme)} == seen


@pytest.mark.parametrize(
    ("scheme", "tags", "spans", "repairs"),
    [
        ("bio", "O I-A I-A O", [(1, 3, "A")], 1),
        ("bio", "B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")], 1),
        ("bio", "B-A B-A I-A", [(0, 1, "A"), (1, 3, "A")], 0),
        ("iob1", "I-A I-A B-A I-B", [(0, 2, "A"), (2, 3, "A"), (3, 4, "B")], 0),
        ("bioes", "B-A I-A O", [(0, 2, "A")], 1),
        ("bioes", "S-A E-A", [(0, 1, "A"), (1, 2, "A")], 1),
        ("bioes", "B-A E-A I-A E-A", [(0, 2, "A"), (2, 4, "A")], 1),
        ("bioes", "B-A E-B", [(0, 1, "A"), (1, 2, "B")], 2),
        ("bilou", "B-A I-A L-A U-B", [(0, 3, "A"), (3, 4, "B")], 0),
        ("bmes", "B-A M-A E-A S-A", [(0, 3, "A"), (3, 4, "A")], 0),
        ("bmes", "B-A O B-A E-A", [(0, 1, "A"), (2, 4, "A")], 0),
        ("bio", "B I O B", [(0, 2, "entity"), (3, 4, "entity")], 0),
        ("bio", "B_time I_time", [(0, 2, "time")], 0),
    ],
)
def test_tags_that_are_not_legal_are_read_as_well_as_can_be(scheme, tags, spans, repairs):
    assert spans_of(tags.split(), scheme) == (spans, repairs)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("O O", "bio"),
        ("I-A I-A O B-A", "bio"),
        ("I-A I-A O I-B", "iob1"),
        ("B-A E-A S-A", "bioes"),
        ("B-A M-A E-A O", "bmes"),
        ("U-A", "bilou"),
    ],
)
def test_the_scheme_is_found(tags, scheme):
    assert find_scheme([tags.split()]) == scheme


def test_letters_of_no_scheme_are_told():
    with pytest.raises(DataError, match=r"M \(1\), U \(1\).*belong to no scheme.*bmes"):
        find_scheme([["M-A", "U-A"]])


@pytest.mark.parametrize("tag", ["", "X-PER", "PER", "B-", "o", "B-A\n"])
def test_what_is_no_tag_is_told(tag):
    with pytest.raises(ValueError, match="is no tag"):
        parts_of(tag)


def test_a_letter_of_another_scheme_is_told():
    with pytest.raises(ValueError, match="'E-A' is no tag of bio"):
        spans_of(["B-A", "E-A"], "bio")
    with pytest.raises(OptionError, match="Did you mean 'bio'"):
        tags_of([], 1, "bioo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop", ["don", "'", "t", "stop"]),
        ("我在IBM公司3年了。", ["我", "在", "IBM", "公", "司", "3", "年", "了", "。"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("  ", []),
        ("WCG2011北京", ["WCG", "2011", "北", "京"]),
        ("rating_value: 5", ["rating_value", ":", "5"]),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["EU", "rejects", "."], "EU rejects ."),
        (["我", "在", "北京"], "我在北京"),
        (["我", "用", "Python", "写", "。"], "我用 Python 写。"),
        (["1", "6", "年", "3", "月"], "16年3月"),
        (["1", "6", "a"], "1 6 a"),
    ],
)
def test_words_are_joined_and_found_again(words, text):
    joined, offsets = join_words(words)
    assert joined == text
    assert [joined[start:end] for start, end in offsets] == words


def test_entities_cover_whole_words_and_never_share_one():
    words = [(0, 3), (4, 7), (8, 12)]
    assert covered([(0, 7, "A"), (8, 12, "B")], words) == [(0, 2, "A"), (2, 3, "B")]
    assert covered([(1, 5, "A"), (5, 9, "B")], words) == [(0, 2, "A"), (2, 3, "B")]
    assert covered([(3, 4, "A")], words) == []


def test_a_row_may_bring_its_words():
    assert words_of({"text": "a b", "words": [[0, 3]]}) == [(0, 3)]
    assert words_of({"text": "a b"}) == [(0, 1), (2, 3)]

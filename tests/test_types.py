"""Items that are kept small are the items that went in."""

import tracemalloc

import numpy as np
import pytest

from trunkline.types import Item, Items, Tokens


def tokens(size, types=False):
    ids = np.arange(size, dtype=np.int32)
    return Tokens(ids, (ids > 1).astype(np.int8) if types else None)


def same(one, other):
    fields = [(item.target, item.was_cut, item.about, item.gold) for item in (one, other)]
    pairs = list(zip(one.tokens, other.tokens, strict=True))
    whole = all(np.array_equal(a.ids, b.ids) and a.key == b.key and (a.types is None) == (b.types is None) for a, b in pairs)
    return whole and fields[0] == fields[1]


GIVEN = [
    Item((tokens(3),), 7),
    Item((tokens(4, types=True), tokens(1)), "text", True, about={"words": 2}, gold=["a"]),
    Item((), None),
    Item((tokens(0),), 0.5),
]


def test_what_goes_in_comes_out():
    items = Items(iter(GIVEN))
    assert len(items) == len(GIVEN)
    assert all(map(same, items, GIVEN))
    assert same(items[-1], GIVEN[-1])
    assert same(items[np.int64(1)], GIVEN[1])
    assert all(map(same, items[1:3], GIVEN[1:3]))
    assert items[0].tokens[0].ids.dtype == np.int32
    assert items[1].tokens[0].types.dtype == np.int8
    assert len(Items([])) == 0
    with pytest.raises(IndexError):
        items[4]


def test_a_short_text_takes_little_memory():
    """Its 12 ids are 48 bytes; a list of items, each with an array of its own, takes more than 400 a text."""
    tracemalloc.start()
    items = Items(Item((tokens(12),), 1) for _ in range(5000))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / len(items) < 130

"""The index against a plain dict."""

import numpy as np

from trunkline.states.index import KeyIndex, as_keys, shard_and_row


def test_the_index_finds_what_a_dict_finds():
    random, index, plain = np.random.default_rng(0), KeyIndex(), {}
    everything = [random.bytes(16) for _ in range(500)] + [bytes(16), b"\x00" * 15 + b"\x01", b"\x01" + bytes(15)]
    for shard in range(20):
        keys = [everything[at] for at in random.integers(0, len(everything), 40)]
        index.add(as_keys(keys), shard)
        for row, key in enumerate(keys):
            plain.setdefault(key, (shard, row))
    places = index.find(as_keys(everything))
    found = [pair if at >= 0 else None for at, *pair in zip(places.tolist(), *(half.tolist() for half in shard_and_row(places)))]
    assert found == [list(plain[key]) if key in plain else None for key in everything]
    assert len(index) == len(plain)
    assert None in found


def test_an_empty_index_finds_nothing():
    assert KeyIndex().find(as_keys([bytes(16)])).tolist() == [-1]
    assert KeyIndex().find(as_keys([])).tolist() == []

"""Near-duplicates against counting all pairs, and the bar: of planted copies 99% are found, and of what is found 95% is right."""

import itertools
from random import Random

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.quality.duplicates import groups, meaning_pairs, near_pairs, pieces, slightly_changed, surface_pairs

WORDS = [
    "".join(letters)
    for letters in itertools.islice(itertools.product("bdfgklmnprst", "aeiou", "bdklmnrst", "aeiou", "nrst"), 0, 13_000, 13)
]


def sentences(count: int, seed: int = 0, words: tuple[int, int] = (8, 25)) -> list[str]:
    random = Random(seed)
    return [" ".join(random.choices(WORDS, k=random.randint(*words))) for _ in range(count)]


def jaccard(left: str, right: str) -> float:
    a, b = pieces(left), pieces(right)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9, 1.0])
def test_the_join_finds_what_counting_all_pairs_finds(threshold: float) -> None:
    random = Random(3)
    texts = sentences(60, words=(3, 8))
    texts += [slightly_changed(random.choice(texts), random) for _ in range(60)] + [
        "我的卡丢了怎么办",
        "我的卡丢了，怎么办？",
        "",
        "?",
        "a",
    ]
    found = {(pair.first, pair.second): pair.score for pair in surface_pairs(texts, threshold)}
    wanted = {(a, b): jaccard(texts[a], texts[b]) for a, b in itertools.combinations(range(len(texts)), 2)}
    distinct = {places[0] for places in _same(texts).values()}
    for (a, b), index in wanted.items():
        if index >= threshold - 1e-9 and index < 1 and a in distinct and b in distinct:
            assert found[a, b] == pytest.approx(index)
    for (a, b), index in found.items():
        assert index >= threshold - 1e-9
        assert index == pytest.approx(wanted[a, b])
    assert {tuple(one) for one in groups(len(texts), surface_pairs(texts, 1.0))} == {tuple(p) for p in _same(texts).values() if len(p) > 1}


def _same(texts: list[str]) -> dict[frozenset[str], list[int]]:
    found: dict[frozenset[str], list[int]] = {}
    for at, text in enumerate(texts):
        found.setdefault(pieces(text), []).append(at)
    return found


def planted(count: int) -> tuple[list[str], set[tuple[int, int]]]:
    """`count` texts of which half have a copy behind them, changed a little, with a Jaccard index of 0.9 and more."""
    base, random = sentences(count, seed=1), Random(2)
    copies: list[str] = []
    for at in range(count // 2):
        copy = base[at]
        while copy == base[at] or jaccard(copy, base[at]) < 0.9:
            copy = slightly_changed(base[at], random)
        copies.append(copy)
    return [*base, *copies], {(at, count + at) for at in range(count // 2)}


def test_planted_copies_are_found() -> None:
    """Bar D7, on 1,000 planted copies among 2,000 texts."""
    texts, wanted = planted(2000)
    found = {(pair.first, pair.second) for pair in near_pairs(texts)}
    assert len(found & wanted) >= 0.99 * len(wanted)
    assert len(found & wanted) >= 0.95 * len(found)


def test_meaning_adds_and_takes_away() -> None:
    texts = ["where is my parcel", "has my package come", "transfer to China is urgent now", "transfer from China is urgent now"]
    vectors = np.array([[1, 0, 0], [0.999, 0.01, 0], [0, 1, 0], [0, 0, 1.0]])
    found = near_pairs(texts, vectors, near=0.7, same=0.97)
    assert [(pair.first, pair.second, pair.by) for pair in found] == [(0, 1, "meaning")]  # 2 and 3 share pieces, and mean other things
    assert 0.6 <= jaccard(texts[2], texts[3]) < 0.8


def test_meaning_pairs_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    from trunkline.quality import duplicates

    vectors = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = {(a, b) for a, b in itertools.combinations(range(200), 2) if unit[a] @ unit[b] >= 0.9}
    monkeypatch.setattr(duplicates, "_CELLS", 3000)  # several blocks
    assert {(pair.first, pair.second) for pair in meaning_pairs(vectors, 0.9)} == wanted


def test_many_copies_give_few_pairs() -> None:
    assert len(surface_pairs(["the same text again"] * 500)) == 499


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(OptionError, match="threshold"):
        surface_pairs(["a"], 0.1)

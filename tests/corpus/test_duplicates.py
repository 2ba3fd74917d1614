"""Near-duplicates against all pairs worked out, and MinHash against its formula."""

import random

import numpy as np
import pytest

from trunkline.corpus.duplicates import InMemory, duplicates
from trunkline.corpus.minhash import Sketch, folded, jaccard, shingles
from trunkline.errors import OptionError


def text(generator: random.Random, size: int = 12) -> str:
    return " ".join("".join(generator.choices("etaoinshrdlu", k=generator.randint(2, 7))) for _ in range(size))


def perturbed(generator: random.Random, words: str) -> str:
    parts = words.split()
    for _ in range(generator.randint(0, 2)):
        parts[generator.randrange(len(parts))] = "x"
    return " ".join(parts) + generator.choice(["", "!", "  ", " ok"])


def test_same_as_all_pairs() -> None:
    """Whatever is in one group of pairs at the threshold is one group here, and nothing else is."""
    generator = random.Random(0)
    base = [text(generator) for _ in range(120)]
    texts = base + [perturbed(generator, generator.choice(base)) for _ in range(180)]
    generator.shuffle(texts)
    found = duplicates(InMemory(texts, Sketch(bands=60, rows=4)), 0.7)  # so many bands that none is missed
    first = list(range(len(texts)))
    pieces = [shingles(folded(one), 6) for one in texts]
    for one in range(len(texts)):
        for other in range(one):
            if jaccard(pieces[one], pieces[other]) >= 0.7:
                low, high = sorted((first[one], first[other]))
                first = [low if where == high else where for where in first]
    assert found.first.tolist() == first
    assert 100 < (~found.stays).sum() < 180
    same = [texts.index(next(t for t in texts if folded(t) == folded(one))) for one in texts]
    assert found.exact.tolist() == [at != where for at, where in enumerate(same)]


def test_bar_d7_recall_and_precision_on_planted_pairs() -> None:
    """1,000 planted pairs of a Jaccard index of at least 0.9 among 5,000 texts: recall at least 99%, precision at least 95%."""
    generator = random.Random(1)
    base = [text(generator, 30) for _ in range(4000)]
    planted = []
    while len(planted) < 1000:
        source = len(planted)
        copy = base[source][: generator.randint(0, 3) * -1 or None] + generator.choice("!?.")
        if jaccard(shingles(folded(copy), 6), shingles(folded(base[source]), 6)) >= 0.9:
            planted.append(copy)
    found = duplicates(InMemory(base + planted), 0.8)
    dropped = ~found.stays
    right = found.first[4000:] == np.arange(1000)
    assert right.mean() >= 0.99
    assert right.sum() / dropped.sum() >= 0.95


@pytest.mark.parametrize("shared", [0.5, 0.8, 0.9])
def test_the_keys_meet_as_often_as_the_formula_says(shared: float) -> None:
    sketch, generator, met, expected = Sketch(bands=10, rows=3), random.Random(2), 0.0, 0.0
    for _ in range(300):
        whole = text(generator, 60)
        cut = int(len(whole) * (1 - shared) / (1 + shared))
        one, other = whole[cut:], whole[:-cut]
        index = jaccard(shingles(folded(one), 6), shingles(folded(other), 6))
        keys = sketch.keys([one, other])
        met += float((keys[:, 0] == keys[:, 1]).mean())
        expected += index**3
    assert abs(met - expected) / 300 < 0.035  # 3,000 draws of a share: three standard errors


def test_sorting_in_parts_changes_nothing() -> None:
    generator = random.Random(3)
    base = [text(generator) for _ in range(300)]
    documents = InMemory(base + [perturbed(generator, one) for one in base])
    whole = duplicates(documents, 0.6)
    for at_once in (500, 100, 7):
        parts = duplicates(documents, 0.6, at_once=at_once)
        assert np.array_equal(parts.first, whole.first)
        assert np.array_equal(parts.exact, whole.exact)


def test_one_word_many_times_and_texts_shorter_than_a_window() -> None:
    found = duplicates(InMemory(["a", "A", "b", "", " ", "丢", "丢了", "aaaaaaa", "aaaaaaaaaaaa"]), 0.8)
    assert found.first.tolist() == [0, 0, 2, 3, 3, 5, 6, 7, 7]  # the last two have the same one window
    assert duplicates(InMemory([])).first.tolist() == []


def test_a_crowded_bucket_is_bounded_and_counted() -> None:
    """Texts that share a template and little else: compared with the first few, and the rest is counted as passed over."""
    generator = random.Random(4)
    texts = ["dear customer, we have received your message and we will answer soon. " + text(generator, 8) for _ in range(400)]
    found = duplicates(InMemory(texts, Sketch(bands=8, rows=1)), 0.95)
    assert found.stays.all()
    assert found.passed_over > 0
    assert found.compared < 8 * 16 * 400


def test_only_exact_ones() -> None:
    assert duplicates(InMemory(["one two three four five", "one two three four five!", "One two  three four five"]), 1).first.tolist() == [
        0,
        1,
        0,
    ]
    with pytest.raises(OptionError, match="threshold"):
        duplicates(InMemory(["a"]), 0.1)


def test_keys_do_not_depend_on_the_batch() -> None:
    generator = random.Random(5)
    texts = [text(generator, generator.randint(1, 40)) for _ in range(50)] + ["", "我的卡丢了", "é" * 9]
    together = Sketch().keys(texts)
    assert np.array_equal(together, np.concatenate([Sketch().keys([one]) for one in texts], axis=1))
    assert not np.array_equal(together, Sketch(seed=1).keys(texts))

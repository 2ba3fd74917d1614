"""Strategies: each gives new rows once; margin, BADGE and core-set by their definitions; the outlook's interval holds; doubt beats chance where it should."""

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.labelling.curve import area, outlook
from trunkline.labelling.strategies import STRATEGIES, WORD_STRATEGIES, Pool, WordPool, badge, choose, core_set, coverage, margin
from trunkline.quality.probe import Discriminant

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, 300)
VECTORS = (2 * np.eye(3, 6)[LABELS] + GENERATOR.normal(size=(300, 6))).astype(np.float32)
LABELLED = GENERATOR.choice(300, 40, replace=False)
POOL = Pool(VECTORS, LABELLED, LABELS[LABELLED], 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("known", [0, 1, 40])
def test_every_strategy_gives_open_rows_once(strategy: str, known: int) -> None:
    pool = Pool(VECTORS, LABELLED[:known], LABELS[LABELLED[:known]], 3)
    found = choose(pool, 25, strategy, seed=1)
    assert len(set(found.tolist()) - set(LABELLED[:known].tolist())) == 25
    assert np.array_equal(found, choose(Pool(VECTORS, LABELLED[:known], LABELS[LABELLED[:known]], 3), 25, strategy, seed=1))
    assert len(set(choose(pool, 10_000, strategy).tolist())) == 300 - known


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_are_all_the_same(strategy: str) -> None:
    same = Pool(np.ones((50, 4), np.float32), np.arange(20), np.arange(20) % 2, 2)
    assert len(set(choose(same, 12, strategy).tolist())) == 12


def test_margin_by_its_definition() -> None:
    ordered = np.sort(POOL.probabilities, axis=1)
    gaps = dict(zip(POOL.open.tolist(), (ordered[:, -1] - ordered[:, -2]).tolist()))
    assert set(margin(POOL, 10, GENERATOR).tolist()) == set(sorted(gaps, key=gaps.__getitem__)[:10])


def test_core_set_by_its_definition() -> None:
    centres, found = list(LABELLED), core_set(POOL, 5, GENERATOR).tolist()
    for at in found:
        away = {row: min(1 - float(POOL.unit[row] @ POOL.unit[one]) for one in centres) for row in POOL.open.tolist() if row not in centres}
        assert away[at] == pytest.approx(max(away.values()), abs=1e-5)
        centres.append(at)


def test_badge_measures_distances_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    residual = POOL.probabilities.copy()
    residual[np.arange(len(residual)), residual.argmax(1)] -= 1
    gradients = (residual[:, :, None] * POOL.unit[POOL.open][:, None, :]).reshape(len(residual), -1)
    seen = []

    class Spy(np.random.Generator):
        def choice(self, size, p=None, **more):  # what chances it is asked to draw by
            seen.append(p)
            return super().choice(size, p=p)

    found = np.searchsorted(POOL.open, badge(POOL, 3, Spy(np.random.PCG64(0))))
    assert found[0] == np.argmax((gradients**2).sum(1))
    nearest = np.minimum((gradients**2).sum(1), ((gradients - gradients[found[0]]) ** 2).sum(1))
    assert np.allclose(seen[0], nearest / nearest.sum(), atol=1e-6)


def test_coverage_stands_for_most() -> None:
    clouds = np.repeat(np.eye(4, 8) * 5, [100, 50, 20, 4], axis=0) + 0.1 * GENERATOR.normal(size=(174, 8))
    found = coverage(Pool(clouds.astype(np.float32), np.empty(0, int), np.empty(0, int), 4), 3, np.random.default_rng(0))
    assert set(np.searchsorted([100, 150, 170], found, side="right").tolist()) >= {0, 1}


def word_pool(labelled: int) -> WordPool:
    """Texts of three to nine words; a tag is a direction, and rare."""
    generator = np.random.default_rng(0)
    tags = [generator.choice(3, generator.integers(3, 10), p=[0.8, 0.15, 0.05]) for _ in range(120)]
    words = [(3 * np.eye(3, 6)[one] + generator.normal(size=(len(one), 6))).astype(np.float16) for one in tags]
    vectors = np.stack([one.astype(np.float32).mean(0) for one in words])
    return WordPool(vectors, np.arange(labelled), tags[:labelled], 3, words)


@pytest.mark.parametrize("strategy", WORD_STRATEGIES)
@pytest.mark.parametrize("labelled", [0, 5, 30])
def test_where_words_have_labels(strategy: str, labelled: int) -> None:
    found = choose(word_pool(labelled), 25, strategy, seed=1)
    assert len(set(found.tolist())) == 25
    assert found.min() >= labelled
    assert np.array_equal(found, choose(word_pool(labelled), 25, strategy, seed=1))


def test_a_text_is_as_doubtful_as_its_words_together() -> None:
    pool = word_pool(30)
    sums = []
    for at in pool.open.tolist():
        ordered = np.sort(pool.linear.scores(pool.words[at].astype(np.float32)), axis=1)
        sums.append(float((1 - (ordered[:, -1] - ordered[:, -2])).sum()))
    assert set(margin(pool, 10, GENERATOR).tolist()) == set(pool.open[np.argsort(sums)[-10:]].tolist())


def test_what_has_no_meaning_for_words_is_refused() -> None:
    with pytest.raises(OptionError, match="strategy where words have labels"):
        choose(word_pool(30), 5, "badge")


def test_doubt_beats_chance_where_one_class_is_rare() -> None:
    def accuracy(strategy: str, seed: int) -> float:
        generator = np.random.default_rng(seed)
        labels = generator.choice(4, 1000, p=[0.6, 0.3, 0.06, 0.04])
        vectors = (3 * np.eye(4, 12)[labels] + generator.normal(size=(1000, 12))).astype(np.float32)
        places = np.empty(0, dtype=np.int64)
        for step in (16, 32, 48, 64):
            places = np.concatenate(
                [places, choose(Pool(vectors[:700], places, labels[places], 4), step - len(places), strategy, seed=step)]
            )
        right = Discriminant.fit(vectors[places], labels[places], 4).logits(vectors[700:]).argmax(1) == labels[700:]
        return float(np.mean([right[labels[700:] == at].mean() for at in range(4)]))

    mean = {strategy: np.mean([accuracy(strategy, seed) for seed in range(4)]) for strategy in ("safe", "margin", "random")}
    assert mean["safe"] > mean["random"]
    assert mean["margin"] > mean["random"]


def test_outlook() -> None:
    found = outlook(VECTORS, LABELS, 3, 200)
    assert found.low <= found.gain <= found.high
    assert -0.01 <= found.gain < 0.1
    assert "200 more labels buy about" in str(found)
    labels = GENERATOR.integers(0, 3, 600)
    wide = 2 * np.eye(3, 40)[labels] + GENERATOR.normal(size=(600, 40))  # more to learn, so that a few rows are not enough
    few, many = outlook(wide[:80], labels[:80], 3, 200), outlook(wide, labels, 3, 200)
    assert few.gain > many.gain + 0.01
    with pytest.raises(OptionError, match="at least 30"):
        outlook(VECTORS[:10], LABELS[:10], 3, 5)


def test_area() -> None:
    assert area([(10, 0.5), (20, 0.5), (40, 1.0)]) == pytest.approx((10 * 0.5 + 20 * 0.75) / 30)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match="Did you mean 'margin'"):
        choose(POOL, 5, "margn")
    with pytest.raises(OptionError, match="once"):
        choose(Pool(VECTORS, np.array([1, 1]), np.array([0, 1]), 3), 5)
    with pytest.raises(OptionError, match="count"):
        choose(POOL, 0)

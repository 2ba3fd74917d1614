"""Drift: the statistic by its definition, few false alarms without a change, many true ones with one; ADWIN finds a change soon and only then."""

import itertools

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.quality.shift import Adwin, class_shift, shift

GENERATOR = np.random.default_rng(0)


def test_the_statistic_by_its_definition() -> None:
    x, y = GENERATOR.normal(size=(12, 3)), GENERATOR.normal(size=(10, 3)) + 1
    both = np.concatenate([x, y])
    width = np.median([((a - b) ** 2).sum() for a, b in itertools.combinations(both, 2)])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / width))

    inside = [sum(kernel(a, b) for a, b in itertools.permutations(part, 2)) / (len(part) * (len(part) - 1)) for part in (x, y)]
    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert shift(x, y).mmd == pytest.approx(sum(inside) - 2 * across)


def test_false_alarms_are_few_and_changes_are_found() -> None:
    stored = GENERATOR.normal(size=(300, 8))
    quiet = [shift(stored, GENERATOR.normal(size=(80, 8)), permutations=100, seed=seed).p_value for seed in range(60)]
    assert sum(p <= 0.05 for p in quiet) <= 9  # 3 are expected
    moved = [shift(stored, GENERATOR.normal(size=(80, 8)) + 0.4, permutations=100, seed=seed).p_value for seed in range(10)]
    assert max(moved) <= 0.05


def test_which_rows_moved() -> None:
    stored = GENERATOR.normal(size=(300, 4))
    live = np.concatenate([GENERATOR.normal(size=(80, 4)), GENERATOR.normal(size=(20, 4)) * 0.3 + 4])
    assert set(shift(stored, live).moved[:20].tolist()) == set(range(80, 100))


def test_classes() -> None:
    found = {one.label: one for one in class_shift(["a"] * 60 + ["b"] * 40, ["a"] * 58 + ["b"] * 10 + ["c"] * 32)}
    assert found["c"].p_value < 0.001
    assert found["b"].p_value < 0.001
    assert found["a"].p_value > 0.5
    assert (found["c"].before, found["c"].now) == (0.0, 0.32)


def test_adwin_finds_a_change_soon() -> None:
    found = []
    for seed in range(10):
        generator, window = np.random.default_rng(seed), Adwin()
        for at in range(2000):
            if window.add(float(generator.random() < (0.9 if at < 1000 else 0.6))):
                found.append(at)
                break
        assert abs(window.mean - 0.75) < 0.3
    assert all(1000 <= at < 1200 for at in found)
    assert len(found) == 10


def test_adwin_is_quiet_without_one_and_small() -> None:
    generator, window = np.random.default_rng(0), Adwin()
    assert not any(window.add(float(generator.random())) for _ in range(5000))
    assert window.count == 5000
    assert sum(map(len, window._rows)) < 80
    assert window.mean == pytest.approx(0.5, abs=0.03)


def test_too_little_is_refused() -> None:
    with pytest.raises(OptionError, match="at least ten"):
        shift(np.zeros((3, 2)), np.zeros((30, 2)))
    with pytest.raises(OptionError, match="value"):
        Adwin().add(1.5)
    with pytest.raises(OptionError, match="both sides"):
        class_shift([], ["a"])

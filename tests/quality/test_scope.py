"""Scope: what lies elsewhere is found, and false alarms are as few as was asked; each score against a plain computation."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trunkline.errors import OptionError
from trunkline.quality.scope import HOW, Scope, false_alarms_at

GENERATOR = np.random.default_rng(0)
MEANS = 6 * np.eye(3, 6)


def inside(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = GENERATOR.integers(0, 3, count)
    return (MEANS[labels] + GENERATOR.normal(size=(count, 6))).astype(np.float32), labels


VECTORS, LABELS = inside(600)
KNOWN = Scope.fit(VECTORS, LABELS, 3, inside(400)[0])
OUTSIDE = (GENERATOR.normal(size=(300, 6)) + np.array([0, 0, 0, 6, 6, 0])).astype(np.float32)


@pytest.mark.parametrize("how", ["distance", "neighbours", "energy", "both"])
def test_what_lies_elsewhere_is_found(how: str) -> None:
    belongs = inside(300)[0]
    scores = np.concatenate([KNOWN.scores(belongs, how), KNOWN.scores(OUTSIDE, how)])
    assert roc_auc_score(np.repeat([0, 1], 300), scores) > 0.97
    assert false_alarms_at(scores[:300], scores[300:]) < 0.2


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_false_alarms_are_as_few_as_was_asked(how: str, share: float) -> None:
    found = KNOWN.outside(inside(2000)[0], share, how).mean()
    assert found <= share + 0.035  # a threshold of 400 validation rows, measured on 2,000: three standard deviations


def test_the_distance_is_that_to_a_class_less_that_to_the_whole() -> None:
    some, rows = inside(20)[0].astype(np.float64), VECTORS.astype(np.float64)
    there, centre = np.stack([rows[at == LABELS].mean(0) for at in range(3)]), rows.mean(0)

    def squared(one: np.ndarray, mean: np.ndarray, inner: np.ndarray) -> float:
        covariance = inner.T @ inner / len(rows)
        covariance = 0.7 * covariance + 0.3 * np.trace(covariance) / 6 * np.eye(6)
        return float((one - mean) @ np.linalg.inv(covariance) @ (one - mean))

    wanted = [min(squared(one, mean, rows - there[LABELS]) for mean in there) - squared(one, centre, rows - centre) for one in some]
    assert np.allclose(KNOWN.scores(some, "distance"), wanted, rtol=1e-4)


def test_few_validation_rows_and_unknown_names_are_refused() -> None:
    with pytest.raises(OptionError, match="at least 20"):
        Scope.fit(VECTORS, LABELS, 3, VECTORS[:5])
    with pytest.raises(OptionError, match="Did you mean"):
        KNOWN.scores(VECTORS, "distanze")
    assert KNOWN.threshold(0.0) == float("inf")


def test_false_alarms_at() -> None:
    assert false_alarms_at(np.array([0.01, 0.2, 0.9]), np.arange(1, 101) / 100) == pytest.approx(2 / 3)

"""The exact linear solution: it agrees with scikit-learn on standardised vectors, and reads vectors as they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from trunkline.evaluation import linear
from trunkline.evaluation.linear import fit_linear

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(120, 6)) * [1, 10, 0.1, 1, 1, 1] + 3).astype(np.float32)
NUMBER = SimpleNamespace(task="regress")


def spec(labels, multi=False):
    return SimpleNamespace(task="classify", labels=tuple("abcd"[:labels]), multi_label=multi)


@pytest.mark.parametrize("labels", [2, 3])
def test_it_is_logistic_regression_on_standardised_vectors(labels):
    truth = (X[:, 0] + X[:, 3] * 0.5).argsort().argsort() * labels // len(X)
    found = fit_linear(X, truth, spec(labels))
    plain = LogisticRegression(C=found.options["C"], tol=1e-4, max_iter=500)
    scaled = StandardScaler().fit_transform(X)
    assert np.allclose(found.scores(X), plain.fit(scaled, truth).predict_proba(scaled), atol=1e-3)


def test_it_is_ridge_regression_for_a_number():
    truth = X @ np.arange(6.0)
    found = fit_linear(X, truth, NUMBER)
    scaled = StandardScaler().fit_transform(X)
    assert np.allclose(found.scores(X), Ridge(alpha=found.options["alpha"]).fit(scaled, truth).predict(scaled), atol=1e-2)


def test_a_label_without_rows_is_never_said_and_one_that_all_have_always():
    truth = np.where(X[:, 0] > 3, 2, 0)
    assert fit_linear(X, truth, spec(3)).scores(X)[:, 1].max() < 1e-6
    several = np.stack([np.ones(len(X)), np.zeros(len(X)), X[:, 0] > 3], axis=1).astype(int)
    scores = fit_linear(X, several, spec(3, multi=True)).scores(X)
    assert scores[:, 0].min() > 0.99
    assert scores[:, 1].max() < 0.01


def test_a_dimension_that_is_only_noise_of_rounding_has_no_say():
    dead = np.concatenate([X, np.where(RNG.random((len(X), 1)) > 0.5, 1e-33, 0).astype(np.float32)], axis=1)
    found = fit_linear(dead, (X[:, 0] > 3).astype(int), spec(2))
    assert np.all(found.weight[:, -1] == 0)
    assert np.abs(found.weight).max() < 1e3


def test_the_strength_is_picked_on_the_validation_rows():
    noise = RNG.normal(size=(40, 200)).astype(np.float32)
    truth, other = RNG.integers(0, 2, 40), RNG.integers(0, 2, 40)
    options = fit_linear(noise, truth, spec(2), validation=(noise[::-1], other)).options
    assert options["C"] in options["picked_from"]
    assert len(options["picked_from"]) > 1


def test_the_same_problem_is_solved_once_and_another_anew(monkeypatch):
    """The head of a probe and the baseline beside it are one problem; other rows, labels or strengths are not."""
    solved = []
    plain = linear._solve
    monkeypatch.setattr(linear, "_solve", lambda *given: solved.append(1) or plain(*given))
    rows, y = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32), np.arange(40) % 2
    first = fit_linear(rows, y, spec(2))
    assert fit_linear(rows.copy(), y.copy(), spec(2)) is first
    assert len(solved) == 1
    assert fit_linear(rows, 1 - y, spec(2)) is not first
    assert fit_linear(rows, 1 - y, spec(2), strengths=(0.1,)).options["C"] == 0.1
    assert fit_linear(rows + 1, 1 - y, spec(2), strengths=(0.1,)) is not first
    assert len(solved) == 4

"""A linear model on fixed vectors, solved exactly: the baseline "untuned", and the head of a branch that learns nothing else.

Logistic regression (one label or several), or ridge regression (a number). How strongly it is regularised is picked on the
validation rows. The vectors are standardised while fitting; what comes out reads them as they are.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from trunkline.evaluation.metrics import compute

_STATES_C = (0.001, 0.01, 0.1, 1.0)
_STATES_ALPHA = (1.0, 10.0, 100.0, 1000.0)
_NEVER = -30.0
"""The logit of a label without a training row."""
_DEAD = 1e-6
"""A dimension that varies less than this share of the usual one is noise of rounding, and left out."""


@dataclass(frozen=True)
class Linear:
    """weight (K, D), bias (K,): logits of labels, or (K = 1) a number. options: what was picked and from what."""

    weight: np.ndarray
    bias: np.ndarray
    kind: str
    options: dict[str, Any]
    seconds: float

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> what metrics read: (N, K) probabilities, or (N,) numbers."""
        found = np.asarray(vectors, dtype=np.float64) @ self.weight.T + self.bias
        if self.kind == "number":
            return found[:, 0]
        return special.expit(found) if self.kind == "multi" else special.softmax(found, axis=1)


def fit_linear(
    vectors: np.ndarray, truth: np.ndarray, spec: Any, *, validation: tuple[np.ndarray, np.ndarray] | None = None
) -> Linear:  # fmt: skip
    """Fit once for each strength of regularisation and keep the one that does best on the validation rows.

    vectors: (N, D); truth: (N,) label ids, (N, K) 0 or 1, or (N,) numbers; spec: a task's spec (task, labels, multi_label);
    validation: vectors and truth to pick by; without them the middle strength is taken.
    """
    started = time.perf_counter()
    kind = "number" if spec.task == "regress" else "multi" if spec.multi_label else "single"
    mean, deviation = vectors.mean(0, dtype=np.float64), vectors.std(0, dtype=np.float64)
    alive = deviation > _DEAD * np.median(deviation)
    scaled = np.where(alive, (vectors - mean) / np.where(alive, deviation, 1.0), 0.0).astype(np.float32)
    strengths = _STATES_ALPHA if kind == "number" else _STATES_C
    tried: list[tuple[float, float, Linear]] = []
    for strength in strengths if validation else [strengths[(len(strengths) - 1) // 2]]:
        weight, bias, converged = _solve(scaled, truth, spec, kind, strength)
        weight = np.where(alive, weight / np.where(alive, deviation, 1.0), 0.0)
        options: dict[str, Any] = {"alpha" if kind == "number" else "C": strength, "converged": converged}
        one = Linear(weight, bias - weight @ mean, kind, options, 0.0)
        tried.append((goodness(validation[1], one.scores(validation[0]), spec) if validation else 0.0, strength, one))
    _, _, best = max(tried, key=lambda each: each[0])
    options = best.options | {"picked_from": [strength for _, strength, _ in tried]}
    return Linear(best.weight, best.bias, kind, options, time.perf_counter() - started)


def goodness(truth: np.ndarray, scores: np.ndarray, spec: Any) -> float:
    """What a strength is picked by, larger is better: accuracy, micro F1, or the mean squared error below zero."""
    metric = "mse" if spec.task == "regress" else "micro_f1" if spec.multi_label else "accuracy"
    value = compute([metric], truth, scores)[metric]
    return -value if metric == "mse" else value


def logistic(vectors: Any, truth: np.ndarray, strength: float) -> tuple[LogisticRegression, bool]:
    """The fitted model, and whether it came to rest. Sparse vectors stop earlier: it costs the time and changes no answer."""
    model = LogisticRegression(C=strength, tol=1e-3 if sparse.issparse(vectors) else 1e-4, max_iter=500)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(vectors, truth)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return model, len(caught) == len(others)


def _solve(vectors: np.ndarray, truth: np.ndarray, spec: Any, kind: str, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """weight (K, D) and bias (K,) for standardised vectors, and whether the solver came to rest."""
    if kind == "number":
        ridge = Ridge(alpha=strength, solver="cholesky").fit(vectors, truth)
        return np.asarray(ridge.coef_, dtype=np.float64)[None], np.array([ridge.intercept_], dtype=np.float64), True
    labels = len(spec.labels)
    weight, bias = np.zeros((labels, vectors.shape[1])), np.full(labels, _NEVER)
    if kind == "multi":
        return _each(vectors, truth, strength, weight, bias)
    present = np.unique(truth)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias, True
    model, converged = logistic(vectors, truth, strength)
    if len(present) == 2:  # one logit for two labels: half of it for each
        weight[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias, converged


def _each(vectors: np.ndarray, truth: np.ndarray, strength: float, weight: np.ndarray, bias: np.ndarray) -> tuple[Any, Any, bool]:
    """One logistic regression a label. A label that all or none of the training rows have keeps that answer."""
    converged = True
    for at, column in enumerate(truth.T):
        if 0 < column.sum() < len(column):
            model, rested = logistic(vectors, column, strength)
            weight[at], bias[at], converged = model.coef_[0], model.intercept_[0], converged and rested
        else:
            bias[at] = -_NEVER if column[0] else _NEVER
    return weight, bias, converged

"""A linear model on fixed vectors, solved exactly: the baselines "tfidf" and "untuned", and the head of a branch that learns nothing else.

Logistic regression (one label or several), or ridge regression (a number). How strongly it is regularised is picked on the
validation rows. Dense vectors are standardised while fitting; what comes out reads them as they are.

scikit-learn is imported where a model is fitted: it brings pandas, 85 MB in all, which a run has no use for while it trains.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, special

from trunkline.evaluation.metrics import compute

STATES_C = (0.001, 0.01, 0.1, 1.0)
STATES_ALPHA = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""The strengths of regularisation that are tried on pooled states, for labels and for a number."""
_NEVER = -1000.0
"""The logit of a label without a training row: its probability is 0."""
_MANY = 5000
"""From so many rows on SAGA may stop ten times as early: a pass takes as many more steps, and the answers are the same."""
_BLOCK = 8192
_DEAD = 1e-6
"""A dimension that varies less than this share of the usual one is noise of rounding, and left out."""


_SOLVED: dict[str, Linear] = {}
"""The last solution on dense vectors: the head of a branch that learns nothing else, and the baseline beside it, are one problem."""


@dataclass(frozen=True)
class Linear:
    """weight (K, D), bias (K,): logits of labels, or (K = 1) a number. options: what was picked and from what."""

    weight: np.ndarray
    bias: np.ndarray
    kind: str
    options: dict[str, Any]

    def scores(self, vectors: Any) -> np.ndarray:
        """(N, D), dense or sparse -> what metrics read: (N, K) probabilities, or (N,) numbers."""
        found = vectors @ self.weight.T + self.bias
        if self.kind == "number":
            return found[:, 0]
        return special.expit(found) if self.kind == "multi" else special.softmax(found, axis=1)


def fit_linear(
    vectors: Any, truth: np.ndarray, spec: Any, *, validation: tuple[Any, np.ndarray] | None = None, strengths: Sequence[float] = (),
) -> Linear:  # fmt: skip
    """Fit once for each strength of regularisation and keep the one that does best on the validation rows.

    vectors: (N, D), dense or sparse; truth: (N,) label ids, (N, K) 0 or 1, or (N,) numbers; spec: a task's spec (task, labels, multi_label);
    validation: vectors and truth to pick by, without which the middle strength is taken; strengths: as for pooled states where none are given.
    """
    kind = "number" if spec.task == "regress" else "multi" if spec.multi_label else "single"
    strengths = strengths or (STATES_ALPHA if kind == "number" else STATES_C)
    tried = strengths if validation else [strengths[(len(strengths) - 1) // 2]]
    given = (
        None if sparse.issparse(vectors) else _digest(vectors, truth, *(validation or ()), kind, len(getattr(spec, "labels", ())), tried)
    )
    if given and (before := _SOLVED.get(given)):
        return before
    scaled, mean, deviation = (vectors, 0.0, 1.0) if sparse.issparse(vectors) else _standardised(vectors)
    found: list[tuple[float, Linear]] = []
    for strength in tried:
        weight, bias, converged = _solve(scaled, truth, spec, kind, strength)
        weight = weight / deviation
        options = {"alpha" if kind == "number" else "C": strength, "picked_from": list(tried), "converged": converged}
        one = Linear(weight, bias if sparse.issparse(vectors) else bias - weight @ mean, kind, options)
        found.append((goodness(validation[1], one.scores(validation[0]), spec) if validation else 0.0, one))
    best = max(found, key=lambda each: each[0])[1]
    if given:
        _SOLVED.clear()
        _SOLVED[given] = best
    return best


def _digest(*given: Any) -> str:
    """What tells one problem from another."""
    found = hashlib.sha256()
    for one in given:
        found.update(repr((one.dtype, one.shape) if isinstance(one, np.ndarray) else one).encode())
        if isinstance(one, np.ndarray):
            found.update(np.ascontiguousarray(one).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _standardised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vectors with mean 0 and deviation 1, float32; the mean; the deviation, infinite (so: 0 when divided by) in dead dimensions."""
    count, blocks = (
        len(vectors),
        range(0, len(vectors), _BLOCK),
    )  # block by block: the vectors are many, and float64 of all of them more still
    mean = sum((vectors[at : at + _BLOCK].sum(0, dtype=np.float64) for at in blocks), np.zeros(vectors.shape[1])) / count
    squares = sum(((vectors[at : at + _BLOCK] - mean) ** 2).sum(0) for at in blocks)
    deviation = np.sqrt(squares / count)
    deviation = np.where(deviation > _DEAD * np.median(deviation), deviation, np.inf)
    scaled = np.empty(vectors.shape, dtype=np.float32)
    for at in blocks:
        scaled[at : at + _BLOCK] = (vectors[at : at + _BLOCK] - mean) / deviation
    return scaled, mean, deviation


def goodness(truth: np.ndarray, scores: np.ndarray, spec: Any) -> float:
    """What a strength is picked by, larger is better: accuracy, micro F1, or the mean squared error below zero."""
    metric = "mse" if spec.task == "regress" else "micro_f1" if spec.multi_label else "accuracy"
    value = compute([metric], truth, scores)[metric]
    return -value if metric == "mse" else value


def _logistic(vectors: Any, truth: np.ndarray, strength: float) -> tuple[Any, bool]:
    """The fitted model, and whether it came to rest.

    Sparse vectors are wide: there SAGA (Defazio et al. 2014) keeps one copy of the weights, where L-BFGS keeps twenty, and is as quick.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    wide = sparse.issparse(vectors)
    tol = 1e-4 if not wide else 1e-2 if len(truth) >= _MANY else 1e-3
    model = LogisticRegression(C=strength, solver="saga" if wide else "lbfgs", tol=tol, max_iter=500, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(vectors, truth)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return model, len(caught) == len(others)


def _solve(vectors: Any, truth: np.ndarray, spec: Any, kind: str, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """weight (K, D) and bias (K,) and whether the solver came to rest."""
    if kind == "number":
        from sklearn.linear_model import Ridge

        ridge = Ridge(alpha=strength, solver="sparse_cg" if sparse.issparse(vectors) else "cholesky").fit(vectors, truth)
        return np.asarray(ridge.coef_, dtype=np.float64)[None], np.array([ridge.intercept_], dtype=np.float64), True
    labels = len(spec.labels)
    weight, bias = np.zeros((labels, vectors.shape[1])), np.full(labels, _NEVER)
    if kind == "multi":
        return _each(vectors, truth, strength, weight, bias)
    present = np.unique(truth)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias, True
    model, converged = _logistic(vectors, truth, strength)
    if len(present) == 2:  # one logit for two labels: half of it for each
        weight[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias, converged


def _each(vectors: Any, truth: np.ndarray, strength: float, weight: np.ndarray, bias: np.ndarray) -> tuple[Any, Any, bool]:
    """One logistic regression a label. A label that all or none of the training rows have keeps that answer."""
    converged = True
    for at, column in enumerate(truth.T):
        if 0 < column.sum() < len(column):
            model, rested = _logistic(vectors, column, strength)
            weight[at], bias[at], converged = model.coef_[0], model.intercept_[0], converged and rested
        else:
            bias[at] = -_NEVER if column[0] else _NEVER
    return weight, bias, converged

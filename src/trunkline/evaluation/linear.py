"""A linear model on fixed vectors, solved exactly: the baselines "tfidf" and "untuned", and the head of a branch that learns nothing else.

Logistic regression (one label or several), or ridge regression (a number). How strongly it is regularised is picked on the
validation rows. Dense vectors are standardised while fitting; what comes out reads them as they are. They are read block by block, so
that a million need not lie in memory.

scikit-learn is imported where a model is fitted: it brings pandas, 85 MB in all, which a run has no use for while it trains.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, sparse, special

from trunkline.evaluation.metrics import compute
from trunkline.evaluation.vectors import Vectors, blocks

STATES_C = (0.001, 0.01, 0.1, 1.0)
STATES_ALPHA = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""The strengths of regularisation that are tried on pooled states, for labels and for a number."""
_NEVER = -1000.0
"""The logit of a label without a training row: its probability is 0."""
_MANY = 5000
"""From so many rows on SAGA may stop ten times as early: a pass takes as many more steps, and the answers are the same."""
_STEPS = 500
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
        """(N, D), dense or sparse -> what metrics read: (N, K) probabilities, or (N,) numbers, float32."""
        shape = (vectors.shape[0],) if self.kind == "number" else (vectors.shape[0], len(self.bias))
        found, at = np.empty(shape, dtype=np.float32), 0
        for block in blocks(vectors):
            logits = block @ self.weight.T + self.bias
            found[at : at + len(logits)] = _SCORES[self.kind](logits)
            at += len(logits)
        return found


_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "number": lambda found: found[:, 0],
    "multi": special.expit,
    "single": lambda found: special.softmax(found, axis=1),
}


def fit_linear(
    vectors: Any, truth: np.ndarray, spec: Any, *, validation: tuple[Any, np.ndarray] | None = None, strengths: Sequence[float] = (),
) -> Linear:  # fmt: skip
    """Fit once for each strength of regularisation and keep the one that does best on the validation rows.

    vectors: (N, D), dense (an array, or `Vectors`) or sparse; truth: (N,) label ids, (N, K) 0 or 1, or (N,) numbers; spec: a task's spec (task, labels, multi_label);
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
        is_array = isinstance(one, np.ndarray | Vectors)
        found.update(repr((one.dtype, one.shape) if is_array else one).encode())
        for block in blocks(one) if is_array else ():
            found.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _standardised(vectors: Any) -> tuple[Vectors, np.ndarray, np.ndarray]:
    """The vectors with mean 0 and deviation 1; the mean; the deviation, infinite (so: 0 when divided by) in dead dimensions."""
    count, width = vectors.shape
    mean = sum((block.sum(0, dtype=np.float64) for block in blocks(vectors)), np.zeros(width)) / count
    deviation = np.sqrt(sum(((block - mean) ** 2).sum(0) for block in blocks(vectors)) / count)
    deviation = np.where(deviation > _DEAD * np.median(deviation), deviation, np.inf)
    scaled = Vectors(width)
    for block in blocks(vectors):
        scaled.append((block - mean) / deviation)
    return scaled, mean, deviation


def goodness(truth: np.ndarray, scores: np.ndarray, spec: Any) -> float:
    """What a strength is picked by, larger is better: accuracy, micro F1, or the mean squared error below zero."""
    metric = "mse" if spec.task == "regress" else "micro_f1" if spec.multi_label else "accuracy"
    value = compute([metric], truth, scores)[metric]
    return -value if metric == "mse" else value


def _solve(vectors: Any, truth: np.ndarray, spec: Any, kind: str, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """weight (K, D) and bias (K,) and whether the solver came to rest."""
    if kind == "number":
        return *_ridge(vectors, truth, strength), True
    labels = len(spec.labels)
    weight, bias = np.zeros((labels, vectors.shape[1])), np.full(labels, _NEVER)
    if kind == "multi":
        return _each(vectors, truth, strength, weight, bias)
    present, ids = np.unique(truth, return_inverse=True)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias, True
    slopes, constants, converged = _logistic(vectors, ids, strength)
    if len(present) == 2:  # one logit for two labels: half of it for each
        weight[present] = np.concatenate([-slopes, slopes]) / 2
        bias[present] = np.concatenate([-constants, constants]) / 2
    else:
        weight[present], bias[present] = slopes, constants
    return weight, bias, converged


def _each(vectors: Any, truth: np.ndarray, strength: float, weight: np.ndarray, bias: np.ndarray) -> tuple[Any, Any, bool]:
    """One logistic regression a label. A label that all or none of the training rows have keeps that answer."""
    converged = True
    for at, column in enumerate(truth.T):
        if 0 < column.sum() < len(column):
            slopes, constants, rested = _logistic(vectors, column.astype(np.int64), strength)
            weight[at], bias[at], converged = slopes[0], constants[0], converged and rested
        else:
            bias[at] = -_NEVER if column[0] else _NEVER
    return weight, bias, converged


def _ridge(vectors: Any, truth: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """weight (1, D) and bias (1,). Dense vectors have a mean of 0: there the bias is the mean of the truth, and the weight solves the normal equations."""
    if sparse.issparse(vectors):
        from sklearn.linear_model import Ridge

        ridge = Ridge(alpha=strength, solver="sparse_cg").fit(vectors, truth)
        return np.asarray(ridge.coef_, dtype=np.float64)[None], np.array([ridge.intercept_], dtype=np.float64)
    width, mean, at = vectors.shape[1], truth.mean(), 0
    products, sums = strength * np.eye(width), np.zeros(width)
    for block in blocks(vectors):
        products += block.T @ block
        sums += (truth[at : at + len(block)] - mean) @ block
        at += len(block)
    return np.linalg.solve(products, sums)[None], np.array([mean])


def _logistic(vectors: Any, ids: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """weight (K, D), bias (K,), and whether the solver came to rest. ids: (N,) 0 to K - 1; of two labels there is one logit, so K = 1.

    Sparse vectors are wide: there SAGA (Defazio et al. 2014) keeps one copy of the weights, where L-BFGS keeps twenty, and is as quick.
    """
    return _saga(vectors, ids, strength) if sparse.issparse(vectors) else _descended(vectors, ids, strength)


def _saga(vectors: Any, ids: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    tol = 1e-2 if len(ids) >= _MANY else 1e-3
    model = LogisticRegression(C=strength, solver="saga", tol=tol, max_iter=_STEPS, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(vectors, ids)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return model.coef_, model.intercept_, len(caught) == len(others)


def _descended(vectors: Any, ids: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """The same problem, solver and tolerance as scikit-learn's LogisticRegression, which wants all vectors in memory and needs as much again."""
    (count, width), labels = vectors.shape, int(ids.max()) + 1
    outputs, pull = labels if labels > 2 else 1, 1 / (strength * count)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(outputs, width + 1)
        weight, bias = both[:, :-1].astype(np.float32), both[:, -1].astype(np.float32)
        total, slopes, at = 0.0, np.zeros_like(both), 0
        for block in blocks(vectors):
            value, slope = (_among if outputs > 1 else _of_two)(block @ weight.T + bias, ids[at : at + len(block)])
            total += value
            slopes[:, :-1] += slope.T @ block
            slopes[:, -1] += slope.sum(0)
            at += len(block)
        slopes /= count
        slopes[:, :-1] += pull * both[:, :-1]
        return total / count + pull / 2 * float((both[:, :-1] ** 2).sum()), slopes.ravel()

    options = {"maxiter": _STEPS, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    found = optimize.minimize(loss, np.zeros(outputs * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    both = found.x.reshape(outputs, width + 1)
    return both[:, :-1], both[:, -1], bool(found.success)


def _among(logits: np.ndarray, ids: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed cross-entropy of logits (n, K) float32, and its gradient by them, which takes their place."""
    rows = np.arange(len(ids))
    logits -= logits.max(axis=1, keepdims=True)
    right = logits[rows, ids].sum(dtype=np.float64)
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    logits /= sums
    logits[rows, ids] -= 1
    return float(np.log(sums).sum(dtype=np.float64) - right), logits


def _of_two(logits: np.ndarray, ids: np.ndarray) -> tuple[float, np.ndarray]:
    """The same for two labels and one logit (n, 1): that of the second."""
    second = ids[:, None].astype(np.float32)
    return float((np.logaddexp(0, logits) - second * logits).sum(dtype=np.float64)), special.expit(logits) - second

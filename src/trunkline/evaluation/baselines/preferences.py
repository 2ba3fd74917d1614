"""What a reward has to beat: the lengths of the two answers alone, and a linear model on the untuned states of both.

Both are logistic regressions on what one answer has more of than the other, without a constant: swapping the two swaps the sign.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from trunkline.evaluation.baselines.labels import Result
from trunkline.types import Row

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)


def lengths(train: Sequence[Row], test: Sequence[Row]) -> Result:
    """Which answer is the longer one, by the logarithm of its characters: one number is learned, its sign included."""
    started = time.perf_counter()
    found = _longer(test) @ _fitted(_longer(train), 1.0)
    return Result("length", time.perf_counter() - started, found)


def untuned(train: np.ndarray, test: np.ndarray, validation: np.ndarray) -> Result:
    """By what one answer's pooled states (N, D) differ from the other's; how strongly it is regularised is picked on the validation rows."""
    started = time.perf_counter()
    weight, strength = solved(train, validation)
    return Result("untuned", time.perf_counter() - started, test @ weight, options={"C": strength, "picked_from": list(STRENGTHS)})


def solved(train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights (D,) of the reward that is linear in pooled states, from differences (N, D) of better and worse answers; and the strength that was picked."""
    scale = np.maximum(np.sqrt((train.astype(np.float64) ** 2).mean(axis=0)), 1e-6)
    tried = []
    for strength in STRENGTHS:
        weight = _fitted(train / scale, strength) / scale
        tried.append((float(np.logaddexp(0.0, -(validation @ weight)).mean()), strength, weight))
    _, strength, weight = min(tried, key=lambda one: one[0])
    return weight, strength


def _longer(rows: Sequence[Row]) -> np.ndarray:
    """(N, 1): by how much the better answer is longer than the worse one."""
    return np.array([[np.log1p(len(row["text_b"])) - np.log1p(len(row["rejected"]))] for row in rows])


def _fitted(train: np.ndarray, strength: float) -> np.ndarray:
    """The weights (D,) that tell pairs by their differences: fitted on each pair both ways round, so that there are two classes and no constant."""
    from sklearn.linear_model import LogisticRegression  # here, as in linear.py

    both = np.concatenate([train, -train])
    right = np.repeat([1, 0], len(train))
    return LogisticRegression(C=strength, fit_intercept=False, max_iter=500, tol=1e-3).fit(both, right).coef_[0]

"""What a reward has to beat: the lengths of the two answers alone, and a linear model on the untuned states of both.

Both are logistic regressions on what one answer has more of than the other, without a constant: swapping the two swaps the sign.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from trunkline.evaluation.baselines.labels import Result
from trunkline.types import Row

STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def lengths(train: Sequence[Row], test: Sequence[Row]) -> Result:
    """Which answer is the longer one, by the logarithm of its characters: one number is learned, its sign included."""
    started = time.perf_counter()
    found = _margins(_longer(train), [_longer(test)], 1.0)
    return Result("length", time.perf_counter() - started, found[0])


def untuned(train: np.ndarray, test: np.ndarray, validation: np.ndarray) -> Result:
    """By what one answer's pooled states (N, D) differ from the other's; how strongly it is regularised is picked on the validation rows."""
    started = time.perf_counter()
    scale = np.maximum(train.std(axis=0), 1e-6)
    tried = []
    for strength in STRENGTHS:
        margins, held = _margins(train / scale, [test / scale, validation / scale], strength)
        tried.append((float(np.logaddexp(0.0, -held).mean()), strength, margins))
    _, strength, margins = min(tried, key=lambda one: one[0])
    return Result("untuned", time.perf_counter() - started, margins, options={"C": strength, "picked_from": list(STRENGTHS)})


def _longer(rows: Sequence[Row]) -> np.ndarray:
    """(N, 1): by how much the better answer is longer than the worse one."""
    return np.array([[np.log1p(len(row["text_b"])) - np.log1p(len(row["rejected"]))] for row in rows])


def _margins(train: np.ndarray, others: Sequence[np.ndarray], strength: float) -> list[np.ndarray]:
    """The margins (N,) of each of `others`: fitted on each pair both ways round, so that there are two classes and no constant."""
    from sklearn.linear_model import LogisticRegression  # here, as in linear.py

    both = np.concatenate([train, -train])
    right = np.repeat([1, 0], len(train))
    fitted = LogisticRegression(C=strength, fit_intercept=False, max_iter=500, tol=1e-3).fit(both, right)
    return [other @ fitted.coef_[0] for other in others]

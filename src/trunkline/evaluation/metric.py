"""What a metric is, whatever it measures: a name, and a function over weighted rows.

`weighted(truth, scores)` works out once what does not depend on the weights, and gives a function from weights (N, R) to R values. The
plain value has all weights 1; a bootstrap resample has as weight how often each row was drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Weighted = Callable[[np.ndarray], np.ndarray]
"""weights (N, R) float64 -> values (R,) float64."""


@dataclass(frozen=True)
class Metric:
    """A name, what it means in print, and how to work it out. `percent`: people read it as a share of 100."""

    name: str
    title: str
    weighted: Callable[[Any, Any], Weighted]
    kinds: tuple[str, ...]
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    percent: bool = False

    def function(self, truth: Any, scores: Any) -> float:
        """The value for truth and scores in the shapes of the metric's kind."""
        return float(self.weighted(truth, scores)(np.ones((len(truth), 1)))[0])


def mean_of(rows: Callable[[Any, Any], np.ndarray], root: bool = False) -> Callable[[Any, Any], Weighted]:
    """A metric that is the weighted mean of one value a row (or the root of that mean)."""

    def prepare(truth: Any, scores: Any) -> Weighted:
        values = rows(truth, scores).astype(np.float64)

        def value(weights: np.ndarray) -> np.ndarray:
            mean = values @ weights / weights.sum(axis=0)
            return np.sqrt(mean) if root else mean

        return value

    return prepare


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)

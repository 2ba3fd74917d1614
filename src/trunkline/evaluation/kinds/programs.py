"""Answers that are programs: of each problem, how many of those that were written passed its tests.

truth: not read; scores (N, 2): of each problem the programs that were written, and how many of them passed.

Source: Chen et al. 2021, equation 1: pass@k of a problem is the chance that of k of its programs one at the least is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trunkline.errors import OptionError
from trunkline.evaluation.metric import Metric, mean_of
from trunkline.types import Row

KS = (1, 5, 10, 100)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k out of n samples, c of them right, one at the least is right: 1 - C(n - c, k) / C(n, k), without large numbers.

    Raises: OptionError unless 0 <= c <= n and 1 <= k <= n. Source: Chen et al. 2021, equation 1 and figure 3.

    >>> pass_at_k(10, 3, 1)
    0.3
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise OptionError(f"n={n}, c={c}, k={k}: use c of 0 to n samples that are right, and k of 1 to n that are drawn.")
    if n - c < k:
        return 1.0
    if k == 1:
        return c / n
    return float(-np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))


def metrics_of(samples: int) -> tuple[str, ...]:
    """The metrics that so many programs a problem are enough for."""
    return tuple(f"pass_at_{k}" for k in KS if k <= samples)


def errors(rows: Sequence[Row], truth: Any, scores: Any, count: int) -> list[dict[str, Any]]:
    """Nothing for `Report.errors`: what was written stands in `Report.samples`."""
    return []


def _of(k: int) -> Callable[[Any, Any], np.ndarray]:
    return lambda truth, scores: np.array([pass_at_k(int(n), int(c), k) for n, c in scores])


METRICS = tuple(Metric(f"pass_at_{k}", f"pass@{k}", mean_of(_of(k)), ("programs",), percent=True) for k in KS)

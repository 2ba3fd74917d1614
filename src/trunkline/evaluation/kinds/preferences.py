"""Answers that prefer one thing to another: how much better the chosen one is found than the rejected one. For `reward` and what learns from pairs.

truth: not read; scores: (N,) margins in logits, above 0 where the chosen answer is preferred. A margin of 0 prefers neither, and is half right.

Source: Bradley and Terry 1952: the chosen one is preferred with the probability sigmoid(margin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from trunkline.evaluation.metric import Metric, Weighted, mean_of
from trunkline.types import Row

BINS = 10


def errors(rows: Sequence[Row], truth: Any, scores: Any, count: int) -> list[dict[str, Any]]:
    """The rows whose rejected answer is preferred most, for `Report.errors`: text, label (the chosen one), predicted (the rejected one)."""
    margins = _margins(scores)
    worst = sorted(map(int, np.flatnonzero(margins < 0)), key=lambda at: (margins[at], at))[:count]
    return [
        {
            "text": rows[at]["text"],
            "label": rows[at].get("text_b", ""),
            "predicted": rows[at].get("rejected", ""),
            "probability": float(special.expit(-margins[at])),
        }
        for at in worst
    ]


def probabilities(scores: Any) -> np.ndarray:
    """(N, 2) float64: of each margin the probability that the chosen, and that the rejected one is preferred."""
    sure = special.expit(_margins(scores))
    return np.stack([sure, 1 - sure], axis=1)


def _margins(scores: Any) -> np.ndarray:
    return np.asarray(scores, dtype=np.float64).reshape(-1)


def _right(truth: Any, scores: Any) -> np.ndarray:
    margins = _margins(scores)
    return np.asarray((margins > 0) + 0.5 * (margins == 0))


def _ece(truth: Any, scores: Any) -> Weighted:
    """How far the probability of what is preferred is from how often that is right: the gap of ten bins from 0.5 to 1, weighted by rows."""
    margins = _margins(scores)
    claimed, right = special.expit(np.abs(margins)), _right(truth, scores)
    where = np.minimum((BINS * (2 * claimed - 1)).astype(np.int64), BINS - 1)
    gaps = np.zeros((BINS, len(margins)))
    gaps[where, np.arange(len(margins))] = claimed - right
    return lambda weights: np.abs(gaps @ weights).sum(axis=0) / weights.sum(axis=0)


METRICS = (
    Metric("pair_accuracy", "Pair accuracy", mean_of(_right), ("preferences",), percent=True),
    Metric("pair_loss", "Pair loss", mean_of(lambda truth, scores: np.logaddexp(0.0, -_margins(scores))), ("preferences",), False,
           (0.0, float("inf"))),
    Metric("pair_ece", "Pair calibration error", _ece, ("preferences",), higher_is_better=False),
)  # fmt: skip

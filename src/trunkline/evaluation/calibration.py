"""Probabilities that can be believed: one temperature fitted on validation rows, and the picture of how far they hold.

After training, before the branch is saved. Arrays only (logits in, probabilities out); no torch.
A temperature divides every logit by one positive number, so it changes how sure an answer is and never which answer it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, special

from trunkline.errors import OptionError
from trunkline.evaluation.metrics import BINS, bin_of, check, outcomes
from trunkline.evaluation.vectors import blocks

LOWEST, HIGHEST = 0.05, 20.0


def probabilities(logits: Any, *, temperature: float = 1.0, multi: bool = False) -> np.ndarray:
    """(N, K) float64: softmax over the labels of a row, or, for `multi`, a sigmoid for each label by itself.

    >>> probabilities([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    if not temperature > 0:
        raise OptionError(f"temperature={temperature}: use a number above 0; 1 changes nothing.")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(special.expit(scaled) if multi else special.softmax(scaled, axis=1))


def fit_temperature(logits: Any, truth: Any) -> float:
    """The temperature with the smallest negative log-likelihood on these (validation) rows.

    logits: (N, K); truth: (N,) label ids for single-label, (N, K) 0 or 1 for multi-label. Between 0.05 and 20.
    Where no answer is wrong the likelihood only ever grows with more confidence, and a handful of easy rows would turn every
    probability into 1; so then the temperature stays at 1 or above.

    Raises: OptionError where the arrays do not fit each other.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2; we minimise over log T with Brent's
    bounded method, for the loss has one minimum there.
    """
    truth, logits, kind = check(truth, logits)
    if kind == "number":
        raise OptionError("a temperature is for label scores: give logits (N, K), not one number a row.")
    wrong = ((logits >= 0) != (truth == 1)) if kind == "multi" else logits.argmax(axis=1) != truth
    bounds = (np.log(LOWEST if wrong.any() else 1.0), np.log(HIGHEST))
    found = optimize.minimize_scalar(lambda log_t: _loss(logits, truth, np.exp(log_t)), bounds=bounds, method="bounded")
    best = min((float(found.x), *bounds), key=lambda log_t: _loss(logits, truth, np.exp(log_t)))
    return float(np.exp(best))


def negative_log_likelihood(logits: Any, truth: Any, temperature: float = 1.0) -> float:
    """The mean over rows (multi: over rows and labels) of -log(probability given to what is true). Natural logarithm."""
    truth, logits, _ = check(truth, logits)
    return _loss(logits, truth, temperature)


def reliability(truth: Any, scores: Any, bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of equal width over the claimed probability: low, high, count, confidence (mean claim), accuracy (what came true).

    Single-label: the answer's probability, and whether it was right. Multi-label: every label of every row. An empty bin has
    None for both means. The ECE metric is the mean gap of these bins, weighted by count.

    >>> reliability([0, 1], [[1.0, 0.0], [0.75, 0.25]], bins=2)[1]
    {'low': 0.5, 'high': 1.0, 'count': 2, 'confidence': 0.875, 'accuracy': 0.5}
    """
    truth, scores, kind = check(truth, scores)
    if kind == "number" or bins < 1:
        raise OptionError(f"reliability over {bins} bins: use at least one bin, and label probabilities (N, K).")
    confidence, right = outcomes(truth, scores)
    where = bin_of(confidence, bins)
    counts = np.bincount(where, minlength=bins)
    claimed, true = (np.bincount(where, weights=values, minlength=bins) for values in (confidence, right))
    edges = np.linspace(0, 1, bins + 1)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "count": int(counts[b]),
            "confidence": float(claimed[b] / counts[b]) if counts[b] else None,
            "accuracy": float(true[b] / counts[b]) if counts[b] else None,
        }
        for b in range(bins)
    ]


def _loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """The mean over rows, or rows and labels, summed block by block: of many rows a copy is large."""
    losses, total, at = _multi if truth.ndim == 2 else _single, 0.0, 0
    for block in blocks(logits):
        total += losses(block / temperature, truth[at : at + len(block)])
        at += len(block)
    return total / truth.size


def _single(logits: np.ndarray, truth: np.ndarray) -> float:
    return float((special.logsumexp(logits, axis=1) - logits[np.arange(len(truth)), truth]).sum())


def _multi(logits: np.ndarray, truth: np.ndarray) -> float:
    return float((np.logaddexp(0.0, logits) - truth * logits).sum())

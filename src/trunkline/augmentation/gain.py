"""Whether new rows help: a linear head on the states, with and without them, on rows that were held out in turn."""

from __future__ import annotations

import numpy as np

from trunkline.evaluation.interval import Comparison, paired
from trunkline.evaluation.linear import STATES_ALPHA, STATES_C, fit_linear
from trunkline.quality.probe import folds_of
from trunkline.types import Spec

MOST = 2000
"""Rows that the gain is measured on: with more of them new rows help less, and the measure takes long."""


def gain(
    vectors: np.ndarray, truth: np.ndarray, made: np.ndarray, source: np.ndarray, spec: Spec, *, folds: int, seed: int
) -> tuple[Comparison, float]:
    """With less without, on the same rows, and the value without. A new row teaches only where its origin does: what is held out is held out whole.

    vectors: (N, D); truth: (N,) label ids or numbers; made: (M, D); source: (M,) the row that each was made of; spec: of the task
    Raises: DataError for fewer rows than the folds need.
    """
    some = np.sort(np.random.default_rng(seed).permutation(len(truth))[:MOST])
    place = np.full(len(truth), -1)
    place[some] = np.arange(len(some))
    taught = place[source] >= 0
    vectors, truth, made, source = vectors[some], truth[some], made[taught], place[source[taught]]
    number = spec.task == "regress"
    where = folds_of(np.zeros(len(truth), dtype=int) if number else truth, folds, seed)
    shape = (len(truth),) if number else (len(truth), len(getattr(spec, "labels", ())))
    without, with_them = np.empty(shape), np.empty(shape)
    strengths = (STATES_ALPHA[1],) if number else (STATES_C[1],)  # one strength for both: the comparison is of the rows alone
    for fold in range(folds):
        inside, follows = where != fold, where[source] != fold
        if inside.all():
            continue
        plain = fit_linear(vectors[inside], truth[inside], spec, strengths=strengths)
        both = np.concatenate([vectors[inside], made[follows]]), np.concatenate([truth[inside], truth[source[follows]]])
        more = fit_linear(*both, spec, strengths=strengths)
        without[~inside], with_them[~inside] = plain.scores(vectors[~inside]), more.scores(vectors[~inside])
    metric = "pearson" if number else "accuracy"
    value = float(np.corrcoef(truth, without)[0, 1]) if number else float((without.argmax(1) == truth).mean())
    return paired(metric, truth, without, with_them, seed=seed), value

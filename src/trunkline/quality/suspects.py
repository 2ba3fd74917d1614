"""Probable label errors: rows whose given label the others' labels speak against. For classes, for numbers, and for the words of a text.

How many there are is estimated by the confident joint (Source: Northcutt, Jiang and Chuang 2021, "Confident Learning", equations 1 and 2); which
they are, by how much likelier another label is (their "normalized margin"). Where we differ: the probabilities come from `probe.held_out`, which
listens to neighbours too and, the second time, less to what it doubts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trunkline.errors import OptionError
from trunkline.quality.probe import FOLDS, fit_scale, folds_of, held_out, out_of_fold, softmax

_ALPHA = 10.0


@dataclass(frozen=True)
class Suspects:
    """order: the places of all rows, most doubtful first; doubt: (N,) in the order of the rows, larger is more doubtful, above 0 another label is likelier;

    proposed: (N,) the likelier other label's id (or the number expected); expected: how many of the rows are estimated to be wrong
    probabilities: (N, K), each row's from others' labels only; empty for numbers
    """

    order: np.ndarray
    doubt: np.ndarray
    proposed: np.ndarray
    expected: int
    probabilities: np.ndarray


def suspects(
    vectors: np.ndarray, labels: np.ndarray, count: int, *, groups: np.ndarray | None = None, folds: int = FOLDS, seed: int = 0
) -> Suspects:  # fmt: skip
    """Which labels to look at first. vectors (N, D); labels (N,) ids below `count`; groups: (N,) ids of copies of one text.

    Raises: DataError for fewer than ten rows; OptionError where the arrays do not fit.
    """
    vectors, labels = np.asarray(vectors, dtype=np.float32), np.asarray(labels)
    _fits(vectors, labels)
    return from_probabilities(held_out(vectors, labels, count, folds=folds, seed=seed, groups=groups), labels)


def from_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """The same from out-of-fold probabilities (N, K) of any model."""
    at = np.arange(len(labels))
    given, others = probabilities[at, labels], probabilities.copy()
    others[at, labels] = -1.0
    doubt = np.log(np.maximum(others.max(1), 1e-9)) - np.log(np.maximum(given, 1e-9))
    expected = confident_errors(probabilities, labels)
    return Suspects(np.argsort(-doubt, kind="stable"), doubt, others.argmax(1), expected, probabilities)


def confident_errors(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """How many labels are wrong, by the confident joint: rows that are surely of another class than theirs, calibrated to each class's size.

    Source: Northcutt et al. 2021, equation 1 (a row counts for the label whose probability is at least that label's mean self-confidence; of several
    the likeliest) and equation 3 (rows of the joint scaled to the counts of the given labels).
    """
    count = probabilities.shape[1]
    there = np.bincount(labels, minlength=count)
    sums = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=count)
    thresholds = np.where(there > 0, sums / np.maximum(there, 1), 2.0)
    over = np.where(probabilities >= thresholds - 1e-9, probabilities, -1.0)
    sure = over.max(1) > 0
    joint = np.zeros((count, count))
    np.add.at(joint, (labels[sure], over.argmax(1)[sure]), 1.0)
    totals = joint.sum(1)
    off = np.where(totals > 0, 1 - joint.diagonal() / np.maximum(totals, 1e-12), 0.0)
    return round(float((off * there).sum()))


def number_suspects(vectors: np.ndarray, numbers: Sequence[float], *, folds: int = FOLDS, seed: int = 0) -> Suspects:
    """The same for labels that are numbers: how far each is from what a ridge regression on the other folds expects.

    doubt: the distance in robust standard deviations (1.4826 times the median distance), less 3; so above 0 is an outlier
    """
    vectors, truth = np.asarray(vectors, dtype=np.float64), np.asarray(numbers, dtype=np.float64)
    _fits(vectors, truth)
    where, expected = folds_of(np.zeros(len(truth), dtype=np.int64), folds, seed), np.empty(len(truth))
    scale = np.maximum(vectors.std(0), 1e-9)
    ready = (vectors - vectors.mean(0)) / scale
    for fold in range(folds):
        inside = where != fold
        x, y = ready[inside], truth[inside]
        weight = np.linalg.solve(x.T @ x + _ALPHA * x.shape[1] * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        expected[~inside] = ready[~inside] @ weight + y.mean()
    away = np.abs(truth - expected)
    doubt = away / max(1.4826 * float(np.median(away)), 1e-12) - 3.0
    return Suspects(np.argsort(-doubt, kind="stable"), doubt, expected, int((doubt > 0).sum()), np.empty((0, 0)))


@dataclass(frozen=True)
class WordSuspects:
    """order: the places of the texts that have words, most doubtful first; doubt: (N,) of each text's worst word, above 0 another label is likelier;

    worst: (N,) which word that is; proposed: (N,) its likelier label's id; expected: how many words are estimated to be wrong
    share: of the words that are marked (label id above 0) those for which another label is likelier
    """

    order: np.ndarray
    doubt: np.ndarray
    worst: np.ndarray
    proposed: np.ndarray
    expected: int
    share: float


def word_suspects(
    words: Sequence[np.ndarray], labels: Sequence[np.ndarray], count: int, *, groups: np.ndarray | None = None, folds: int = FOLDS, seed: int = 0
) -> WordSuspects:  # fmt: skip
    """Which texts to look at first, where each word has a label. words: N of (W, D); labels: N of (W,) ids below `count`, 0 for none; groups: (N,) copies.

    All words of a text (and of its copies) are held out together. Neighbours are not asked: among so many words they cost more than they tell.
    Source: Wang and Mueller 2022, "Detecting Label Errors in Token Classification Data", section 3: a text is as doubtful as its worst word ("min").
    Raises: DataError for fewer than ten words; OptionError where the arrays do not fit.
    """
    sizes = np.array([len(one) for one in labels], dtype=np.int64)
    if [len(one) for one in words] != sizes.tolist():
        raise OptionError(f"{len(words)} texts with words and {len(labels)} with labels: one label a word is needed.")
    own = np.repeat(np.arange(len(sizes)) if groups is None else groups, sizes)
    every, given = np.concatenate([np.asarray(one, dtype=np.float32) for one in words]), np.concatenate(labels)
    _fits(every, given)
    logits, _ = out_of_fold(every, given, count, folds=folds, seed=seed, groups=own)
    found = from_probabilities(softmax(logits * fit_scale(logits, given)), given)
    ends = np.cumsum(sizes)
    doubt, worst, proposed = np.full(len(sizes), -np.inf), np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    for at in np.flatnonzero(sizes):
        first = ends[at] - sizes[at]
        worst[at] = found.doubt[first : ends[at]].argmax()
        doubt[at], proposed[at] = found.doubt[first + worst[at]], found.proposed[first + worst[at]]
    order, marked = np.argsort(-doubt, kind="stable"), given > 0
    share = float((found.doubt[marked] > 0).mean()) if marked.any() else 0.0
    return WordSuspects(order[sizes[order] > 0], doubt, worst, proposed, found.expected, share)


def _fits(vectors: np.ndarray, labels: np.ndarray) -> None:
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise OptionError(f"vectors {vectors.shape} and {len(labels)} labels: one vector (D,) a label is needed.")
    if not np.isfinite(vectors).all():
        raise OptionError(f"vectors {vectors.shape}: some numbers are NaN or infinite. Look at what made them.")

"""How likely each label is for each row, by a model that did not see that row's own label. What label errors, overlap and drift are read from.

Two views are mixed: a linear discriminant on the vectors (closed form, so five folds over 10,000 rows take a second), and the labels of the
nearest neighbours. How much each counts is what explains the given labels best, so a model whose neighbourhoods say little is not listened to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trunkline.choices import between
from trunkline.errors import DataError
from trunkline.quality.duplicates import unit

FOLDS = 5
NEIGHBOURS = 10
SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97)
"""Of the covariance towards equal spread. Which is best differs from set to set, and with the number of rows (bench/shrinkage.py)."""
_BEFORE_ANY = 0.5
_COARSE = np.geomspace(0.02, 2.0, 8)
_TEMPERATURES = np.geomspace(0.02, 2.0, 24)
_SHARES = np.linspace(0.0, 1.0, 11)
_BLOCK = 2048
_FLOOR = 1e-6


@dataclass(frozen=True)
class Discriminant:
    """Linear discriminant analysis with a shrunken covariance: logits = vectors @ weight + bias. weight (D, K), bias (K,).

    Source: Friedman 1989 (Regularized Discriminant Analysis), equation 18 with one covariance for all classes; rows may have weights.
    """

    weight: np.ndarray
    bias: np.ndarray
    shrinkage: float

    @classmethod
    def fit(
        cls, vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, shrinkage: float | None = None
    ) -> Discriminant:
        """From vectors (N, D), label ids (N,) below `count`, and weights (N,) of rows. A label without rows gets a logit that never wins.

        shrinkage: None picks the one of SHRINKAGES under which rows held out in turn are likeliest; one half for fewer than ten rows
        """
        if shrinkage is None:
            shrinkage = _BEFORE_ANY if len(labels) < 2 * FOLDS else out_of_fold(vectors, labels, count, weights)[1]
        return _solutions(vectors, labels, count, weights, (shrinkage,))[0]

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K)."""
        return vectors @ self.weight + self.bias


def _solutions(
    vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None, shrinkages: Sequence[float]
) -> list[Discriminant]:
    """One for each shrinkage; all from one decomposition, since a covariance and its shrunken forms have the same directions."""
    vectors = np.asarray(vectors, dtype=np.float64)
    each = np.ones(len(vectors)) if weights is None else np.asarray(weights, dtype=np.float64)
    sums, means = np.bincount(labels, weights=each, minlength=count), np.zeros((count, vectors.shape[1]))
    np.add.at(means, labels, vectors * each[:, None])
    means /= np.maximum(sums, 1e-12)[:, None]
    inner = (vectors - means[labels]) * np.sqrt(each)[:, None]
    spread, directions = np.linalg.eigh(inner.T @ inner / max(each.sum(), 1e-12))
    spread, average = np.maximum(spread, 0.0), max(float(spread.mean()), 1e-12)
    prior, turned = np.log(np.maximum(sums, 1e-12) / max(sums.sum(), 1e-12)), (means @ directions).T
    found = []
    for shrinkage in shrinkages:
        weight = directions @ (turned / np.maximum((1 - shrinkage) * spread + shrinkage * average, 1e-9 * average)[:, None])
        bias = -0.5 * (means.T * weight).sum(0) + prior
        found.append(Discriminant(weight, np.where(sums > 0, bias, -1e9), shrinkage))
    return found


@dataclass(frozen=True)
class Probe:
    """A discriminant with the temperature (a factor on its logits) that makes its probabilities honest."""

    discriminant: Discriminant
    scale: float

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, *, seed: int = 0) -> Probe:
        """On all rows; shrinkage and scale from rows held out in turn. Raises: DataError for fewer than ten rows."""
        held, shrinkage = out_of_fold(vectors, labels, count, weights, seed=seed)
        return cls(Discriminant.fit(vectors, labels, count, weights, shrinkage), fit_scale(held, labels, weights))

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K), rows sum to 1."""
        return softmax(self.discriminant.logits(vectors) * self.scale)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K): log-probabilities up to a constant of the row."""
        return self.discriminant.logits(vectors) * self.scale


def folds_of(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """(N,) the fold of each row: every label spread over the folds, rows of one group (copies of one text) in the same."""
    between("folds", folds, 2, 100)
    generator = np.random.default_rng(seed)
    first = np.arange(len(labels)) if groups is None else np.unique(groups, return_index=True)[1][np.unique(groups, return_inverse=True)[1]]
    heads = np.flatnonzero(first == np.arange(len(labels)))
    order = generator.permutation(heads)
    order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), dtype=np.int64)
    found[order] = np.arange(len(order)) % folds
    return found[first]


def out_of_fold(
    vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, *, folds: int = FOLDS, seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """(N, K) logits of each row from a discriminant that was fitted without its fold, and the shrinkage that all folds have.

    Of the SHRINKAGES whose answers are right as often as the best one's, or less by no more than a standard error, it is the one under which the
    labels held out are likeliest, at the scale that suits it. Raises: DataError for too few rows.
    """
    if len(labels) < 2 * folds:
        raise DataError(f"{len(labels)} labelled rows: at least {2 * folds} are needed to hold some out in turn.")
    where, losses, right = folds_of(labels, folds, seed, groups), np.zeros((len(SHRINKAGES), len(_COARSE))), np.zeros(len(SHRINKAGES))
    each = np.ones(len(labels)) if weights is None else weights
    fitted = []
    for fold in range(folds):
        inside = where != fold
        fitted.append(_solutions(vectors[inside], labels[inside], count, None if weights is None else weights[inside], SHRINKAGES))
        for at, one in enumerate(fitted[-1]):
            logits = one.logits(vectors[~inside])
            losses[at] += _losses(logits, labels[~inside], each[~inside], _COARSE)
            right[at] += each[~inside][logits.argmax(1) == labels[~inside]].sum() / each.sum()
    good = right >= right.max() - np.sqrt(right.max() * (1 - right.max()) / len(labels))
    best = int(np.where(good, losses.min(1), np.inf).argmin())
    found = np.empty((len(labels), count))
    for fold in range(folds):
        found[where == fold] = fitted[fold][best].logits(vectors[where == fold])
    return found, SHRINKAGES[best]


def fit_scale(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The factor on held-out logits under which the given labels are likeliest (24 values from 0.02 to 2)."""
    each = np.ones(len(labels)) if weights is None else weights
    return float(_TEMPERATURES[int(_losses(logits, labels, each, _TEMPERATURES).argmin())])


def _losses(logits: np.ndarray, labels: np.ndarray, each: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Of each scale, how unlikely the given labels are."""
    at = np.arange(len(labels))
    return np.array([-(each * np.log(np.maximum(softmax(logits * scale)[at, labels], _FLOOR))).sum() for scale in scales])


def neighbour_shares(
    vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, *, k: int = NEIGHBOURS,
    groups: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """(N, K): the labels of the k nearest other rows (cosine from the mean), nearer ones and rows of larger weight counting more.

    A copy of the row (same group) is no witness and is passed over.
    """
    ready = unit(vectors - vectors.mean(0)).astype(np.float32)
    group = np.arange(len(labels)) if groups is None else groups
    votes, k = np.zeros((len(labels), count)), min(k, len(labels) - 1)
    for start in range(0, len(labels), _BLOCK):
        scores = ready[start : start + _BLOCK] @ ready.T
        scores[group[start : start + _BLOCK, None] == group[None, :]] = -2.0
        near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        each = np.maximum(np.take_along_axis(scores, near, 1), 0.0) ** 2
        each = each if weights is None else each * weights[near]
        rows = np.arange(start, start + len(scores))
        np.add.at(votes, (np.repeat(rows, k), labels[near].ravel()), each.ravel())
    votes += 0.05 / count
    return votes / votes.sum(1, keepdims=True)


def held_out(
    vectors: np.ndarray, labels: np.ndarray, count: int, *, folds: int = FOLDS, seed: int = 0, groups: np.ndarray | None = None,
    rounds: int = 2,
) -> np.ndarray:  # fmt: skip
    """(N, K) probabilities of each row's labels, by others' labels only.

    labels: (N,) ids below `count`; groups: (N,) ids of copies, which stay together; rounds: in each after the first, rows count by how likely their
    given label was in the one before, so that wrong labels teach less.
    Raises: DataError for fewer than ten rows.
    """
    weights, found = None, np.empty((len(labels), count))
    for _ in range(rounds):
        logits, _ = out_of_fold(vectors, labels, count, weights, folds=folds, seed=seed, groups=groups)
        probe = softmax(logits * fit_scale(logits, labels, weights))
        near = neighbour_shares(vectors, labels, count, weights, groups=groups)
        found = _mixed(probe, near, labels)
        weights = np.maximum(found[np.arange(len(labels)), labels] / found.max(1), 1e-3)
    return found


def _mixed(probe: np.ndarray, near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mixture under which the given labels are likeliest."""
    at = np.arange(len(labels))
    p, q = probe[at, labels], near[at, labels]
    likely = [np.log(np.maximum(share * p + (1 - share) * q, _FLOOR)).sum() for share in _SHARES]
    share = float(_SHARES[int(np.argmax(likely))])
    return share * probe + (1 - share) * near


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K), rows sum to 1."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)

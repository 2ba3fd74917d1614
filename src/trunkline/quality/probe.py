"""How likely each label is for each row, by a model that did not see that row's own label. What label errors, overlap and drift are read from.

Two views are mixed: a linear discriminant on the vectors (closed form, so five folds over 10,000 rows take a second), and the labels of the
nearest neighbours. How much each counts is what explains the given labels best, so a model whose neighbourhoods say little is not listened to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trunkline.choices import between
from trunkline.errors import DataError
from trunkline.quality.duplicates import unit

FOLDS = 5
NEIGHBOURS = 10
SHRINKAGE = 0.1
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

    @classmethod
    def fit(
        cls, vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, shrinkage: float = SHRINKAGE
    ) -> Discriminant:
        """From vectors (N, D), label ids (N,) below `count`, and weights (N,) of rows. A label without rows gets a logit that never wins."""
        vectors = np.asarray(vectors, dtype=np.float64)
        each = np.ones(len(vectors)) if weights is None else np.asarray(weights, dtype=np.float64)
        sums, means = np.bincount(labels, weights=each, minlength=count), np.zeros((count, vectors.shape[1]))
        np.add.at(means, labels, vectors * each[:, None])
        means /= np.maximum(sums, 1e-12)[:, None]
        inner = (vectors - means[labels]) * np.sqrt(each)[:, None]
        covariance = inner.T @ inner / max(each.sum(), 1e-12)
        width = len(covariance)
        average = max(float(np.trace(covariance)) / width, 1e-12)
        covariance = (1 - shrinkage) * covariance + shrinkage * average * np.eye(width)
        weight = np.linalg.solve(covariance, means.T)
        bias = -0.5 * (means.T * weight).sum(0) + np.log(np.maximum(sums, 1e-12) / max(sums.sum(), 1e-12))
        return cls(weight, np.where(sums > 0, bias, -1e9))

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K)."""
        return vectors @ self.weight + self.bias


@dataclass(frozen=True)
class Probe:
    """A discriminant with the temperature (a factor on its logits) that makes its probabilities honest."""

    discriminant: Discriminant
    scale: float

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None, *, seed: int = 0) -> Probe:
        """On all rows; the scale from rows held out in turn."""
        held = out_of_fold(vectors, labels, count, weights, seed=seed)
        return cls(Discriminant.fit(vectors, labels, count, weights), fit_scale(held, labels, weights))

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
) -> np.ndarray:  # fmt: skip
    """(N, K) logits of each row from a discriminant that was fitted without its fold."""
    if len(labels) < 2 * folds:
        raise DataError(f"{len(labels)} labelled rows: at least {2 * folds} are needed to hold some out in turn.")
    where = folds_of(labels, folds, seed, groups)
    found = np.empty((len(labels), count))
    for fold in range(folds):
        inside = where != fold
        each = None if weights is None else weights[inside]
        found[~inside] = Discriminant.fit(vectors[inside], labels[inside], count, each).logits(vectors[~inside])
    return found


def fit_scale(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The factor on held-out logits under which the given labels are likeliest (24 values from 0.02 to 2)."""
    each = np.ones(len(labels)) if weights is None else weights
    at = np.arange(len(labels))
    losses = [-(each * np.log(np.maximum(softmax(logits * scale)[at, labels], _FLOOR))).sum() for scale in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


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
        logits = out_of_fold(vectors, labels, count, weights, folds=folds, seed=seed, groups=groups)
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

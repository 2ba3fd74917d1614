"""Fewer labels: what unlabelled rows add, by self-training and by spreading labels over the graph of the states; weak labels combined.

Pseudo-labels are made from the labelled training rows alone; validation rows are never among what is spread or taught, and whoever calls these passes
only the vectors of training and unlabelled rows. Where nothing is won on rows held out, `adds` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.quality.duplicates import unit
from trunkline.quality.probe import Discriminant, fit_scale, folds_of, out_of_fold, softmax

ABSTAIN = -1
_BLOCK = 2048


@dataclass(frozen=True)
class Pseudo:
    """probabilities: (U, K) of the unlabelled rows; taken: (U,) bool, those that are sure enough to be taught; threshold: what sure meant"""

    probabilities: np.ndarray
    taken: np.ndarray
    threshold: float


def self_train(
    vectors: np.ndarray, labels: np.ndarray, unlabelled: np.ndarray, count: int, *, wanted: float = 0.95, rounds: int = 3, seed: int = 0
) -> Pseudo:  # fmt: skip
    """Pseudo-labels for `unlabelled` (U, D) from labelled vectors (L, D), by a probe that learns from its own surest answers.

    The threshold is calibrated: the smallest confidence above which at least `wanted` of held-out labelled rows are right (1 where none is, so nothing is
    taken). Taken rows count in proportion to how sure they are, all together no more than four times the labelled ones.
    Source: Scudder 1965; Yarowsky 1995; confidence calibrated as in Rizve et al. 2021 (UPS), section 3.2, by held-out rows in place of dropout.
    Raises: DataError for fewer than ten labelled rows.
    """
    between("wanted", wanted, 0.0, 1.0)
    held, shrinkage = out_of_fold(vectors, labels, count, seed=seed)
    scale = fit_scale(held, labels)
    threshold = _threshold(softmax(held * scale), labels, wanted)
    every, weights = np.concatenate([vectors, unlabelled]), np.concatenate([np.ones(len(labels)), np.zeros(len(unlabelled))])
    given = np.concatenate([labels, np.zeros(len(unlabelled), dtype=np.int64)])
    found = np.empty((len(unlabelled), count))
    for _ in range(rounds + 1):
        used = weights > 0
        found = softmax(Discriminant.fit(every[used], given[used], count, weights[used], shrinkage).logits(unlabelled) * scale)
        sure = np.where(found.max(1) >= threshold, found.max(1), 0.0)
        given[len(labels) :] = found.argmax(1)
        weights[len(labels) :] = sure * min(1.0, 4 * len(labels) / max(sure.sum(), 1e-12))
    return Pseudo(found, found.max(1) >= threshold, threshold)


def _threshold(probabilities: np.ndarray, labels: np.ndarray, wanted: float) -> float:
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = np.cumsum(probabilities.argmax(1)[order] == labels[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(right >= wanted)
    least = min(10, len(order) // 4)  # a share of three rows is no share
    good = good[good >= least]
    return float(probabilities.max(1)[order[good[-1]]]) if len(good) else 1.0 + 1e-9


def spread(
    vectors: np.ndarray, labels: np.ndarray, unlabelled: np.ndarray, count: int, *, k: int = 10, alpha: float = 0.9, steps: int = 30
) -> np.ndarray:
    """(U, K) probabilities of `unlabelled` (U, D): labels that flow along the graph of nearest states.

    Source: Zhou et al. 2004 (Learning with Local and Global Consistency), algorithm of section 2, on a symmetric graph of k neighbours weighted by the cosine;
    scaled afterwards to the labels' own shares (Zhu et al. 2003, class mass normalisation), since large classes flow further.
    Raises: OptionError for an alpha not between 0 and 1.
    """
    between("alpha", alpha, 0.0, 0.999)
    graph = neighbour_graph(np.concatenate([vectors, unlabelled]), k)
    start = np.zeros((graph.shape[0], count))
    start[np.arange(len(labels)), labels] = 1.0
    start /= np.maximum(start.sum(0), 1e-12)  # each class begins with the same mass
    flow = start
    for _ in range(steps):
        flow = alpha * (graph @ flow) + (1 - alpha) * start
    found = flow[len(labels) :]
    shares = (np.bincount(labels, minlength=count) + 1) / (len(labels) + count)
    found = found * shares / np.maximum(found.sum(0), 1e-30)
    sums = found.sum(1, keepdims=True)
    return np.where(sums > 0, found / np.maximum(sums, 1e-300), shares)


def neighbour_graph(vectors: np.ndarray, k: int) -> sparse.csr_matrix:
    """(N, N): each row's k nearest by cosine from the mean, either way, squared, divided by the roots of both rows' sums."""
    ready = unit(vectors - vectors.mean(0)).astype(np.float32)
    size, k = len(ready), min(k, len(ready) - 1)
    columns, values = np.empty((size, k), dtype=np.int64), np.empty((size, k))
    for start in range(0, size, _BLOCK):
        scores = ready[start : start + _BLOCK] @ ready.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -2.0
        near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        columns[start : start + _BLOCK] = near
        values[start : start + _BLOCK] = np.maximum(np.take_along_axis(scores, near, 1), 1e-6) ** 2
    one_way = sparse.csr_matrix((values.ravel(), columns.ravel(), np.arange(0, size * k + 1, k)), shape=(size, size))
    both = one_way.maximum(one_way.T)
    root = 1 / np.sqrt(np.maximum(np.asarray(both.sum(1)).ravel(), 1e-12))
    return (sparse.diags(root) @ both @ sparse.diags(root)).tocsr()


Way = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""Labelled vectors, their labels, unlabelled vectors, number of labels -> probabilities of the unlabelled rows."""


def by_probe(vectors: np.ndarray, labels: np.ndarray, unlabelled: np.ndarray, count: int) -> np.ndarray:
    """Without the unlabelled rows: a probe of the labelled ones. What the others have to beat."""
    return softmax(Discriminant.fit(vectors, labels, count).logits(unlabelled))


def adds(
    way: Way, vectors: np.ndarray, labels: np.ndarray, unlabelled: np.ndarray, count: int, *, folds: int = 5, seed: int = 0
) -> tuple[float, float, float]:
    """How much better than a probe alone a way of using unlabelled rows is, on labelled rows held out in turn: difference of accuracy, low, high (95%).

    The rows held out are among the unlabelled ones without their labels, as new texts would be; no label of theirs is used.
    """
    where, first, second = folds_of(labels, folds, seed), np.zeros(len(labels)), np.zeros(len(labels))
    for fold in range(folds):
        held = where == fold
        together = np.concatenate([vectors[held], unlabelled])
        size = int(held.sum())
        first[held] = by_probe(vectors[~held], labels[~held], vectors[held], count).argmax(1) == labels[held]
        second[held] = way(vectors[~held], labels[~held], together, count)[:size].argmax(1) == labels[held]
    difference = second - first
    reach = 1.96 * float(difference.std(ddof=1)) / len(labels) ** 0.5
    return float(difference.mean()), float(difference.mean()) - reach, float(difference.mean()) + reach


@dataclass(frozen=True)
class Combined:
    """probabilities: (N, K); accuracy: (R,) how often each rule is right where it speaks, as estimated; spoken: (R,) the share of rows it speaks on"""

    probabilities: np.ndarray
    accuracy: np.ndarray
    spoken: np.ndarray


def majority(votes: np.ndarray, count: int) -> np.ndarray:
    """(N, K) shares of the votes (N, R), each a label id or ABSTAIN; a row on which all abstain has equal shares."""
    votes = _checked(votes, count)
    found = np.stack([(votes == label).sum(1) for label in range(count)], axis=1).astype(np.float64)
    sums = found.sum(1, keepdims=True)
    return np.where(sums > 0, found / np.maximum(sums, 1), 1 / count)


def combine(votes: np.ndarray, count: int, *, rounds: int = 50) -> Combined:
    """Weak labels of rules or prompts (N, R), each a label id or ABSTAIN, into probabilities, without one true label.

    Each rule has a confusion matrix, found together with the labels by expectation maximisation from the majority vote.
    Source: Dawid and Skene 1979, equations 2.3 to 2.5; smoothed by one count, spread over all cells, most of it on the diagonal; a rule that abstains says nothing.
    Raises: OptionError for votes that are no labels.
    """
    votes = _checked(votes, count)
    found, spoken = majority(votes, count), votes != ABSTAIN
    onehot = [np.eye(count)[np.where(spoken[:, rule], votes[:, rule], 0)] * spoken[:, rule, None] for rule in range(votes.shape[1])]
    prior = 0.5 * np.eye(count) + 0.5 / count
    confusion = np.zeros((votes.shape[1], count, count))
    for _ in range(rounds):
        shares = (found.sum(0) + 1) / (len(found) + count)
        for rule, said in enumerate(onehot):
            counts = found.T @ said + prior
            confusion[rule] = counts / counts.sum(1, keepdims=True)
        logs = np.log(shares) + sum(said @ np.log(confusion[rule]).T for rule, said in enumerate(onehot))
        before, found = found, softmax(np.asarray(logs))
        if np.abs(found - before).max() < 1e-6:
            break
    accuracy = np.array([(shares * confusion[rule].diagonal()).sum() for rule in range(votes.shape[1])])
    return Combined(found, accuracy, spoken.mean(0))


def _checked(votes: np.ndarray, count: int) -> np.ndarray:
    votes = np.asarray(votes)
    if votes.ndim != 2 or not np.issubdtype(votes.dtype, np.integer) or votes.min(initial=0) < ABSTAIN or votes.max(initial=0) >= count:
        raise OptionError(f"votes {votes.shape}: use (N, R) label ids from 0 to {count - 1}, or {ABSTAIN} for no answer.")
    return votes

"""Unlabelled rows: pseudo-labels are as right as was wanted, spreading is the solution of its equation, weak labels are weighed, nothing leaks."""

import numpy as np
import pytest

from trunkline.errors import DataError, OptionError
from trunkline.labelling.fewer import ABSTAIN, adds, by_probe, combine, majority, neighbour_graph, self_train, spread

GENERATOR = np.random.default_rng(0)


def clouds(count: int, classes: int = 3, apart: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (apart * np.eye(classes, 10)[labels] + generator.normal(size=(count, 10))).astype(np.float32), labels


VECTORS, LABELS = clouds(430)
FEW, REST = slice(0, 30), slice(30, 430)


def test_pseudo_labels_are_as_right_as_was_wanted() -> None:
    found = self_train(VECTORS[FEW], LABELS[FEW], VECTORS[REST], 3, wanted=0.95)
    right = found.probabilities.argmax(1) == LABELS[REST]
    assert found.taken.sum() > 50
    assert right[found.taken].mean() > 0.93
    assert right.mean() >= (by_probe(VECTORS[FEW], LABELS[FEW], VECTORS[REST], 3).argmax(1) == LABELS[REST]).mean()


def test_nothing_is_taken_where_nothing_is_sure() -> None:
    noise, labels = GENERATOR.normal(size=(200, 10)), GENERATOR.integers(0, 3, 40)
    found = self_train(noise[:40], labels, noise[40:], 3)
    assert not found.taken.any()
    with pytest.raises(DataError, match="at least"):
        self_train(noise[:4], labels[:4], noise[40:], 3)


def test_spreading_solves_its_equation() -> None:
    graph = neighbour_graph(VECTORS, 8).toarray()
    assert np.allclose(graph, graph.T)
    assert np.abs(np.linalg.eigvalsh(graph)).max() <= 1 + 1e-9
    start = np.zeros((430, 3))
    start[np.arange(30), LABELS[FEW]] = 1
    start /= start.sum(0)
    flow = np.linalg.solve(np.eye(430) - 0.9 * graph, 0.1 * start)[30:]
    shares = (np.bincount(LABELS[FEW], minlength=3) + 1) / 33
    flow = flow * shares / flow.sum(0)
    found = spread(VECTORS[FEW], LABELS[FEW], VECTORS[REST], 3, k=8, steps=400)
    assert np.allclose(found, flow / flow.sum(1, keepdims=True), atol=1e-6)
    assert (found.argmax(1) == LABELS[REST]).mean() > 0.9


def test_whether_it_adds_is_measured_without_held_out_labels() -> None:
    labels = LABELS[FEW].copy()
    seen = []

    def spy(vectors, given, unlabelled, count):
        seen.append((len(given), len(unlabelled)))
        assert not (vectors[:, None] == unlabelled[None]).all(2).any()  # a row held out is never among those taught
        return by_probe(vectors, given, unlabelled, count)

    difference, low, high = adds(spy, VECTORS[FEW], labels, VECTORS[REST], 3)
    assert (difference, low, high) == (0.0, 0.0, 0.0)
    assert all(a + b == 430 for a, b in seen)
    worse, _, high = adds(lambda v, g, u, c: np.eye(c)[np.zeros(len(u), int)], VECTORS[FEW], labels, VECTORS[REST], 3)
    assert worse < -0.3
    assert high < 0


def votes(rows: int = 2000) -> tuple[np.ndarray, np.ndarray, list[float]]:
    truth, accuracies = GENERATOR.integers(0, 2, rows), [0.9, 0.65, 0.65, 0.6, 0.6]
    said = np.stack([np.where(GENERATOR.random(rows) < accuracy, truth, 1 - truth) for accuracy in accuracies], axis=1)
    said[GENERATOR.random(said.shape) < 0.2] = ABSTAIN
    return said, truth, accuracies


def test_weak_labels_are_weighed() -> None:
    said, truth, accuracies = votes()
    found = combine(said, 2)
    assert np.allclose(found.accuracy, accuracies, atol=0.06)
    assert np.allclose(found.spoken, 0.8, atol=0.04)
    assert (found.probabilities.argmax(1) == truth).mean() > (majority(said, 2).argmax(1) == truth).mean() + 0.03
    assert np.allclose(found.probabilities.sum(1), 1)


def test_votes() -> None:
    assert majority(np.array([[0, 1, 1], [-1, -1, -1]]), 2).tolist() == [[1 / 3, 2 / 3], [0.5, 0.5]]
    with pytest.raises(OptionError, match="0 to 1"):
        combine(np.array([[2]]), 2)

"""Vectors in a file: what goes in comes out, and a linear model is solved on them in the memory of a few blocks."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trunkline.errors import StatesError, TrunklineError
from trunkline.evaluation import linear
from trunkline.evaluation import vectors as module
from trunkline.evaluation.linear import fit_linear
from trunkline.evaluation.vectors import Vectors, blocks

RNG = np.random.default_rng(0)


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Every file of vectors is on the disk from its first byte."""
    monkeypatch.setattr(module, "_IN_MEMORY", 1)
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    return tmp_path


def filled(array):
    found = Vectors(array.shape[1])
    for block in blocks(array):
        found.append(block)
    return found


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_what_goes_in_comes_out(monkeypatch, limit):
    monkeypatch.setattr(module, "_IN_MEMORY", limit)
    array = RNG.normal(size=(9000, 3))
    found = filled(array)
    assert found.shape == (9000, 3)
    assert len(found) == 9000
    assert np.array_equal(np.concatenate(list(blocks(found))), array.astype(np.float32))
    assert np.array_equal(found[10:20], array[10:20].astype(np.float32))
    assert found[8999:9999].shape == (1, 3)
    assert found[20:10].shape == (0, 3)
    found.append(array[:2])
    assert np.array_equal(found[9000:], array[:2].astype(np.float32))


def test_no_file_is_left_and_a_cut_one_is_found(on_disk):
    found = filled(RNG.normal(size=(100, 3)))
    assert list(on_disk.iterdir()) == []
    found._file.truncate(50)
    with pytest.raises(StatesError, match="was cut"):
        found[0:100]


def test_a_full_disk_is_said(on_disk, monkeypatch):
    found = filled(RNG.normal(size=(10, 3)))
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(found, "_file", full)
        with pytest.raises(TrunklineError, match="disk is full"):
            found.append(np.ones((5, 3)))


@pytest.mark.parametrize(
    ("spec", "truth"),
    [
        (SimpleNamespace(task="classify", labels=tuple("ab"), multi_label=False), lambda x: (x[:, 0] > 0).astype(int)),
        (SimpleNamespace(task="classify", labels=tuple("abc"), multi_label=False), lambda x: x[:, :3].argmax(1)),
        (SimpleNamespace(task="classify", labels=tuple("abc"), multi_label=True), lambda x: (x[:, :3] > 0).astype(int)),
        (SimpleNamespace(task="regress"), lambda x: x[:, 0] - x[:, 1]),
    ],
)
def test_the_solution_is_that_of_the_same_vectors_in_memory(on_disk, spec, truth):
    array = RNG.normal(size=(9000, 8)).astype(np.float32)
    noisy = truth(array + RNG.normal(size=array.shape))
    validation = array[:5000] * 2
    one = fit_linear(array, noisy, spec, validation=(validation, noisy[:5000]), strengths=(0.01, 0.1))
    train, held = filled(array), filled(validation)
    linear._SOLVED.clear()
    other = fit_linear(train, noisy, spec, validation=(held, noisy[:5000]), strengths=(0.01, 0.1))
    assert other is not one
    assert np.array_equal(other.weight, one.weight)
    assert np.array_equal(other.scores(held), one.scores(validation))


def test_a_head_is_solved_in_the_memory_of_a_few_blocks(on_disk):
    """Not in that of all vectors, which are 512 bytes a row, nor of logits for each row and label."""
    rows, width, spec = 60_000, 128, SimpleNamespace(task="classify", labels=tuple(map(str, range(20))), multi_label=False)
    truth, found = RNG.integers(0, 20, rows), Vectors(width)
    for _ in range(0, rows, 1000):
        found.append(RNG.normal(size=(1000, width)))
    tracemalloc.start()
    fit_linear(found, truth, spec, validation=(found, truth), strengths=(0.001,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * rows  # of which 240 are scores in float32 and float64, and 16 label ids

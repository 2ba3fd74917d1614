"""Perplexity against torch's cross-entropy on random cases, whole and resampled."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from trunkline.evaluation.kinds.likelihood import errors
from trunkline.evaluation.metrics import METRICS, compute


@pytest.mark.parametrize("seed", range(200))
def test_perplexity_is_the_exponential_of_the_mean_cross_entropy(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (5,), generator=generator).tolist()
    logits = [torch.randn(length, 11, generator=generator, dtype=torch.float64) * 3 for length in lengths]
    targets = [torch.randint(11, (length,), generator=generator) for length in lengths]
    nats = [functional.cross_entropy(a, b, reduction="sum").item() for a, b in zip(logits, targets)]
    mean = functional.cross_entropy(torch.cat(logits), torch.cat(targets)).item()
    found = compute(["perplexity", "bits_per_token"], [None] * 5, list(zip(nats, lengths)))
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-9)
    assert found["bits_per_token"] == pytest.approx(mean / math.log(2), rel=1e-9)


def test_a_row_drawn_twice_counts_twice_and_none_is_no_surprise():
    scores = [[4.0, 2], [9.0, 3]]
    value = METRICS["perplexity"].weighted(None, scores)
    assert np.allclose(value(np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[:2].T), [math.exp(2), math.exp(3)])
    assert value(np.zeros((2, 1)))[0] == 1
    assert not METRICS["perplexity"].higher_is_better


def test_the_most_surprising_rows_come_first():
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": ["y", "z"]}, {"text": "c"}]
    found = errors(rows, None, [[2.0, 2], [6.0, 2], [2.0, 1]], 2)
    assert [(one["text"], one["label"]) for one in found] == [("b", "y"), ("c", None)]
    assert found[0]["error"] == pytest.approx(3.0)

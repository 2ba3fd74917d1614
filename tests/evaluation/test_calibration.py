"""A temperature that is found again, and bins that add up."""

import tracemalloc

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.evaluation.calibration import fit_temperature, negative_log_likelihood, probabilities, reliability
from trunkline.evaluation.metrics import METRICS


def drawn(generator, logits, multi=False):
    """Truth drawn from what the logits claim, so that they are calibrated by construction."""
    claims = probabilities(logits, multi=multi)
    if multi:
        return (generator.random(claims.shape) < claims).astype(int)
    return (claims.cumsum(axis=1) < generator.random((len(claims), 1))).sum(axis=1)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_true_temperature_is_found_again(multi, true):
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (8000, 5))
    truth = drawn(generator, logits, multi)
    found = fit_temperature(logits * true, truth)
    assert found == pytest.approx(true, rel=0.05)
    grid = [negative_log_likelihood(logits * true, truth, t) for t in np.geomspace(0.05, 20, 200)]
    assert negative_log_likelihood(logits * true, truth, found) <= min(grid) + 1e-9
    before, after = (METRICS["ece"].function(truth, probabilities(logits * true, temperature=t, multi=multi)) for t in (1.0, found))
    assert after <= before + 0.005


def test_a_temperature_is_found_without_copies_of_the_logits():
    logits = np.random.default_rng(2).normal(size=(60_000, 20))
    tracemalloc.start()
    fit_temperature(logits, logits.argmax(axis=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes


def test_a_temperature_changes_no_answer():
    logits = np.random.default_rng(1).normal(0, 3, (500, 7))
    for temperature in (0.05, 0.7, 20.0):
        assert (probabilities(logits, temperature=temperature).argmax(axis=1) == logits.argmax(axis=1)).all()
        assert ((probabilities(logits, temperature=temperature, multi=True) >= 0.5) == (logits >= 0)).all()


def test_a_few_easy_rows_do_not_make_it_surer():
    truth = np.array([0, 1, 0, 1])
    assert fit_temperature(np.eye(2)[truth] * 2.0, truth) == pytest.approx(1.0)
    assert fit_temperature((np.eye(2)[truth] - 0.5) * 2.0, np.eye(2)[truth].astype(int)) == pytest.approx(1.0)


def test_far_logits_overflow_nothing():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]])
    assert fit_temperature(logits, np.array([0, 1, 1])) == pytest.approx(20.0, rel=1e-3)
    assert np.isfinite(probabilities(logits, temperature=0.05)).all()


@pytest.mark.parametrize("multi", [False, True])
def test_the_bins_add_up_to_the_calibration_error(multi):
    generator = np.random.default_rng(2)
    scores = probabilities(generator.normal(0, 2, (400, 4)), multi=multi)
    truth = drawn(generator, generator.normal(0, 2, (400, 4)), multi)
    bins = reliability(truth, scores)
    total = sum(b["count"] for b in bins)
    assert total == (1600 if multi else 400)
    gap = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins if b["count"]) / total
    assert gap == pytest.approx(METRICS["ece"].function(truth, scores))
    assert all(b["low"] < b["confidence"] <= b["high"] for b in bins if b["count"])


def test_bad_arguments_are_refused():
    with pytest.raises(OptionError, match="above 0"):
        probabilities([[0.0, 1.0]], temperature=0.0)
    with pytest.raises(OptionError, match="label scores"):
        fit_temperature([0.1, 0.2], [0.1, 0.2])
    with pytest.raises(OptionError, match="at least one bin"):
        reliability([0, 1], [[0.5, 0.5], [0.5, 0.5]], bins=0)

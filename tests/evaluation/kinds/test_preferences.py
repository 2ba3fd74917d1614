"""Metrics of preferences against numbers worked out by hand."""

import math

import numpy as np
import pytest

from trunkline.evaluation.baselines.preferences import lengths, untuned
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.kinds.preferences import errors
from trunkline.evaluation.metrics import compute


def test_a_margin_of_nothing_is_half_right():
    found = compute(["pair_accuracy", "pair_loss"], [0, 0, 0, 0], [1.0, -1.0, 0.0, 2.0])
    assert found["pair_accuracy"] == 2.5 / 4
    assert found["pair_loss"] == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in (1.0, -1.0, 0.0, 2.0)) / 4)


def test_the_calibration_error_is_the_gap_between_claimed_and_right():
    sure = math.log(0.9 / 0.1)
    assert compute(["pair_ece"], [0] * 10, [sure] * 9 + [-sure])["pair_ece"] == pytest.approx(0.0, abs=1e-9)
    assert compute(["pair_ece"], [0] * 10, [sure] * 5 + [-sure] * 5)["pair_ece"] == pytest.approx(0.4)


def test_the_interval_holds_the_value():
    found = bootstrap(["pair_accuracy"], [0] * 200, [1.0] * 140 + [-1.0] * 60)["pair_accuracy"]
    assert found.value == 0.7
    assert 0.62 < found.low < 0.66 < 0.74 < found.high < 0.78


def test_errors_show_the_rejected_answers_that_were_preferred_most():
    rows = [{"text": str(at), "text_b": "good", "rejected": "bad"} for at in range(3)]
    assert [row["text"] for row in errors(rows, None, [1.0, -1.0, -3.0], 5)] == ["2", "1"]


def test_the_baselines_learn_what_tells_and_swapping_turns_them_round():
    rows = [{"text_b": "x" * (20 + at), "rejected": "x" * 10} for at in range(40)]
    swapped = [{"text_b": row["rejected"], "rejected": row["text_b"]} for row in rows]
    found = lengths(rows, [*rows, *swapped]).test
    assert (found[:40] > 0).all()
    assert np.allclose(found[:40], -found[40:])
    states = np.random.default_rng(0).normal(size=(200, 8)) + np.eye(8)[0]
    assert (untuned(states[:100], states[100:150], states[150:]).test > 0).mean() > 0.7

"""Intervals that hold what they say, verdicts that do not claim too much."""

import time

import numpy as np
import pytest
from scipy import stats

from trunkline.errors import OptionError
from trunkline.evaluation.interval import bootstrap, bootstrap_mean, paired, seeds
from trunkline.evaluation.metrics import METRICS


def flips(generator, rows, share):
    """Two labels; the answer is right for about `share` of the rows."""
    truth = generator.integers(0, 2, rows)
    right = generator.random(rows) < share
    sure = generator.uniform(0.5, 1, rows)
    scores = np.where(right[:, None], np.eye(2)[truth], np.eye(2)[1 - truth]) * (2 * sure - 1)[:, None]
    return truth, scores + (1 - scores.sum(axis=1, keepdims=True)) / 2


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    truth, scores = flips(np.random.default_rng(0), 200, 0.8)
    assert bootstrap(["mcc"], truth, scores) == bootstrap(["mcc"], truth, scores)
    assert bootstrap(["mcc"], truth, scores) != bootstrap(["mcc"], truth, scores, seed=1)


def test_the_interval_of_a_mean_is_that_of_a_metric_that_is_a_mean_and_near_the_normal_one():
    values = np.random.default_rng(4).exponential(size=400)
    found = bootstrap_mean(values, seed=3)
    assert vars(found) == pytest.approx(vars(bootstrap(["mae"], np.zeros(400), values, seed=3)["mae"]), rel=1e-12)  # sums of another order
    reach = stats.norm.ppf(0.975) * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * reach, rel=0.1)
    for odd in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(OptionError, match="one finite number a row"):
            bootstrap_mean(odd)


def test_every_interval_holds_its_value_and_stays_in_bounds():
    generator = np.random.default_rng(1)
    cases = {
        "single": flips(generator, 150, 0.95),
        "multi": ((generator.random((150, 4)) < 0.3).astype(int), generator.random((150, 4))),
        "number": (generator.normal(size=150), generator.normal(size=150)),
    }
    for kind, (truth, scores) in cases.items():
        names = [name for name, metric in METRICS.items() if kind in metric.kinds]
        for name, interval in bootstrap(names, truth, scores, resamples=300).items():
            low, high = METRICS[name].bounds
            assert low <= interval.low <= interval.value <= interval.high <= high, name
            assert interval.high > interval.low, name


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_95_percent_interval_holds_the_true_value_about_95_times_in_100(metric):
    generator, held = np.random.default_rng(2), 0
    for trial in range(400):
        interval = bootstrap([metric], *flips(generator, 200, 0.9), resamples=200, seed=trial)[metric]
        held += interval.low <= 0.9 <= interval.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_interval_of_a_correlation_is_close_to_fishers():
    generator = np.random.default_rng(3)
    truth = generator.normal(size=800)
    scores = truth + generator.normal(size=800)
    got = bootstrap(["pearson"], truth, scores, resamples=2000)["pearson"]
    wanted = stats.pearsonr(truth, scores).confidence_interval()
    assert (got.low, got.high) == pytest.approx((wanted.low, wanted.high), abs=0.01)


def test_no_error_in_forty_rows_is_not_a_promise_of_a_hundred_percent():
    got = bootstrap(["accuracy"], np.zeros(40, dtype=int), np.tile([0.9, 0.1], (40, 1)))["accuracy"]
    assert got.value == got.high == 1
    assert got.low == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)  # Wilson's lower end


def test_many_labels_take_under_three_seconds():
    generator = np.random.default_rng(4)
    truth = generator.integers(0, 77, 3080)
    scores = generator.dirichlet(np.ones(77), 3080) + 0.05 * np.eye(77)[truth]
    start = time.process_time()
    bootstrap([name for name, metric in METRICS.items() if "single" in metric.kinds], truth, scores)
    assert time.process_time() - start < 3


def test_paired_sees_a_difference_that_separate_intervals_hide():
    generator = np.random.default_rng(5)
    truth, before = flips(generator, 1000, 0.85)
    after = before.copy()
    wrong = np.flatnonzero(before.argmax(axis=1) != truth)[:25]
    after[wrong] = np.eye(2)[truth[wrong]]
    apart = bootstrap(["accuracy"], truth, before)["accuracy"], bootstrap(["accuracy"], truth, after)["accuracy"]
    assert apart[0].high > apart[1].low
    for metric in ("accuracy", "macro_f1", "mcc"):
        got = paired(metric, truth, before, after)
        assert (got.verdict, got.low > 0) == ("better", True)
        assert paired(metric, truth, after, before).verdict == "worse"
    assert paired("accuracy", truth, before, after).p_value == pytest.approx(2 * 0.5**25)


def test_the_same_scores_show_no_difference():
    truth, scores = flips(np.random.default_rng(6), 50, 0.8)
    for metric in ("accuracy", "macro_f1", "ece"):
        got = paired(metric, truth, scores, scores)
        assert (got.difference, got.low, got.high, got.p_value, got.verdict) == (0, 0, 0, 1, "no difference shown")


def test_lower_is_better_turns_the_verdict():
    generator = np.random.default_rng(7)
    truth = generator.normal(size=300)
    near, far = truth + generator.normal(0, 0.1, 300), truth + generator.normal(0, 1, 300)
    assert paired("mae", truth, far, near).verdict == "better"
    assert paired("mae", truth, near, far).verdict == "worse"
    assert paired("pearson", truth, far, near).verdict == "better"


def test_mcnemar_and_the_verdict_never_disagree():
    generator, verdicts = np.random.default_rng(8), set()
    for trial in range(150):
        truth, before = flips(generator, int(generator.integers(20, 120)), 0.8)
        after = before.copy()
        moved = generator.random(len(truth)) < 0.15
        right = generator.random(len(truth)) < generator.choice([0.5, 0.8, 1.0])
        after[moved] = np.where(right[moved, None], np.eye(2)[truth[moved]], np.eye(2)[1 - truth[moved]])
        got = paired("accuracy", truth, before, after, resamples=200, seed=trial)
        gained = int(((after.argmax(1) == truth) & (before.argmax(1) != truth)).sum())
        lost = int(((after.argmax(1) != truth) & (before.argmax(1) == truth)).sum())
        wanted = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert got.p_value == pytest.approx(wanted)
        assert got.verdict == "no difference shown" or got.p_value < 0.05
        verdicts.add(got.verdict)
    assert {"better", "no difference shown"} <= verdicts


@pytest.mark.parametrize("metric", ["accuracy", pytest.param("macro_f1", marks=pytest.mark.wide)])
def test_where_nothing_differs_a_difference_is_seldom_claimed(metric):
    generator, claimed, truth = np.random.default_rng(11), 0, np.tile([0, 1], 150)
    for trial in range(400):
        answers = [np.where(generator.random(300) < 0.85, truth, 1 - truth) for _ in range(2)]
        before, after = (np.eye(2)[a] * 0.8 + 0.1 for a in answers)
        claimed += paired(metric, truth, before, after, resamples=200, seed=trial).verdict != "no difference shown"
    assert claimed / 400 <= 0.08  # 5 in 100 are expected


def test_seeds():
    got = seeds([0.93, 0.94, 0.92])
    wanted = stats.t.interval(0.95, 2, loc=0.93, scale=0.01 / 3**0.5)
    assert (got.mean, got.std, got.min, got.max) == pytest.approx((0.93, 0.01, 0.92, 0.94))
    assert (got.low, got.high) == pytest.approx(wanted)
    one = seeds([0.5])
    assert (one.count, one.mean, one.std, one.low) == (1, 0.5, None, None)


def test_bad_arguments_are_refused():
    truth, scores = flips(np.random.default_rng(0), 20, 0.8)
    with pytest.raises(OptionError, match="resamples=5"):
        bootstrap(["accuracy"], truth, scores, resamples=5)
    with pytest.raises(OptionError, match="level=95"):
        bootstrap(["accuracy"], truth, scores, level=95)
    with pytest.raises(OptionError, match="differ"):
        paired("accuracy", truth, scores, np.concatenate([scores, scores], axis=1))
    with pytest.raises(OptionError, match="one finite number"):
        seeds([])

"""Every metric against scikit-learn or scipy on random arrays, and the corners where those give NaN."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from sklearn import config_context
from sklearn import metrics as oracle

from trunkline.errors import OptionError
from trunkline.evaluation.metrics import METRICS, compute, confusion, per_class, suited

CASES = 200


def single(generator):
    """A random single-label case: few rows, so that labels are often absent; sometimes one answer for all; sometimes ties."""
    rows, labels = int(generator.integers(2, 60)), int(generator.integers(2, 9))
    truth = generator.integers(0, labels, rows)
    scores = generator.random((rows, labels)) + (generator.random() * np.eye(labels)[truth])
    if generator.random() < 0.2:
        scores = np.round(scores * 4)  # many equal scores
    if generator.random() < 0.1:
        scores[:, int(generator.integers(labels))] = 9
    scores += 1e-12
    return truth, scores / scores.sum(axis=1, keepdims=True)


def multi(generator):
    rows, labels = int(generator.integers(2, 60)), int(generator.integers(1, 9))
    truth = (generator.random((rows, labels)) < generator.random(labels) * 0.6).astype(int)
    scores = np.clip(generator.random((rows, labels)) * 0.7 + 0.3 * truth, 0, 1)
    return truth, np.round(scores, 1) if generator.random() < 0.3 else scores


def mean_auc(there, scores):
    areas = [oracle.roc_auc_score(t, s) for t, s in zip(there.T, scores.T) if 0 < t.sum() < len(t)]
    return np.mean(areas) if areas else 0.5


def plain_ece(confidence, right):
    edges, gap = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high) | ((low == 0) & (confidence == 0))
        gap += abs(right[inside].sum() - confidence[inside].sum())
    return gap / len(confidence)


def averages(truth, said, kinds):
    found = {}
    for kind in kinds:
        values = oracle.precision_recall_fscore_support(truth, said, average=kind, zero_division=0)
        found |= {f"{kind}_{name}": value for name, value in zip(("precision", "recall", "f1"), values)}
    return {name: value for name, value in found.items() if name in METRICS}


def expected_single(truth, scores):
    said = scores.argmax(axis=1)
    expected = {"accuracy": oracle.accuracy_score(truth, said), "mcc": oracle.matthews_corrcoef(truth, said)}
    expected |= averages(truth, said, ("macro", "micro", "weighted"))
    hot = np.eye(scores.shape[1])[truth]
    expected["roc_auc"] = mean_auc(hot[:, 1:], scores[:, 1:]) if scores.shape[1] == 2 else mean_auc(hot, scores)
    expected["ece"] = plain_ece(scores.max(axis=1), said == truth)
    return expected


def expected_multi(truth, scores):
    said = (scores >= 0.5).astype(int)
    expected = {"exact_match": (said == truth).all(axis=1).mean(), "roc_auc": mean_auc(truth, scores)}
    expected["accuracy"] = oracle.accuracy_score(truth, said)
    if truth.shape[1] > 1:  # scikit-learn takes one column for a binary problem
        expected |= averages(truth, said, ("macro", "micro", "weighted", "samples"))
    expected["ece"] = plain_ece(scores.ravel(), truth.ravel())
    return expected


@pytest.mark.parametrize(("make", "expect", "kind"), [(single, expected_single, "single"), (multi, expected_multi, "multi")])
@pytest.mark.wide
def test_label_metrics_equal_scikit_learn(make, expect, kind):
    generator, seen = np.random.default_rng(0), set()
    for _ in range(CASES):
        truth, scores = make(generator)
        with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
            warnings.simplefilter("ignore")  # scikit-learn warns of the corners we define
            expected = expect(truth, scores)
        got = compute(list(expected), truth, scores)
        assert got == pytest.approx(expected, abs=1e-9)
        seen |= set(expected)
    assert seen == {name for name, metric in METRICS.items() if kind in metric.kinds}


def test_number_metrics_equal_scipy():
    generator = np.random.default_rng(1)
    names = [name for name, metric in METRICS.items() if "number" in metric.kinds]
    for case in range(CASES):
        rows = int(generator.integers(2, 80))
        truth = generator.normal(3, 2, rows) * 10.0 ** generator.integers(-3, 4)
        scores = truth * generator.normal() + generator.normal(0, np.abs(truth).mean(), rows)
        if case % 4 == 0 and rows > 5:
            truth, scores = np.round(truth), np.round(scores)
        if np.ptp(truth) == 0 or np.ptp(scores) == 0:
            continue
        mse = oracle.mean_squared_error(truth, scores)
        expected = {"mse": mse, "rmse": mse**0.5, "mae": oracle.mean_absolute_error(truth, scores), "r2": oracle.r2_score(truth, scores)}
        expected |= {"pearson": stats.pearsonr(truth, scores)[0], "spearman": stats.spearmanr(truth, scores)[0]}
        assert compute(names, truth, scores) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_multiclass_auc_equals_scikit_learn_where_all_labels_are_there():
    generator = np.random.default_rng(2)
    for _ in range(30):
        truth = np.concatenate([np.arange(5), generator.integers(0, 5, 40)])
        scores = generator.dirichlet(np.ones(5), len(truth))
        wanted = oracle.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
        assert METRICS["roc_auc"].function(truth, scores) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("constant", [0.1, 0.0, 1e9, -3.7])
def test_a_constant_prediction_gives_zero_and_no_nan(constant):
    truth = np.random.default_rng(0).normal(size=30)
    got = compute(["pearson", "spearman", "r2", "mse"], truth, np.full(30, constant))
    assert (got["pearson"], got["spearman"]) == (0, 0)
    assert got["r2"] <= 0
    back = compute(["pearson", "spearman", "r2"], np.full(30, constant), truth)
    assert back == {"pearson": 0, "spearman": 0, "r2": 0}
    assert compute(["r2", "mse"], np.full(5, constant), np.full(5, constant)) == {"r2": 1, "mse": 0}


def test_one_label_only_gives_the_values_that_claim_nothing():
    scores = np.full((6, 3), 1 / 3)
    got = compute(["accuracy", "mcc", "roc_auc", "macro_f1"], np.zeros(6, dtype=int), scores)
    assert got == {"accuracy": 1, "mcc": 0, "roc_auc": 0.5, "macro_f1": 1}
    nothing = compute(["macro_f1", "micro_f1", "samples_f1", "weighted_f1", "roc_auc"], np.zeros((4, 2)), np.zeros((4, 2)))
    assert nothing == {"macro_f1": 0, "micro_f1": 0, "samples_f1": 0, "weighted_f1": 0, "roc_auc": 0.5}


def test_weights_are_the_same_as_repeated_rows():
    generator = np.random.default_rng(3)
    cases = {
        "single": single(generator),
        "multi": multi(generator),
        "number": (generator.normal(size=40), generator.normal(size=40).round(1)),
    }
    for metric in METRICS.values():
        for kind in cases.keys() & set(metric.kinds):  # those of kinds/ have a test of their own
            truth, scores = cases[kind]
            weights = generator.integers(0, 4, (len(truth), 5)).astype(float)
            got = metric.weighted(truth, scores)(weights)
            for column, value in zip(weights.T.astype(int), got):
                repeated = np.repeat(truth, column, axis=0), np.repeat(scores, column, axis=0)
                assert value == pytest.approx(metric.function(*repeated), abs=1e-9), metric.name


def test_per_class_and_confusion_equal_scikit_learn():
    generator = np.random.default_rng(4)
    for make in (single, multi):
        for _ in range(40):
            truth, scores = make(generator)
            labels, kind = [f"label {k}" for k in range(scores.shape[1])], truth.ndim
            said = scores.argmax(axis=1) if kind == 1 else (scores >= 0.5).astype(int)
            if kind == 2 and len(labels) == 1:
                continue
            wanted = oracle.precision_recall_fscore_support(truth, said, labels=range(len(labels)), zero_division=0)
            got = per_class(truth, scores, labels)
            for at, name in enumerate(("precision", "recall", "f1", "support")):
                assert [row[name] for row in got] == pytest.approx(list(wanted[at]))
            if kind == 1:
                assert (confusion(truth, scores) == oracle.confusion_matrix(truth, said, labels=range(len(labels)))).all()


def test_what_does_not_fit_is_refused_with_a_way_out():
    good = [0, 1], [[0.4, 0.6], [0.1, 0.9]]
    with pytest.raises(OptionError, match="Did you mean 'accuracy'"):
        compute(["acuracy"], *good)
    with pytest.raises(OptionError, match="has no meaning for one label a row"):
        compute(["pearson"], *good)
    with pytest.raises(OptionError, match="do not fit"):
        compute(["accuracy"], [0, 1, 1], good[1])
    with pytest.raises(OptionError, match="at least one row"):
        compute(["accuracy"], np.zeros(0, dtype=int), np.zeros((0, 2)))
    with pytest.raises(OptionError, match="NaN"):
        compute(["accuracy"], [0, 1], [[0.4, np.nan], [0.1, 0.9]])
    with pytest.raises(OptionError, match="whole numbers 0 to 1"):
        compute(["accuracy"], [0, 2], good[1])
    with pytest.raises(OptionError, match="one label a row"):
        confusion([0.1, 0.2], [0.1, 0.2])
    with pytest.raises(OptionError, match="one label for each column"):
        per_class(*good, ["only one"])


def test_suited_keeps_the_order():
    assert suited(["ece", "mse", "mcc", "nonsense"], "single") == ["ece", "mcc"]

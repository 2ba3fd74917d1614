"""Metrics: one number for how right some scores are. Read by the report, by early stopping and by the bootstrap.

Three kinds of answer are told apart by the arrays themselves (N rows, K labels); all others (KINDS, one file each in kinds/) by the
metrics that are asked for:
    single  truth (N,) int label ids   scores (N, K) probabilities; the answer is the largest (the first of equals)
    multi   truth (N, K) 0 or 1        scores (N, K) probabilities; the answer is every label at 0.5 or more
    number  truth (N,) float           scores (N,) float

Every metric is written once, for *weighted* rows (metric.py), so the number and its interval come from the same lines.

No metric gives NaN. Where a formula divides by nothing, the value is the one that claims nothing:
    precision, recall, F1 of a label that is never there or never predicted: 0 (scikit-learn's zero_division=0)
    macro averages, single: over the labels that occur in truth or answers; multi: over all K (both as scikit-learn)
    MCC with one label only: 0      ROC AUC where truth has one label only: 0.5      Pearson, Spearman of a constant: 0
    R2 of a constant truth: 1 if every prediction is exact, else 0 (as scikit-learn)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse

from trunkline.errors import OptionError, unknown
from trunkline.evaluation.kinds import entities, likelihood, preferences, programs, ranks, spans, texts
from trunkline.evaluation.metric import Metric, Weighted, mean_of, ratio

KINDS: dict[str, ModuleType] = {
    "entities": entities,
    "likelihood": likelihood,
    "preferences": preferences,
    "programs": programs,
    "ranks": ranks,
    "spans": spans,
    "texts": texts,
}
"""The kinds of answer that are no arrays of label ids or numbers, by the file of each."""
THRESHOLD = 0.5
BINS = 15


def compute(names: Iterable[str], truth: Any, scores: Any) -> dict[str, float]:
    """The value of each named metric.

    Raises: OptionError for an unknown name, a metric that does not fit these arrays, or arrays that do not fit each other.

    >>> compute(["accuracy", "macro_f1"], [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    {'accuracy': 0.6666666666666666, 'macro_f1': 0.6666666666666666}
    """
    names = list(names)
    truth, scores, kind = check(truth, scores, kind_of(names))
    return {metric.name: metric.function(truth, scores) for metric in fitting(names, kind)}


def kind_of(names: Iterable[str]) -> str | None:
    """The kind that these metrics are of; None where the arrays are to tell."""
    return next((kind for name in names if name in METRICS for kind in METRICS[name].kinds if kind in KINDS), None)


def fitting(names: Iterable[str], kind: str) -> list[Metric]:
    """The named metrics. Raises: OptionError for an unknown one, or one that has no meaning for this kind of answer."""
    found = []
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if kind not in METRICS[name].kinds:
            allowed = ", ".join(metric.name for metric in METRICS.values() if kind in metric.kinds)
            raise OptionError(f"metric={name!r}: has no meaning for {_NAMES.get(kind, kind)}. Allowed: {allowed}.")
        found.append(METRICS[name])
    return found


def check(truth: Any, scores: Any, kind: str | None = None) -> tuple[Any, Any, str]:
    """Both as arrays, and their kind: "single", "multi" or "number"; or as they are where they are of one of KINDS.

    Raises: OptionError where they do not fit each other.
    """
    if kind is not None and kind in KINDS:
        if len(truth) != len(scores) or not len(scores):
            raise OptionError(f"{len(truth)} truths and {len(scores)} answers ({kind}): use one of each for every row, at least one row.")
        return truth, scores, kind
    truth, scores = np.asarray(truth), np.asarray(scores)
    if scores.ndim == 1 or scores.dtype != np.float32:  # probabilities in float32 stay as they are: of many rows a copy is large
        scores = scores.astype(np.float64, copy=False)
    found = {(1, 2): "single", (2, 2): "multi", (1, 1): "number"}.get((truth.ndim, scores.ndim))
    shapes = f"truth {truth.shape} and scores {scores.shape}"
    if found is None or len(truth) != len(scores) or (found == "multi" and truth.shape != scores.shape):
        raise OptionError(f"{shapes} do not fit. Use (N,) with (N, K), (N, K) with (N, K), or (N,) with (N,).")
    if not scores.size:
        raise OptionError(f"{shapes}: there is no row to measure. Give at least one row.")
    if not np.isfinite(scores).all() or not np.isfinite(truth.astype(np.float64)).all():
        raise OptionError(f"{shapes}: some values are NaN or infinite, so no metric is defined. Look at the run that made them.")
    kind = found
    if kind == "number":
        return truth.astype(np.float64), scores, kind
    highest = scores.shape[1] - 1 if kind == "single" else 1
    whole = truth.astype(np.int64)
    if (whole != truth).any() or whole.min() < 0 or whole.max() > highest:
        raise OptionError(f"truth holds {truth.min()} to {truth.max()}; with scores {scores.shape} use whole numbers 0 to {highest}.")
    return whole, scores, kind


def answers(scores: np.ndarray, kind: str) -> np.ndarray:
    """What the scores say: label ids (N,) for single, 0 and 1 (N, K) for multi, the numbers themselves for number."""
    if kind == "single":
        return scores.argmax(axis=1)
    return (scores >= THRESHOLD).astype(np.int64) if kind == "multi" else scores


def suited(names: Iterable[str], kind: str) -> list[str]:
    """Those of the names that have a meaning for this kind of answer, in their order.

    >>> suited(["accuracy", "mcc", "pearson"], "multi")
    ['accuracy']
    """
    return [name for name in names if name in METRICS and kind in METRICS[name].kinds]


def right(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) bool: which rows are answered wholly right (multi: every label of the row, which is scikit-learn's accuracy too)."""
    if truth.ndim == 1:
        return np.asarray(scores.argmax(axis=1) == truth)
    return np.asarray((truth == (scores >= THRESHOLD)).all(axis=1))


def per_class(truth: Any, scores: Any, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One dict a label: label, precision, recall, f1, support (rows that have it), predicted (rows it was given to).

    >>> per_class([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], ["no", "yes"])[1]
    {'label': 'yes', 'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2, 'predicted': 1}
    """
    truth, scores, kind = check(truth, scores)
    if kind == "number" or len(labels) != scores.shape[1]:
        raise OptionError(f"{len(labels)} labels and scores {scores.shape} do not fit: use one label for each column of scores.")
    hits, there, said = (part[:, 0] for part in _margins(truth, scores)(np.ones((len(truth), 1))))
    columns = zip(labels, ratio(hits, said), ratio(hits, there), ratio(2 * hits, there + said), there, said)
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(t), "predicted": int(s)}
        for label, p, r, f, t, s in columns
    ]


def confusion(truth: Any, scores: Any) -> np.ndarray:
    """(K, K) int64: how often a row with label i (down) was given label j (across). Raises: OptionError unless single."""
    truth, scores, kind = check(truth, scores)
    if kind != "single":
        raise OptionError(f"a confusion matrix needs one label a row, and this is {_NAMES[kind]}.")
    labels = scores.shape[1]
    return np.bincount(truth * labels + scores.argmax(axis=1), minlength=labels * labels).reshape(labels, labels)


_NAMES = {"single": "one label a row", "multi": "any number of labels a row", "number": "one number a row"}


# Counts: how often each label was hit, was there, was said. All of accuracy, precision, recall, F1 and MCC follow from these.
def _margins(truth: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """weights (N, R) -> (3, K, R): weighted hits, truths and answers of each label."""
    labels = scores.shape[1]
    if truth.ndim == 1:
        there, said = _one_hot(truth, labels), _one_hot(scores.argmax(axis=1), labels)
    else:
        there, said = sparse.csr_array(truth.T.astype(np.float64)), sparse.csr_array((scores.T >= THRESHOLD).astype(np.float64))
    stacked = sparse.vstack([there.multiply(said), there, said]).tocsr()
    return lambda weights: (stacked @ weights).reshape(3, labels, -1)


def _one_hot(ids: np.ndarray, count: int) -> sparse.csr_array:
    """(count, N) with 1 where row n has this id."""
    order, starts = np.argsort(ids, kind="stable"), np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.bincount(ids, minlength=count), out=starts[1:])
    return sparse.csr_array((_ones(len(ids)), order.astype(np.int32), starts), shape=(count, len(ids)))


@functools.lru_cache(maxsize=1)
def _ones(count: int) -> np.ndarray:
    """So many ones; every matrix of as many rows has the same, for ROC AUC has one a label."""
    return np.ones(count)


def _counted(formula: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., Weighted]:
    """A metric from a formula over (hits, there, said), each (K, R), and which labels a macro average runs over, (K, R) bool."""

    def prepare(truth: np.ndarray, scores: np.ndarray) -> Weighted:
        margins = _margins(truth, scores)

        def value(weights: np.ndarray) -> np.ndarray:
            hits, there, said = margins(weights)
            return formula(hits, there, said, (there + said > 0) | (truth.ndim == 2))

        return value

    return prepare


def _over(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    return (values * counted).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)


def _mcc(hits: np.ndarray, there: np.ndarray, said: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Source: Gorodkin 2004, the K-category correlation coefficient."""
    total = there.sum(axis=0)
    above = hits.sum(axis=0) * total - (there * said).sum(axis=0)
    below = np.sqrt((total**2 - (there**2).sum(axis=0)) * (total**2 - (said**2).sum(axis=0)))
    return ratio(above, below)


def _row_f1(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    said = scores >= THRESHOLD
    return ratio(2.0 * (truth * said).sum(axis=1), 1.0 * truth.sum(axis=1) + said.sum(axis=1))


def _ece(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Expected calibration error, 15 bins of equal width, open on the left. Multi: over every (row, label) probability.

    Source: Guo et al. 2017, equation 3.
    """
    confidence, right = outcomes(truth, scores)
    bins, per_row = bin_of(confidence, BINS), confidence.size // len(truth)
    owner = np.repeat(np.arange(len(truth)), per_row)
    gaps = sparse.csr_array((right - confidence, (bins, owner)), shape=(BINS, len(truth)))
    return lambda weights: np.abs(gaps @ weights).sum(axis=0) / (weights.sum(axis=0) * per_row)


def outcomes(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Claims and what came of them, both flat float64. Single: the answer's probability and whether it was right (N,).
    Multi: the probability of every label of every row and whether the label was there (N * K,)."""
    if truth.ndim == 1:
        return scores.max(axis=1), (scores.argmax(axis=1) == truth).astype(np.float64)
    return scores.ravel(), truth.ravel().astype(np.float64)


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` equal parts of 0 to 1 each value falls in; the right edge belongs to the bin, 0 to the first."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)


def _roc_auc(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Area under the ROC curve: two labels, of the second; more, the mean over labels of one against the rest (OvR, macro).

    A label that no row or every row has cannot be ranked and is left out of the mean; 0.5 if none is left.
    Source: the Mann-Whitney form, (sum of positive mid-ranks - P^2 / 2) / (P Q), as in Hanley and McNeil 1982.
    Only the weight between one positive score and the next is summed, so R resamples cost one sparse product of N K R steps.
    """
    columns = range(1, 2) if truth.ndim == 1 and scores.shape[1] == 2 else range(scores.shape[1])
    areas = [_area(truth == label if truth.ndim == 1 else truth[:, label] == 1, scores[:, label]) for label in columns]

    def value(weights: np.ndarray) -> np.ndarray:
        each = np.stack([area(weights) for area in areas])  # (labels, R), NaN where a label cannot be ranked
        ranked = ~np.isnan(each)
        count = ranked.sum(axis=0)
        return np.where(count > 0, np.where(ranked, each, 0.0).sum(axis=0) / np.maximum(count, 1), 0.5)

    return value


def _area(positive: np.ndarray, scores: np.ndarray) -> Weighted:
    steps = np.unique(scores[positive])  # S distinct positive scores; rows fall below, on, between, above them: 2 S + 1 places
    place = np.searchsorted(steps, scores, side="left") + np.searchsorted(steps, scores, side="right")
    everyone = _one_hot(place, 2 * len(steps) + 1)
    rows = np.flatnonzero(positive)
    positives = sparse.csr_array((np.ones(len(rows)), (place[rows] // 2, rows)), shape=(len(steps), len(scores)))

    def value(weights: np.ndarray) -> np.ndarray:
        at = everyone @ weights
        middle = np.cumsum(at, axis=0)[1::2] - at[1::2] / 2
        drawn = positives @ weights
        many, all_rows = drawn.sum(axis=0), weights.sum(axis=0)
        pairs = many * (all_rows - many)
        return np.divide((drawn * middle).sum(axis=0) - many**2 / 2, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)

    return value


def _pearson(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    a, b = truth - truth.mean(), scores - scores.mean()
    rows = np.stack([a, b, a * a, b * b, a * b])

    def value(weights: np.ndarray) -> np.ndarray:
        mean_a, mean_b, aa, bb, ab = rows @ weights / weights.sum(axis=0)
        return _correlation(aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b, (aa, bb))

    return value


def _spearman(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Pearson of the mid-ranks, which are worked out anew in every resample."""
    groups = [np.unique(values, return_inverse=True)[1] for values in (truth, scores)]
    members = [_one_hot(group, int(group.max()) + 1) for group in groups]

    def value(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=0)
        a, b = (_mid_ranks(m @ weights)[g] - (total + 1) / 2 for m, g in zip(members, groups))
        aa, bb, ab = ((weights * product).sum(axis=0) / total for product in (a * a, b * b, a * b))
        return _correlation(aa, bb, ab, (total**2, total**2))

    return value


def _mid_ranks(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes, axis=0) - sizes / 2 + 0.5


def _correlation(aa: np.ndarray, bb: np.ndarray, ab: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """ab / sqrt(aa bb), and 0 where a variance is nothing but rounding."""
    varied = (aa > 1e-12 * scale[0]) & (bb > 1e-12 * scale[1])
    below = np.sqrt(np.where(varied, aa, 1.0)) * np.sqrt(np.where(varied, bb, 1.0))
    return np.where(varied, np.clip(ab / below, -1.0, 1.0), 0.0)


def _r2(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    centred = truth - truth.mean()
    rows = np.stack([(truth - scores) ** 2, centred**2, centred])

    def value(weights: np.ndarray) -> np.ndarray:
        missed, squares, mean = rows @ weights / weights.sum(axis=0)
        spread = squares - mean**2
        varied = spread > 1e-12 * squares
        return np.where(varied, 1 - missed / np.where(varied, spread, 1.0), np.where(missed == 0, 1.0, 0.0))

    return value


def _list() -> Iterable[Metric]:
    both, one, many, number = ("single", "multi"), ("single",), ("multi",), ("number",)
    free, infinite = (-1.0, 1.0), (0.0, float("inf"))
    yield Metric("accuracy", "Accuracy", mean_of(right), both, percent=True)
    yield Metric("exact_match", "Exact match", mean_of(right), many, percent=True)
    yield Metric("macro_f1", "Macro F1", _counted(lambda h, t, s, c: _over(ratio(2 * h, t + s), c)), both, percent=True)
    yield Metric("micro_f1", "Micro F1", _counted(lambda h, t, s, c: ratio(2 * h.sum(0), t.sum(0) + s.sum(0))), both, percent=True)
    yield Metric(
        "weighted_f1", "Weighted F1", _counted(lambda h, t, s, c: ratio((t * ratio(2 * h, t + s)).sum(0), t.sum(0))), both, percent=True
    )
    yield Metric("samples_f1", "F1 by row", mean_of(_row_f1), many, percent=True)
    yield Metric("macro_precision", "Macro precision", _counted(lambda h, t, s, c: _over(ratio(h, s), c)), both, percent=True)
    yield Metric("macro_recall", "Macro recall", _counted(lambda h, t, s, c: _over(ratio(h, t), c)), both, percent=True)
    yield Metric("micro_precision", "Micro precision", _counted(lambda h, t, s, c: ratio(h.sum(0), s.sum(0))), both, percent=True)
    yield Metric("micro_recall", "Micro recall", _counted(lambda h, t, s, c: ratio(h.sum(0), t.sum(0))), both, percent=True)
    yield Metric("mcc", "MCC", _counted(_mcc), one, bounds=free)
    yield Metric("roc_auc", "ROC AUC", _roc_auc, both)
    yield Metric("ece", "Calibration error (ECE)", _ece, both, higher_is_better=False)
    yield Metric("mse", "MSE", mean_of(lambda t, s: (t - s) ** 2), number, False, infinite)
    yield Metric("rmse", "RMSE", mean_of(lambda t, s: (t - s) ** 2, root=True), number, False, infinite)
    yield Metric("mae", "MAE", mean_of(lambda t, s: np.abs(t - s)), number, False, infinite)
    yield Metric("pearson", "Pearson", _pearson, number, bounds=free)
    yield Metric("spearman", "Spearman", _spearman, number, bounds=free)
    yield Metric("r2", "R2", _r2, number, bounds=(float("-inf"), 1.0))
    for module in KINDS.values():
        yield from module.METRICS


METRICS: dict[str, Metric] = {metric.name: metric for metric in _list()}
"""Every metric by its name."""

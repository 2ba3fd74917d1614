"""How sure a number is: bootstrap intervals, the paired test of before and after, the spread over seeds.

Rows are drawn with replacement, as often as there are rows, and the metric is worked out again on what was drawn
(Source: Efron and Tibshirani 1993, chapters 6 and 13; for language tasks Dror et al. 2018, "The Hitchhiker's Guide to
Testing Statistical Significance in Natural Language Processing"). Where we differ from the plain percentile interval:
- The resampled values are centred on the value itself. Drawing twice makes some metrics (ECE, macro averages of rare labels)
  worse on average than they are, and an interval that leaves out its own value helps nobody.
- A share of rows (accuracy, exact match) is never given less than its Wilson interval (Wilson 1927), because a
  bootstrap of 40 rows without an error would say "100% to 100%".
What an interval speaks of is other rows of the same kind, not other seeds (`seeds` does) and not other kinds of data.
Below about 30 rows intervals of other metrics than these shares are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from trunkline.errors import OptionError
from trunkline.evaluation.metric import Metric
from trunkline.evaluation.metrics import check, fitting, kind_of, right

LEVEL = 0.95
_CELLS = 2_000_000  # rows x resamples held at once
_AREA_STEPS = 1_000_000_000  # N K R of a ROC AUC; past it fewer resamples are drawn for that metric, never under 200


@dataclass(frozen=True)
class Interval:
    """A value, and the range that holds the true one in `level` of all samples of this size."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """After minus before on the same rows. `verdict`: "better", "worse" or "no difference shown", by the interval only."""

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    verdict: str


@dataclass(frozen=True)
class Spread:
    """Some seeds' values: mean, standard deviation, and the t interval of the mean (None for a single value)."""

    count: int
    mean: float
    min: float
    max: float
    std: float | None
    low: float | None
    high: float | None


def bootstrap(
    metric_names: Iterable[str], truth: Any, scores: Any, *, resamples: int = 1000, seed: int = 0, level: float = LEVEL
) -> dict[str, Interval]:
    """An interval for each named metric. The same arguments give the same numbers.

    The resamples of a metric are one sparse product (metrics.py), so 3,080 rows with 77 labels and every metric take about half
    a second; ROC AUC alone uses fewer resamples (at least 200) where rows x labels x resamples is over 1e9.

    Raises: OptionError as `metrics.compute`, or for `resamples` below 100 or a `level` that is not between 0 and 1.

    >>> bootstrap(["accuracy"], [0, 1, 1, 0] * 50, [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]] * 50)["accuracy"].value
    0.75
    """
    metric_names = list(metric_names)
    truth, scores, kind = check(truth, scores, kind_of(metric_names))
    metrics = fitting(metric_names, kind)
    _check_options(resamples, level)
    drawn = _draw(metrics, truth, [scores], resamples=resamples, seed=seed)
    found = {}
    for metric, values in zip(metrics, drawn):
        value = metric.function(truth, scores)
        low, high = _range(values[0], value, level)
        if _is_share(metric.name, kind) or kind == "programs":  # a mean of chances varies no more than a share
            low, high = _wider((low, high), _wilson(value, len(truth), level))
        found[metric.name] = Interval(value, max(low, metric.bounds[0]), min(high, metric.bounds[1]))
    return found


def bootstrap_mean(values: Any, *, resamples: int = 1000, seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean of numbers (N,), such as rewards or differences of two judgements of the same rows, with its interval.

    Source: as `bootstrap`; a mean is a metric of which each row gives a number. Raises: OptionError for no numbers, or one that is not finite.

    >>> bootstrap_mean([2.0, 2.0, 2.0])
    Interval(value=2.0, low=2.0, high=2.0)
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise OptionError(f"values {found.shape}: give one finite number a row, at least one.")
    _check_options(resamples, level)
    drawn = np.concatenate([found @ weights / len(found) for weights in _weights(len(found), resamples, seed)])
    mean = float(found.mean())
    return Interval(mean, *_range(drawn, mean, level))


def paired(metric: str, truth: Any, scores_before: Any, scores_after: Any, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Is `scores_after` better than `scores_before` on these very rows? The 95% interval of the difference decides.

    Both are measured on the same resamples (Source: Efron and Tibshirani 1993, chapter 16; Dror et al. 2018, section 3.2); the p value is the
    share of centred resampled differences that are at least as far from 0 as the difference itself. For a share of rows
    (accuracy, exact match) the p value is McNemar's exact test (McNemar 1947) on the rows where only one of the two is right,
    and the interval is also at least the exact one given those rows, so that the verdict and the test cannot disagree.

    Raises: OptionError as `bootstrap`, or where the two score arrays differ in shape.
    """
    told = kind_of([metric])
    truth, before, kind = check(truth, scores_before, told)
    _, after, _ = check(truth, scores_after, told)
    if told is None and before.shape != after.shape:
        raise OptionError(f"scores_before {before.shape} and scores_after {after.shape} differ. Use the same rows and labels for both.")
    _check_options(resamples, LEVEL)
    (one,) = fitting([metric], kind)
    values = _draw([one], truth, [before, after], resamples=resamples, seed=seed)[0]
    differences = values[1] - values[0]
    difference = one.function(truth, after) - one.function(truth, before)
    low, high = _range(differences, difference, LEVEL)
    if _is_share(metric, kind):
        test, p_value, exact = _mcnemar(right(truth, before), right(truth, after))
        low, high = _wider((low, high), exact)
    else:
        test = "paired bootstrap"
        far = np.abs(differences - differences.mean()) >= abs(difference) - 1e-12
        p_value = float((far.sum() + 1) / (len(far) + 1))
    return Comparison(metric, difference, low, high, p_value, test, _verdict(low, high, one))


def seeds(values: Sequence[float]) -> Spread:
    """Mean and spread over seeds; the interval of the mean is Student's t. One value has no spread, and says so.

    >>> seeds([0.93, 0.94, 0.92]).mean
    0.93
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise OptionError(f"seeds({values!r}): give one finite number for each seed, at least one.")
    mean = float(found.mean())
    if len(found) == 1:
        return Spread(1, mean, mean, mean, None, None, None)
    std = float(found.std(ddof=1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(found) - 1)) * std / len(found) ** 0.5
    return Spread(len(found), mean, float(found.min()), float(found.max()), std, mean - reach, mean + reach)


def _check_options(resamples: int, level: float) -> None:
    if resamples < 100:
        raise OptionError(f"resamples={resamples}: too few to tell where 95% of them lie. Use 100 or more; 1000 is usual.")
    if not 0 < level < 1:
        raise OptionError(f"level={level}: use a share between 0 and 1, such as 0.95.")


def _draw(metrics: Sequence[Metric], truth: Any, scores: Sequence[Any], *, resamples: int, seed: int) -> list[np.ndarray]:
    """For each metric (len(scores), R) values; one set of drawn rows serves every metric and every scores array."""
    limits = [_resamples(metric, scores[0], resamples) for metric in metrics]
    prepared = [[metric.weighted(truth, one) for one in scores] for metric in metrics]
    found: list[list[np.ndarray]] = [[] for _ in metrics]
    done = 0
    for weights in _weights(len(truth), resamples, seed):
        for at, functions in enumerate(prepared):
            use = weights[:, : max(0, limits[at] - done)]
            if use.shape[1]:
                found[at].append(np.stack([function(use) for function in functions]))
        done += weights.shape[1]
    return [np.concatenate(parts, axis=1) for parts in found]


def _resamples(metric: Metric, scores: Any, resamples: int) -> int:
    return min(resamples, max(200, _AREA_STEPS // scores.size)) if metric.name == "roc_auc" else resamples


def _weights(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (N, r) of how often each row was drawn, `resamples` columns in all."""
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, _CELLS // rows))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(0, rows, (rows, count)) * count + np.arange(count)
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _range(resampled: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """The middle `level` of the resampled values, moved so that their mean is the value."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]) - resampled.mean()
    return value + min(float(low), 0.0), value + max(float(high), 0.0)


def _is_share(name: str, kind: str) -> bool:
    return name in ("accuracy", "exact_match") or (kind == "single" and name in ("micro_f1", "micro_precision", "micro_recall"))


def _wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def _wilson(share: float, rows: int, level: float) -> tuple[float, float]:
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * (share * (1 - share) / rows + z * z / (4 * rows * rows)) ** 0.5
    return min(middle - reach, share), max(middle + reach, share)


def _mcnemar(before: np.ndarray, after: np.ndarray) -> tuple[str, float, tuple[float, float]]:
    """The exact test on the rows where only one is right, and the interval of the difference given their number."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    apart = gained + lost
    if not apart:
        return "exact McNemar", 1.0, (0.0, 0.0)
    result = stats.binomtest(gained, apart, 0.5)
    share = result.proportion_ci(LEVEL, method="exact")
    scale = apart / len(before)
    return "exact McNemar", float(result.pvalue), ((2 * share.low - 1) * scale, (2 * share.high - 1) * scale)


def _verdict(low: float, high: float, metric: Metric) -> str:
    if low > 0 or high < 0:
        return "better" if (low > 0) == metric.higher_is_better else "worse"
    return "no difference shown"

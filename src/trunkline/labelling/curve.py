"""Is it worth going on? What more labels would win, from the learning curve so far, with an interval: "200 more labels buy about 1.1 points"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.quality.probe import Discriminant, folds_of

_STEPS = (0.3, 0.45, 0.6, 0.8, 1.0)
_POWERS = np.linspace(0.1, 1.0, 10)


@dataclass(frozen=True)
class Outlook:
    """gain: accuracy that `more` labels are expected to add, between low and high in 95 of 100 resamples; now: what it is; points: what the curve was fitted to"""

    more: int
    gain: float
    low: float
    high: float
    now: float
    points: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        return (
            f"{self.more:,} more labels buy about {100 * self.gain:.1f} points of accuracy ({100 * self.low:.1f} to {100 * self.high:.1f}); "
            f"now {100 * self.now:.1f}%."
        )


def outlook(
    vectors: np.ndarray, labels: np.ndarray, count: int, more: int, *, resamples: int = 40, folds: int = 5, seed: int = 0
) -> Outlook:
    """What `more` labels would win. vectors: (L, D) of the labelled rows, labels: (L,) ids below `count`.

    In each fold, probes are fitted on shares of the other rows and measured on those held out; a power law a - b n^-c is fitted to error over number of labels, on
    rows resampled for the interval. Source: Cortes et al. 1993; Viering and Loog 2023 (The Shape of Learning Curves), table 1, POW3.
    Labels that were chosen for being doubtful make held-out rows harder than usual, so the level is too low; the gain is hardly touched.

    Raises: OptionError for fewer than 30 labels or a `more` below 1.
    """
    if len(labels) < 30:
        raise OptionError(f"{len(labels)} labels: at least 30 are needed for an outlook.")
    between("more", more, 1, 10_000_000)
    generator = np.random.default_rng(seed)
    where, right = folds_of(labels, folds, seed), np.zeros((len(_STEPS), len(labels)))
    sizes = np.zeros(len(_STEPS))
    shrinkages: list[float | None] = [None] * len(_STEPS)
    for fold in range(folds):
        rest, held = np.flatnonzero(where != fold), where == fold
        rest = generator.permutation(rest)
        for step, share in enumerate(_STEPS):
            some = rest[: max(5, round(share * len(rest)))]
            fitted = Discriminant.fit(vectors[some], labels[some], count, shrinkage=shrinkages[step])
            shrinkages[step] = fitted.shrinkage  # picked in the first fold: it goes by how many labels there are
            right[step, held] = fitted.logits(vectors[held]).argmax(1) == labels[held]
            sizes[step] += len(some) / folds
    drawn = [generator.integers(0, len(labels), len(labels)) for _ in range(resamples)]
    fitted_all = _fit(sizes, 1 - right.mean(1))
    gains = sorted(_gain(_fit(sizes, 1 - right[:, rows].mean(1)), len(labels), more) for rows in drawn)
    gain = _gain(fitted_all, len(labels), more)
    low, high = (float(np.quantile(gains, level)) for level in (0.025, 0.975))
    points = tuple((round(size), float(value)) for size, value in zip(sizes, right.mean(1)))
    return Outlook(more, gain, min(low, gain), max(high, gain), float(right[-1].mean()), points)


def _fit(sizes: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """a, b, c of a + b n^-c, all at least 0, c at most 1 (steeper is noise), larger sizes counting more."""

    weight, best = np.sqrt(sizes / sizes[-1]), (np.inf, 0.0, 0.0, 0.0)
    for c in _POWERS:
        (a, b), miss = optimize.nnls(np.stack([np.ones(len(sizes)), (sizes / sizes[-1]) ** -c], axis=1) * weight[:, None], errors * weight)
        best = min(best, (float(miss), float(a), float(b * sizes[-1] ** c), float(c)))
    return best[1:]


def _gain(fitted: tuple[float, float, float], now: int, more: int) -> float:
    _, b, c = fitted
    return float(b * now**-c - b * (now + more) ** -c)


def area(curve: Sequence[tuple[int, float]]) -> float:
    """The mean height of a curve of (labels, accuracy) over its width, by trapezoids.

    >>> area([(0, 0.0), (10, 1.0), (20, 1.0)])
    0.75
    """
    x, y = zip(*curve)
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))

"""The tests of drift: a window of live states against the stored ones, shares of classes and of words, a stream of confidences; and which texts moved."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from trunkline.choices import between
from trunkline.errors import OptionError

_MOST = 1_000
_BUCKETS = 5


@dataclass(frozen=True)
class Shift:
    """mmd: the squared distance of two sets of vectors (unbiased, so it may be below 0); p_value: how often two halves of one set are further apart.

    moved: (M,) the places of the live rows, those that lie most where stored ones are rare first
    """

    mmd: float
    p_value: float
    moved: np.ndarray


def shift(stored: np.ndarray, live: np.ndarray, *, permutations: int = 500, seed: int = 0) -> Shift:
    """Whether live vectors (M, D) come from where the stored ones (N, D) do: maximum mean discrepancy, tested by permutation.

    At most 1,000 of each, drawn by chance, are tested; the kernel is Gaussian with the median distance as its width.
    Source: Gretton et al. 2012 (A Kernel Two-Sample Test), equation 3 and section 5; `moved` is ordered by the witness function, section 2.3.
    Raises: OptionError for fewer than ten rows on a side.

    >>> generator = np.random.default_rng(0)
    >>> shift(generator.normal(size=(200, 4)), generator.normal(size=(100, 4)) + 1).p_value < 0.01
    True
    """
    if min(len(stored), len(live)) < 10:
        raise OptionError(f"{len(stored)} stored and {len(live)} live rows: at least ten of each are needed to compare them.")
    between("permutations", permutations, 20, 100_000)
    generator = np.random.default_rng(seed)
    x, y = (part[generator.choice(len(part), min(len(part), _MOST), replace=False)].astype(np.float64) for part in (stored, live))
    both = np.concatenate([x, y])
    squared = _squared(both, both)
    width = float(np.median(squared[np.triu_indices(len(both), 1)])) or 1.0
    kernel = np.exp(-squared / width)
    np.fill_diagonal(kernel, 0.0)
    signs = np.stack([np.arange(len(both)) < len(x), *(generator.permutation(len(both)) < len(x) for _ in range(permutations))])
    values = _unbiased(kernel, signs, len(x), len(y))
    witness = np.exp(-_squared(live.astype(np.float64), x) / width).mean(1) - np.exp(-_squared(live.astype(np.float64), y) / width).mean(1)
    p_value = (1 + int((values[1:] >= values[0] - 1e-15).sum())) / (permutations + 1)
    return Shift(float(values[0]), p_value, np.argsort(witness, kind="stable"))


def _squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.maximum((left**2).sum(1)[:, None] - 2 * left @ right.T + (right**2).sum(1), 0.0)


def _unbiased(kernel: np.ndarray, signs: np.ndarray, n: int, m: int) -> np.ndarray:
    """The statistic for each division of the rows; kernel with a diagonal of 0, signs (P, n + m) bool: True for the first set."""
    first, second = signs.astype(np.float64), (~signs).astype(np.float64)
    with_first = first @ kernel
    inside = (with_first * first).sum(1)
    across = (with_first * second).sum(1)
    other = kernel.sum() - inside - 2 * across
    return inside / (n * (n - 1)) + other / (m * (m - 1)) - 2 * across / (n * m)


@dataclass(frozen=True)
class ClassShift:
    """The share of a class, or of rows with a word, before and now, and the p value of their difference, corrected for all there are (Holm)."""

    label: str
    before: float
    now: float
    p_value: float


def class_shift(before: Sequence[str], now: Sequence[str]) -> list[ClassShift]:
    """How the shares of classes changed, least likely by chance first. Raises: OptionError where a side is empty.

    >>> [one.label for one in class_shift(["a"] * 90 + ["b"] * 10, ["a"] * 50 + ["b"] * 50) if one.p_value < 0.01]
    ['a', 'b']
    """
    if not len(before) or not len(now):
        raise OptionError(f"{len(before)} answers before and {len(now)} now: both sides need some.")
    labels = sorted({*before, *now})
    counts = [(sum(one == label for one in before), sum(one == label for one in now)) for label in labels]
    raw = [float(stats.fisher_exact([[a, len(before) - a], [b, len(now) - b]]).pvalue) for a, b in counts]
    return _corrected(labels, counts, raw, (len(before), len(now)))


def word_shift(before: Sequence[set[str]], now: Sequence[set[str]], least: int = 5) -> list[ClassShift]:
    """How the shares of rows with a word changed, for words of at least so many rows; least likely by chance first. A row is its set of words.

    Tested by the difference of two proportions (the normal approximation; Fisher's exact test of every word would take minutes).
    Raises: OptionError where a side is empty.
    """
    if not len(before) or not len(now):
        raise OptionError(f"{len(before)} rows before and {len(now)} now: both sides need some.")
    first, second = (Counter(word for row in side for word in row) for side in (before, now))
    words = sorted(word for word in first.keys() | second.keys() if first[word] + second[word] >= least)
    counts = [(first[word], second[word]) for word in words]
    a, b = np.array(counts, dtype=np.float64).reshape(-1, 2).T
    n, m = len(before), len(now)
    pooled = (a + b) / (n + m)
    z = np.abs(a / n - b / m) / np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n + 1 / m), 1e-12))
    return _corrected(words, counts, (2 * stats.norm.sf(z)).tolist(), (n, m))


def _corrected(names: Sequence[str], counts: Sequence[tuple[int, int]], raw: Sequence[float], sizes: tuple[int, int]) -> list[ClassShift]:
    """Holm's correction; least likely by chance first."""
    order, corrected, worst = sorted(range(len(names)), key=lambda at: raw[at]), [0.0] * len(names), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, raw[at] * (len(names) - rank)))
        corrected[at] = worst
    return [ClassShift(names[at], counts[at][0] / sizes[0], counts[at][1] / sizes[1], corrected[at]) for at in order]


@dataclass
class Adwin:
    """A window over a stream of numbers from 0 to 1 that drops its older part when the newer part has another mean.

    delta: the chance of a false alarm; the window is kept as sums of 1, 2, 4, ... numbers, so memory grows with the logarithm of its length.
    Source: Bifet and Gavalda 2007 (Learning from Time-Changing Data with Adaptive Windowing), figure 1 and equation 3.1 (the bound with variance).
    """

    delta: float = 0.002
    _rows: list[deque[tuple[float, float]]] = field(default_factory=lambda: [deque()])
    count: int = 0
    total: float = 0.0
    seen: int = 0

    def __post_init__(self) -> None:
        between("delta", self.delta, 1e-9, 0.5)

    @property
    def mean(self) -> float:
        """Of what is in the window."""
        return self.total / self.count if self.count else 0.0

    def add(self, value: float) -> bool:
        """Take one number in, and say whether the window was cut: the mean has changed. Raises: OptionError outside 0 to 1."""
        between("value", value, 0.0, 1.0)
        self._rows[0].appendleft((value, value * value))
        self.count, self.total, self.seen = self.count + 1, self.total + value, self.seen + 1
        self._press()
        cut = False
        while self.seen % 8 == 0 and self.count > 20 and self._differs():
            self._forget()
            cut = True
        return cut

    def _press(self) -> None:
        """Two sums of n become one of 2n where a row holds too many."""
        for level, row in enumerate(self._rows):
            if len(row) <= _BUCKETS:
                break
            (a, b), (c, d) = row.pop(), row.pop()
            if level + 1 == len(self._rows):
                self._rows.append(deque())
            self._rows[level + 1].appendleft((a + c, b + d))

    def _differs(self) -> bool:
        squares = sum(square for row in self._rows for _, square in row)
        variance = max(squares / self.count - self.mean**2, 0.0)
        old_count, old_total = 0, 0.0
        bound = np.log(2 * np.log(max(self.count, 3)) / self.delta)
        for level in range(len(self._rows) - 1, -1, -1):
            for total, _ in reversed(self._rows[level]):
                old_count, old_total = old_count + (1 << level), old_total + total
                new_count = self.count - old_count
                if old_count < 5 or new_count < 5:
                    continue
                inverse = 1 / old_count + 1 / new_count
                reach = np.sqrt(2 * inverse * variance * bound) + 2 / 3 * inverse * bound
                if abs(old_total / old_count - (self.total - old_total) / new_count) > reach:
                    return True
        return False

    def _forget(self) -> None:
        """Drop the oldest sum."""
        while not self._rows[-1]:
            self._rows.pop()
        level = len(self._rows) - 1
        total, _ = self._rows[level].pop()
        self.count, self.total = self.count - (1 << level), self.total - total
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()

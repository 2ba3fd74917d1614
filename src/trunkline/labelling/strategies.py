"""What to label next: functions from stored states and a probe to the places of the rows worth most.

Every strategy has the same face: `choose(pool, count, generator)` -> places (count,) in the pool, most wanted first. With no labels yet, or too few
for a probe, those that need one choose by coverage alone. `safe`, the default, begins with coverage and goes over to doubt as labels come: at small budgets doubt alone
picks what is odd rather than what is common. Where words have labels, a text is as doubtful as its words together (`WordPool`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from trunkline.choices import between
from trunkline.errors import OptionError, unknown
from trunkline.evaluation.linear import Linear, fit_linear
from trunkline.quality.duplicates import unit
from trunkline.quality.probe import Discriminant, Probe, softmax

_MEMBERS = 8
_PER_CLASS = 2  # labels a class on average from which a probe is listened to
_BLOCK = 4096
_STRENGTH = 0.01  # of words' regression: what `fit_linear` takes where there are no rows to pick by


@dataclass(frozen=True)
class Pool:
    """What is known when a choice is made. vectors: (N, D) of all rows; places (L,) of the labelled ones; labels: (L,) their ids below `count`."""

    vectors: np.ndarray
    places: np.ndarray
    labels: Any
    count: int

    @cached_property
    def unit(self) -> np.ndarray:
        """(N, D) float32 from the mean, with length 1: dot products are cosines."""
        return unit(self.vectors - self.vectors.mean(0)).astype(np.float32)

    @cached_property
    def open(self) -> np.ndarray:
        """The places without a label."""
        return np.setdiff1d(np.arange(len(self.vectors)), self.places)

    @property
    def has_probe(self) -> bool:
        there = np.unique(self.labels)
        return len(there) > 1 and len(self.labels) >= max(10, _PER_CLASS * len(there))

    @property
    def is_young(self) -> bool:
        """Whether there are too few labels for doubt to be believed."""
        return len(self.labels) < 4 * self.count

    @cached_property
    def probe(self) -> Probe:
        return Probe.fit(self.vectors[self.places], self.labels, self.count)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(M, K) of the open rows."""
        return self.probe.probabilities(self.vectors[self.open])

    @cached_property
    def margins(self) -> np.ndarray:
        """(M,) how much likelier the likeliest label of an open row is than the next, at most 1: small where the probe doubts."""
        return _margins(self.probabilities)

    @cached_property
    def entropies(self) -> np.ndarray:
        """(M,) of the open rows."""
        return _entropy(self.probabilities)


@dataclass(frozen=True)
class WordPool(Pool):
    """The same where words have labels (the task `tag`). vectors: (N, D) of the texts; words: N arrays (W, D); labels: L arrays (W,) of ids.

    What decides is the sum over the words of a text (Source: Settles and Craven 2008, section 3.1, "total token entropy"), over the largest such sum.
    """

    words: Sequence[np.ndarray] = ()

    @property
    def has_probe(self) -> bool:
        return len(self.places) >= 10 and len(np.unique(np.concatenate(self.labels))) > 1

    @cached_property
    def linear(self) -> Linear:
        """Logistic regression from the vector of a word to its tag: a discriminant, quicker as it is, takes rare tags for common ones."""
        spec = SimpleNamespace(task="classify", labels=range(self.count), multi_label=False)
        known = np.concatenate([np.asarray(self.words[at], dtype=np.float32) for at in self.places.tolist()])
        return fit_linear(known, np.concatenate(self.labels), spec, strengths=(_STRENGTH,))

    @cached_property
    def margins(self) -> np.ndarray:
        return 1 - self._over_words(lambda p: 1 - _margins(p))

    @cached_property
    def entropies(self) -> np.ndarray:
        return self._over_words(_entropy)

    def _over_words(self, doubt: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = np.array([doubt(self.linear.scores(np.asarray(self.words[at], dtype=np.float32))).sum() for at in self.open.tolist()])
        return sums / max(float(sums.max(initial=0.0)), 1e-12)


Choose = Callable[[Pool, int, np.random.Generator], np.ndarray]


def choose(pool: Pool, count: int, strategy: str = "safe", *, seed: int = 0) -> np.ndarray:
    """The places of `count` rows to label next (fewer where fewer are open), most wanted first. Raises: OptionError for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    between("count", count, 1, 1_000_000)
    if len(pool.places) != len(pool.labels) or len(np.unique(pool.places)) < len(pool.places):
        raise OptionError(f"{len(pool.places)} places and {len(pool.labels)} labels: give each labelled row once, with its label.")
    if isinstance(pool, WordPool) and strategy not in WORD_STRATEGIES:
        raise unknown("strategy where words have labels", strategy, WORD_STRATEGIES)
    count = min(count, len(pool.open))
    return STRATEGIES[strategy](pool, count, np.random.default_rng(seed)) if count else np.empty(0, dtype=np.int64)


def random(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """By chance: what every other strategy has to beat, and the only one whose labelled rows are a fair sample."""
    return generator.choice(pool.open, count, replace=False)


def margin(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """The two likeliest labels are nearly as likely as each other. Source: Scheffer et al. 2001; Settles 2009, section 3.1."""
    if not pool.has_probe:
        return coverage(pool, count, generator)
    return _first(pool.open, pool.margins, count, generator)


def entropy(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """The probabilities say least. Source: Shannon 1948; Settles 2009, equation for entropy."""
    if not pool.has_probe:
        return coverage(pool, count, generator)
    return _first(pool.open, -pool.entropies, count, generator)


def bald(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """Probes of resampled labels are each sure and disagree. Source: Houlsby et al. 2011, equation 2; eight bootstrap members for the posterior."""
    if not pool.has_probe:
        return coverage(pool, count, generator)
    members = []
    for _ in range(_MEMBERS):
        weights = generator.dirichlet(np.ones(len(pool.labels))) * len(pool.labels)  # Rubin 1981: no class can vanish
        fitted = Discriminant.fit(pool.vectors[pool.places], pool.labels, pool.count, weights, pool.probe.discriminant.shrinkage)
        members.append(softmax(fitted.logits(pool.vectors[pool.open]) * pool.probe.scale))
    found = np.stack(members)
    return _first(pool.open, -(_entropy(found.mean(0)) - _entropy(found).mean(0)), count, generator)


def badge(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows whose gradients are long and differ. Source: Ash et al. 2020, algorithm 1: k-means++ on the gradients of the last layer.

    The gradient is the outer product of (probabilities - the likeliest label) and the vector, so distances need no array of its size.
    """
    if not pool.has_probe:
        return coverage(pool, count, generator)
    residual = pool.probabilities.copy()
    residual[np.arange(len(residual)), residual.argmax(1)] -= 1.0
    x = pool.unit[pool.open].astype(np.float64)
    lengths = (residual**2).sum(1) * (x**2).sum(1)
    nearest = lengths.copy()  # the first centre is the origin's furthest, as in the authors' code
    found: list[int] = []
    for _ in range(count):
        total = nearest.sum()
        at = int(np.argmax(nearest)) if not found or total <= 0 else int(generator.choice(len(nearest), p=nearest / total))
        if nearest[at] <= 0:  # all that are left lie on a centre
            left = np.setdiff1d(np.arange(len(x)), found)
            found += generator.choice(left, count - len(found), replace=False).tolist()
            break
        found.append(at)
        away = lengths + lengths[at] - 2 * (residual @ residual[at]) * (x @ x[at])
        nearest = np.minimum(nearest, np.maximum(away, 0.0))
        nearest[found] = 0.0
    return pool.open[found]


def core_set(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows furthest from every labelled one, one after the other. Source: Sener and Savarese 2018, algorithm 1 (k-center greedy)."""
    ready, found = pool.unit[pool.open], []
    nearest = np.full(len(ready), np.inf)
    for start in range(0, len(pool.places), _BLOCK):
        nearest = np.minimum(nearest, 1 - (ready @ pool.unit[pool.places[start : start + _BLOCK]].T).max(1))
    for _ in range(count):
        at = int(np.argmax(nearest)) if np.isfinite(nearest).all() else int(generator.integers(len(ready)))
        found.append(at)
        nearest = np.minimum(nearest, 1 - ready @ ready[at])
        nearest[found] = -1.0
    return pool.open[found]


def coverage(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that stand for many others that no label stands for yet, one after the other.

    Greedy facility location on cosines (Source: Wei, Iyer and Bilmes 2015, equation 5), over at most 2,000 candidates and 2,000 rows to stand for.
    """
    some = generator.choice(pool.open, min(2000, len(pool.open)), replace=False)
    every = generator.choice(len(pool.vectors), min(2000, len(pool.vectors)), replace=False)
    if count > len(some) // 2:
        return random(pool, count, generator)
    likeness = np.maximum(pool.unit[every] @ pool.unit[some].T, 0.0) ** 2
    stands = np.zeros(len(every), dtype=np.float32)
    if len(pool.places):
        stands = (np.maximum(pool.unit[every] @ pool.unit[pool.places].T, 0.0) ** 2).max(1)
    found: list[int] = []
    for _ in range(count):
        gain = np.maximum(likeness - stands[:, None], 0.0).sum(0)
        gain[found] = -1.0
        at = int(np.argmax(gain))
        found.append(at)
        stands = np.maximum(stands, likeness[:, at])
    return some[found]


def balanced(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """By the probe's answers, from every class in turn, the class with fewest labels first; within a class the smallest margin."""
    if not pool.has_probe:
        return coverage(pool, count, generator)
    answers = pool.probabilities.argmax(1)
    order = np.argsort(pool.margins, kind="stable")
    queues = {one: [at for at in order.tolist() if answers[at] == one] for one in np.unique(answers).tolist()}
    have = dict(zip(queues, np.bincount(pool.labels, minlength=pool.count)[list(queues)].tolist()))
    found: list[int] = []
    while len(found) < count:
        one = min((one for one in queues if queues[one]), key=lambda one: (have[one], one))
        found.append(queues[one].pop(0))
        have[one] += 1
    return pool.open[found]


def safe(pool: Pool, count: int, generator: np.random.Generator) -> np.ndarray:
    """Coverage while labels are few, then doubt spread over the map: a mix that does not fall behind chance at small budgets.

    Doubt: the ten times `count` rows of smallest margin; of these so many as differ most (k-means++ on vectors). A tenth is drawn by chance, so that what
    neither finds has a way in. Source: Zhdanov 2019 (Diverse mini-batch Active Learning), algorithm 2, with k-means++ for k-means.
    """
    if not pool.has_probe or pool.is_young:
        return coverage(pool, count, generator)
    by_chance = generator.choice(pool.open, count // 10, replace=False)
    gap = pool.margins.copy()
    gap[np.isin(pool.open, by_chance)] = 2.0
    candidates = np.argsort(gap, kind="stable")[: 10 * count]
    candidates = candidates[gap[candidates] < 2.0]
    weight = np.maximum(1 - gap[candidates], 1e-3)
    spread = _spread(pool.unit[pool.open[candidates]], weight, count - len(by_chance), generator)
    return np.concatenate([pool.open[candidates[spread]], by_chance])


def _spread(ready: np.ndarray, weight: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """k-means++ on unit vectors: each next place by its weight times its distance from those chosen."""
    found = [int(np.argmax(weight))]
    nearest = 1 - ready @ ready[found[0]]
    while len(found) < min(count, len(ready)):
        chance = np.maximum(nearest, 1e-9) * weight
        chance[found] = 0.0
        found.append(int(generator.choice(len(ready), p=chance / chance.sum())))
        nearest = np.minimum(nearest, 1 - ready @ ready[found[-1]])
    return np.array(found[:count], dtype=np.int64)


def _margins(probabilities: np.ndarray) -> np.ndarray:
    top = np.partition(probabilities, -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)


def _first(places: np.ndarray, score: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """The places of the smallest scores; equals in an order of chance."""
    mixed = generator.permutation(len(score))
    return places[mixed[np.argsort(score[mixed], kind="stable")[:count]]]


STRATEGIES: dict[str, Choose] = {
    "safe": safe,
    "margin": margin,
    "entropy": entropy,
    "bald": bald,
    "badge": badge,
    "core-set": core_set,
    "coverage": coverage,
    "balanced": balanced,
    "random": random,
}
WORD_STRATEGIES = ("safe", "margin", "entropy", "core-set", "coverage", "random")

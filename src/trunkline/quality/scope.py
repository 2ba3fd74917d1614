"""Is a text of the kind that was learned from? By how far its states lie from those of the training rows, and by how little the logits say.

Every score is larger the less a text belongs; a threshold comes from validation rows that do belong, for a share of false alarms that one chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.quality.duplicates import unit
from trunkline.quality.probe import Probe

HOW = ("distance", "neighbours", "energy", "both", "confidence")
_NEIGHBOURS = 5
_SHRINKAGE = 0.3
_BLOCK = 4096


@dataclass(frozen=True)
class Clouds:
    """Where the classes lie, and where all rows together. means (K, D), whitened by whitener (D, D); centre (1, D), whitened by wider (D, D).

    Source: Ren et al. 2021 (A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection), equation 3: the squared distance to the nearest class less that
    to the whole, so that what is unusual in any text alike does not count. Both covariances are shrunken alike, or they would not be compared.
    """

    means: np.ndarray
    whitener: np.ndarray
    centre: np.ndarray
    wider: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: np.ndarray) -> Clouds:
        """From vectors (N, D) with label ids (N,)."""
        vectors = np.asarray(vectors, dtype=np.float64)
        there = np.unique(labels)
        means, centre = np.stack([vectors[labels == at].mean(0) for at in there]), vectors.mean(0, keepdims=True)
        whitener, wider = _whitener(vectors - means[np.searchsorted(there, labels)]), _whitener(vectors - centre)
        return cls(means @ whitener, whitener, centre @ wider, wider)

    def to_classes(self, vectors: np.ndarray) -> np.ndarray:
        """(N, K) squared distances."""
        return _squared(vectors @ self.whitener, self.means)

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """(N,) larger is further outside; below 0 what lies nearer to a class than to the whole."""
        return self.to_classes(vectors).min(1) - _squared(vectors @ self.wider, self.centre)[:, 0]


def _whitener(inner: np.ndarray) -> np.ndarray:
    """(D, D) that makes the shrunken covariance of (N, D) around 0 the identity."""
    covariance, width = inner.T @ inner / len(inner), inner.shape[1]
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    return np.linalg.inv(np.linalg.cholesky(covariance + 1e-12 * np.eye(width))).T


def _squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left**2).sum(1)[:, None] - 2 * left @ right.T + (right**2).sum(1)


@dataclass(frozen=True)
class Scope:
    """What is known of the rows that belong. Make one with `Scope.fit`.

    distance: Mahalanobis distance to the nearest class, less that to all rows together (`Clouds`)
    neighbours: how far the fifth nearest training row is (Source: Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors"; k = 5)
    energy: minus the logarithm of the summed exponentials of the logits (Source: Liu et al. 2020, equation 4, temperature 1)
    both: the mean of distance and neighbours, each as its share of validation rows that score lower; what `outside` takes unless told
    confidence: one minus the largest probability (Source: Hendrycks and Gimpel 2017), what the others are measured against
    """

    clouds: Clouds
    rows: np.ndarray
    probe: Probe
    known: dict[str, np.ndarray]

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: np.ndarray, count: int, validation: np.ndarray, *, seed: int = 0) -> Scope:
        """From training vectors (N, D) with label ids (N,), and vectors (V, D) of validation rows that belong.

        Raises: OptionError for fewer than 20 validation rows: a threshold from fewer means nothing.
        """
        if len(validation) < 20:
            raise OptionError(f"{len(validation)} validation rows: give at least 20, from which the threshold is taken.")
        made = cls(Clouds.fit(vectors, labels), unit(vectors).astype(np.float32), Probe.fit(vectors, labels, count, seed=seed), {})
        made.known.update({how: np.sort(made.scores(validation, how)) for how in ("distance", "neighbours", "energy", "confidence")})
        made.known["both"] = np.sort(made.scores(validation, "both"))
        return made

    def scores(self, vectors: np.ndarray, how: str = "both") -> np.ndarray:
        """(N,) larger is further outside. Raises: OptionError for an unknown `how`."""
        one_of("how", how, HOW)
        if how == "both":
            return (self._share_below(vectors, "distance") + self._share_below(vectors, "neighbours")) / 2
        return {"distance": self._distance, "neighbours": self._neighbours, "energy": self._energy, "confidence": self._confidence}[how](
            vectors
        )

    def threshold(self, false_alarms: float = 0.05, how: str = "both") -> float:
        """The score that at most this share of rows that belong go over, as validation rows say (with the correction of split conformal prediction)."""
        between("false_alarms", false_alarms, 0.0, 1.0)
        one_of("how", how, HOW)
        known = self.known[how]
        rank = int(np.ceil((1 - false_alarms) * (len(known) + 1)))
        return float("inf") if rank > len(known) else float(known[rank - 1])

    def outside(self, vectors: np.ndarray, false_alarms: float = 0.05, how: str = "both") -> np.ndarray:
        """(N,) bool: True for a row that does not belong."""
        return self.scores(vectors, how) > self.threshold(false_alarms, how)

    def _share_below(self, vectors: np.ndarray, how: str) -> np.ndarray:
        """Where a score lies among those of the validation rows: 0 to 1 inside, and growing beyond, so that what is far out keeps its order."""
        known, found = self.known[how], self.scores(vectors, how)
        spread = max(float(known[-1] - np.median(known)), 1e-12)
        return np.searchsorted(known, found) / len(known) + np.maximum(found - known[-1], 0) / spread

    def _distance(self, vectors: np.ndarray) -> np.ndarray:
        return self.clouds.distances(vectors)

    def _neighbours(self, vectors: np.ndarray) -> np.ndarray:
        k, ready = min(_NEIGHBOURS, len(self.rows)), unit(vectors).astype(np.float32)
        found = np.empty(len(ready))
        for start in range(0, len(ready), _BLOCK):
            found[start : start + _BLOCK] = 1 - np.partition(ready[start : start + _BLOCK] @ self.rows.T, -k, axis=1)[:, -k]
        return found

    def _energy(self, vectors: np.ndarray) -> np.ndarray:
        """A discriminant's logits lack what all classes share; with it (minus half the squared length after whitening) they are log-densities."""
        return -special.logsumexp(-0.5 * self.probe.scale * self.clouds.to_classes(vectors), axis=1)

    def _confidence(self, vectors: np.ndarray) -> np.ndarray:
        return 1 - self.probe.probabilities(vectors).max(1)


def false_alarms_at(inside: np.ndarray, outside: np.ndarray, found: float = 0.95) -> float:
    """FPR@95: the share of rows that belong which are called outside when 95% of those that do not are found."""
    between("found", found, 0.0, 1.0)
    threshold = np.quantile(outside, 1 - found, method="lower")
    return float((inside >= threshold).mean())

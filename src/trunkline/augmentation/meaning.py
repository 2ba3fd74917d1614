"""Which new rows are let in: those that say what their origin says, as far as a model's states can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trunkline.quality.duplicates import unit

_BLOCK = 2048
UNCHANGED, FAR, LABEL, BRANCH = (
    "says what a row says already",
    "too far from its origin",
    "nearer to another label",
    "another label for the branch",
)


def usual(vectors: np.ndarray, labels: np.ndarray | None) -> float:
    """The cosine that a row has to the nearest row of its label, in the middle: two rows of which people say the same are as near as that.

    vectors: (N, D); labels: (N,), or None, then the nearest of all rows
    """
    ready = unit(vectors - vectors.mean(0))
    nearest = np.empty(len(ready))
    for start in range(0, len(ready), _BLOCK):
        scores = ready[start : start + _BLOCK] @ ready.T
        at = np.arange(start, start + len(scores))
        scores[np.arange(len(scores)), at] = -2.0
        if labels is not None:
            scores[labels[at, None] != labels[None, :]] = -2.0
        nearest[at] = scores.max(1)
    known = nearest[nearest > -2.0]  # a row that is alone with its label says nothing
    return float(np.median(known)) if len(known) else 0.5


def judged(
    vectors: np.ndarray, labels: np.ndarray | None, made: np.ndarray, source: np.ndarray, least: float
) -> list[str | None]:  # fmt: skip
    """For each new row the reason for which it is left out, or None. Cosines are of vectors less the mean of the rows.

    vectors: (N, D) of the rows; labels: (N,) or None; made: (M, D) of the new rows; source: (M,) the row that each was made of
    """
    mean = vectors.mean(0)
    rows, new = unit(vectors - mean), unit(made - mean)
    found: list[str | None] = []
    for start in range(0, len(new), _BLOCK):
        block, origin = new[start : start + _BLOCK], source[start : start + _BLOCK]
        own = (block * rows[origin]).sum(1)
        other = np.full(len(block), -2.0)
        if labels is not None:
            scores = block @ rows.T
            scores[labels[origin, None] == labels[None, :]] = -2.0
            other = scores.max(1)
        found += [FAR if mine < least else LABEL if theirs > mine else None for mine, theirs in zip(own, other)]
    return found


def label_ids(labels: Sequence[Any]) -> np.ndarray | None:
    """(N,) a number for each label, where every row has just one; else None."""
    if not all(isinstance(label, str) for label in labels):
        return None
    ids = {label: at for at, label in enumerate(sorted(set(labels)))}
    return np.array([ids[label] for label in labels])

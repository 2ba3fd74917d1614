"""`pseudo_label`: rows without a label are given one where a probe and the map of the states are sure of it, and are trained on beside the labelled ones.

    labelled rows ──► split ──► vectors of train and of the others ──► fewer.py (self-training, spreading) ──► a split with more training rows

Pseudo-labels come from the training rows alone, and texts that stand in validation or test get none, so nothing of what is measured on leaks. Whether
they help is measured on labelled rows that are held out in turn, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trunkline.choices import one_of
from trunkline.data.split import Shares, Split, in_parts, text_key
from trunkline.errors import DataError, OptionError
from trunkline.labelling.fewer import adds, by_probe, self_train, spread
from trunkline.model.backbone import Backbone
from trunkline.quality.probe import Discriminant, softmax
from trunkline.quality.vectors import vectors
from trunkline.train.settings import Settings
from trunkline.types import Row, Rows

WAYS = ("both", "self-training", "spreading")
SOURCE = "pseudo-label"
_LEAST = 25
"""Labelled training rows: a fifth of them is held out in turn, and self-training calibrates on at least ten of the others."""


@dataclass(frozen=True)
class PseudoLabelled:
    """parts: the split, with `new` rows in train (their `source` says what they are, and keeps them there when they are split again)

    offered: how many rows could have got a label; gain: accuracy in points (difference to the labelled rows alone, low, high) on held-out labelled rows
    """

    parts: Split
    new: tuple[Row, ...]
    offered: int
    gain: tuple[float, float, float]

    def __str__(self) -> str:
        difference, low, high = self.gain
        verdict = "they help" if low > 0 else "they harm" if high < 0 else "no difference shown"
        return (
            f"{len(self.new):,} of {self.offered:,} rows got a label; {len(self.parts.train) - len(self.new):,} training rows had one.\n"
            f"On labelled training rows held out in turn: {difference:+.1f} points ({low:+.1f} to {high:+.1f}) of a probe: {verdict}."
        )


def pseudo_label(
    rows: Rows | Split, unlabelled: Sequence[Row], *, model: str | Path | Backbone | None = None, way: str = "both", wanted: float = 0.95,
    settings: Shares | None = None,
) -> PseudoLabelled:  # fmt: skip
    """More training rows out of rows without a label; `tune(found.parts)` trains on them.

    rows: labelled, one class each; what is not in parts is split as `tune` does with these settings
    unlabelled: rows of which only the texts are read; texts that stand among the labelled ones are passed over
    way: "self-training" (a probe's surest answers: calibrated so that `wanted` of them are right), "spreading" (labels flow along the graph of near
        states; the surer half), or "both": rows on which the two agree, of the surer half
    Raises: OptionError for another task or way; DataError for too few labelled rows, or none to label.
    """
    one_of("way", way, WAYS)
    settings = settings or Settings()
    parts = in_parts(rows, settings)
    if parts.train.task != "classify":
        raise OptionError(f"task={parts.train.task!r}: pseudo-labels are made for classify.")
    known = [row for row in parts.train if isinstance(row.get("label"), str)]
    names = sorted({row["label"] for row in known})
    if len(known) < _LEAST or len(names) < 2:
        raise DataError(
            f"{len(known)} training rows with {len(names)} labels: at least {_LEAST} rows and two labels are needed to learn from."
        )
    others = _others(parts, unlabelled)
    found = vectors(known, others, model=model, seed=settings.seed)
    labels, count = np.array([names.index(row["label"]) for row in known]), len(names)
    given, taken = _given(way, found.rows, labels, found.against, count, wanted, settings.seed)

    def taught(some: np.ndarray, own: np.ndarray, rest: np.ndarray, classes: int) -> np.ndarray:
        return _taught(_given(way, some, own, rest, classes, wanted, settings.seed), some, own, rest, classes)

    difference, low, high = (100 * one for one in adds(taught, found.rows, labels, found.against, count, seed=settings.seed))
    new = tuple(
        {
            **{key: others[at][key] for key in ("text", "text_b", "id") if key in others[at]},
            "label": names[given[at]],
            "source": SOURCE,
            "method": way,
        }
        for at in np.flatnonzero(taken).tolist()
    )
    more = replace(
        parts, train=replace(parts.train, rows=(*parts.train, *new)), notes=(*parts.notes, f"{len(new):,} training rows are {SOURCE}led")
    )
    return PseudoLabelled(more, new, len(others), (difference, low, high))


def _others(parts: Split, unlabelled: Sequence[Row]) -> list[Row]:
    """Each text once, without those that have a label or are measured on. Raises: DataError where none is left."""
    seen, found = {text_key(row) for part in parts.parts().values() for row in part}, []
    for row in unlabelled:
        if (key := text_key(row)) not in seen:
            seen.add(key)
            found.append(row)
    if not found:
        raise DataError(f"{len(unlabelled)} rows without a label: all of their texts stand among the labelled ones. Give others.")
    return found


def _given(
    way: str, vectors: np.ndarray, labels: np.ndarray, others: np.ndarray, count: int, wanted: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(U,) label ids, and (U,) which of them are taken."""
    if way == "self-training":
        pseudo = self_train(vectors, labels, others, count, wanted=wanted, seed=seed)
        return pseudo.probabilities.argmax(1), pseudo.taken
    flowed = spread(vectors, labels, others, count)
    given, taken = flowed.argmax(1), flowed.max(1) >= np.median(flowed.max(1))
    if way == "both":
        taken &= self_train(vectors, labels, others, count, wanted=wanted, seed=seed).probabilities.argmax(1) == given
    return given, taken


def _taught(made: tuple[np.ndarray, np.ndarray], vectors: np.ndarray, labels: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """(U, K) probabilities of a probe that learned from labels and pseudo-labels, all of which count no more than four times the labels."""
    given, taken = made
    if not taken.any():
        return by_probe(vectors, labels, others, count)
    weights = np.concatenate([np.ones(len(labels)), np.full(int(taken.sum()), min(1.0, 4 * len(labels) / taken.sum()))])
    shrinkage = Discriminant.fit(vectors, labels, count).shrinkage  # from true labels: those that a probe gave are all too easy for one
    every, known = np.concatenate([vectors, others[taken]]), np.concatenate([labels, given[taken]])
    probe: Any = Discriminant.fit(every, known, count, weights, shrinkage)
    return softmax(probe.logits(others))

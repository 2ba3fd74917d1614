"""Task: give a text (or a pair of texts) one label of a list, or any number of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import DataError, unknown
from trunkline.model.heads.pooling import PAIRS, POOLINGS, pooled_head, read_as
from trunkline.model.tokenizer import texts_of
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc", "roc_auc", "ece")
"""The first is what early stopping watches unless told otherwise."""
THRESHOLD = 0.5
"""A label of a multi-label text is given from this probability on; the metrics count with the same."""


@dataclass(frozen=True)
class TaskSpec(Spec):
    """class_weights: "none", or "balanced" (N / (K x rows of the class), at most 10).

    label_smoothing: share of the target spread evenly; none: 0.1 with one label a text, 0 with several. Source: Szegedy et al. 2016, section 7.
    pairs: how two texts are read: "together" in one pass (a cross-encoder), "apart" one by one and then compared (a bi-encoder, whose texts are
    stored once each), or "auto": whichever the search for a depth finds better; where a depth is given, apart at 0 and together above.
    focal_gamma: 0 is plain cross-entropy. Source: Lin et al. 2017 (focal loss), equation 4.
    """

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "multi" if self.multi_label else "single"

    task: str = "classify"
    multi_label: bool = False
    class_weights: str = "none"
    label_smoothing: float | None = None
    focal_gamma: float = 0.0
    pairs: str = "auto"
    dropout: float = 0.1
    labels: tuple[str, ...] = field(default=(), metadata={"learned": True})
    weights: tuple[float, ...] = field(default=(), metadata={"learned": True})
    temperature: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, POOLINGS)
        one_of("pairs", self.pairs, PAIRS)
        one_of("class_weights", self.class_weights, ("none", "balanced"))
        between("label_smoothing", self.label_smoothing or 0.0, 0.0, 0.9)
        between("focal_gamma", self.focal_gamma, 0.0, 10.0)
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """The labels in sorted order, and the weight of each. Raises: DataError when there is but one."""
        counts = Counter(label for row in rows for label in _labels(row))
        if len(counts) < 2:
            raise DataError(
                f"{rows.source}: the training rows have {len(counts)} label(s): {sorted(counts)}. A classifier needs two or more."
            )
        labels = tuple(sorted(counts))
        share = {label: len(rows) / (len(labels) * counts[label]) for label in labels}
        weights = tuple(min(10.0, share[label]) for label in labels) if self.class_weights == "balanced" else ()
        multi = self.multi_label or any(isinstance(row["label"], list | tuple) for row in rows)
        smoothing = self.label_smoothing if self.label_smoothing is not None else 0.0 if multi else 0.1
        pairs = read_as(self.pairs, rows)
        return {"labels": labels, "weights": weights, "multi_label": multi, "label_smoothing": smoothing, "pairs": pairs}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """One text or pair -> tokens and target: a label id, or a 0/1 vector (K,) float32; None for a row without a label.

    Raises: DataError for a label that training did not have.
    """
    tokens, was_cut = texts_of(row, tokenizer, spec)
    if row.get("label") is None:
        return Item(tokens, None, was_cut)
    for label in _labels(row):
        if label not in spec.labels:
            raise unknown("label", label, spec.labels, DataError)
    if spec.multi_label:
        return Item(tokens, np.isin(spec.labels, _labels(row)).astype(np.float32), was_cut)
    return Item(tokens, spec.labels.index(row["label"]), was_cut)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Pooling and a linear layer: hidden (S, T, D) -> logits (B, K)."""
    return pooled_head(width, len(spec.labels), spec, spec.dropout)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the items of cross-entropy (binary, summed over labels and divided by K, when multi-label).

    Class weights multiply an item's loss; the mean divides by the number of items, not by the weights,
    so that a batch gives the same gradient whole or in parts.
    """
    spec, logits, targets = batch.spec, out.logits.float(), batch.targets
    smoothing = spec.label_smoothing or 0.0
    weights = torch.tensor(spec.weights, device=logits.device) if spec.weights else None
    if spec.multi_label:
        smooth = targets * (1 - smoothing) + smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        right = torch.where(targets > 0.5, logits.sigmoid(), 1 - logits.sigmoid())
        each = each * (1 - right) ** spec.focal_gamma if spec.focal_gamma else each
        return (each * weights if weights is not None else each).mean()
    each = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    if spec.focal_gamma:
        each = each * (1 - logits.softmax(1).gather(1, targets[:, None])[:, 0]) ** spec.focal_gamma
    return (each * weights[targets] if weights is not None else each).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The label(s) of each item with calibrated probabilities (K,) in the order of spec.labels."""
    logits = out.logits.float() / spec.temperature
    scores = (logits.sigmoid() if spec.multi_label else logits.softmax(-1)).cpu().numpy()
    if spec.multi_label:
        return [_several(row, spec.labels) for row in scores]
    return [Answer(spec.labels[best], row, float(row[best])) for row, best in zip(scores, scores.argmax(1).tolist(), strict=True)]


def _several(row: np.ndarray, labels: Sequence[str]) -> Answer:
    """Every label that is likely enough, and how likely it is that all of them are right."""
    sure = math.prod(float(p) if p >= THRESHOLD else 1 - float(p) for p in row)
    return Answer([label for label, p in zip(labels, row) if p >= THRESHOLD], row, sure)


def _labels(row: Row) -> list[str]:
    label = row["label"]
    return list(label) if isinstance(label, list | tuple) else [label]

"""Task: give a text (or a pair of texts) a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import DataError
from trunkline.model.heads.pooling import PAIRS, POOLINGS, pooled_head, read_as
from trunkline.model.tokenizer import texts_of
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("pearson", "spearman", "mse", "rmse", "mae", "r2")


@dataclass(frozen=True)
class TaskSpec(Spec):
    """loss: "mse", or "huber" with its corner at one standard deviation of the target. Source: Huber 1964.

    pairs: how two texts are read, as in classify
    """

    kind: ClassVar[str] = "number"
    task: str = "regress"
    loss: str = "mse"
    pairs: str = "auto"
    dropout: float = 0.1
    mean: float = field(default=0.0, metadata={"learned": True})
    std: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, POOLINGS)
        one_of("loss", self.loss, ("mse", "huber"))
        one_of("pairs", self.pairs, PAIRS)
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Mean and standard deviation of the target: the branch learns the standardised number."""
        values = np.array([row["label"] for row in rows], dtype=np.float64)
        if len(values) < 2 or values.std() == 0:
            raise DataError(f"{rows.source}: the target is the same number in all {len(values)} training rows. There is nothing to learn.")
        return {"mean": float(values.mean()), "std": float(values.std()), "pairs": read_as(self.pairs, rows)}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """One text or pair -> tokens and target (a float), or None for a row without one."""
    tokens, was_cut = texts_of(row, tokenizer, spec)
    return Item(tokens, None if row.get("label") is None else float(row["label"]), was_cut)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Pooling and a linear layer: hidden (S, T, D) -> logits (B, 1), in standard deviations from the mean."""
    return pooled_head(width, 1, spec, spec.dropout)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean squared (or Huber) error of the standardised target."""
    spec, predicted = batch.spec, out.logits.float()[:, 0]
    wanted = (batch.targets.float() - spec.mean) / spec.std
    return functional.huber_loss(predicted, wanted) if spec.loss == "huber" else functional.mse_loss(predicted, wanted)


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The number for each item, in the unit of the target."""
    values = out.logits.double()[:, 0].cpu().numpy() * spec.std + spec.mean
    return [Answer(float(v), np.float64(v), None) for v in values]

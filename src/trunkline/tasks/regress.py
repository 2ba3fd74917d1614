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
from trunkline.model.heads.pooling import POOLINGS, PooledHead
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("pearson", "spearman", "mse", "rmse", "mae", "r2")


@dataclass(frozen=True)
class TaskSpec(Spec):
    """loss: "mse", or "huber" with its corner at one standard deviation of the target. Source: Huber 1964."""

    kind: ClassVar[str] = "number"
    task: str = "regress"
    loss: str = "mse"
    dropout: float = 0.1
    mean: float = field(default=0.0, metadata={"learned": True})
    std: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, POOLINGS)
        one_of("loss", self.loss, ("mse", "huber"))
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Mean and standard deviation of the target: the branch learns the standardised number."""
        values = np.array([row["label"] for row in rows], dtype=np.float64)
        if len(values) < 2 or values.std() == 0:
            raise DataError(f"{rows.source}: the target is the same number in all {len(values)} training rows. There is nothing to learn.")
        return {"mean": float(values.mean()), "std": float(values.std())}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """One text or pair -> tokens and target (a float), or None for a row without one."""
    tokens, was_cut = tokenizer.encode(row["text"], row.get("text_b"), max_tokens=spec.max_tokens)
    return Item((tokens,), None if row.get("label") is None else float(row["label"]), was_cut)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Pooling and a linear layer: hidden (S, T, D) -> logits (B, 1), in standard deviations from the mean."""
    return PooledHead(width, 1, spec.pooling, spec.dropout)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean squared (or Huber) error of the standardised target."""
    spec, predicted = batch.spec, out.logits.float()[:, 0]
    wanted = (batch.targets.float() - spec.mean) / spec.std
    return functional.huber_loss(predicted, wanted) if spec.loss == "huber" else functional.mse_loss(predicted, wanted)


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The number for each item, in the unit of the target."""
    values = out.logits.double()[:, 0].cpu().numpy() * spec.std + spec.mean
    return [Answer(float(v), np.float64(v), None) for v in values]

"""From token states to one vector a text, and the head on it that most tasks need."""

from __future__ import annotations

import torch
from torch import nn

from trunkline.errors import DataError
from trunkline.types import Batch, Rows, Spec

POOLINGS = ("mean", "first", "last", "attention")
ANSWER = "answer"
"""The mean of the tokens from where `Item.about` says that an answer begins; a pooling of rewards alone."""
PAIRS = ("auto", "together", "apart")


class Pooling(nn.Module):
    """hidden (S, T, D), mask (S, T) bool -> (S, D): the mean of the real tokens, the first, the last, or a learned weighting.

    Source: attention pooling with one learned query, Yang et al. 2016 (NAACL), equations 5 to 7 without the extra layer.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.query = nn.Parameter(torch.zeros(width)) if kind == "attention" else None

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.kind == "first":
            return hidden[:, 0]
        if self.kind == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
        if self.query is not None:
            weight = (hidden @ self.query).masked_fill(~mask, float("-inf")).softmax(1)
        else:
            weight = mask / mask.sum(1, keepdim=True)
        return torch.einsum("st,std->sd", weight.to(hidden.dtype), hidden.masked_fill(~mask[..., None], 0.0))


class PooledHead(nn.Module):
    """hidden (S, T, D), batch.mask (S, T) -> logits (S, outputs): pooling, dropout, one linear layer."""

    widths = 1
    """So many times the width of the states goes into the linear layer."""

    def __init__(self, width: int, outputs: int, pooling: str, dropout: float) -> None:
        super().__init__()
        self.pooling = Pooling(width, pooling)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.widths * width, outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.linear(self.dropout(self.pooling(hidden, batch.mask)))


class AnswerHead(PooledHead):
    """hidden (S, T, D) -> logits (S, outputs): the mean of the answer's tokens, dropout, one linear layer."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__(width, outputs, "mean", dropout)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.linear(self.dropout(self.pooling(hidden, of_answers(batch))))


def of_answers(batch: Batch) -> torch.Tensor:
    """(S, T) bool: the real tokens from where each answer begins; all of them where nothing says so."""
    starts = [start for about in batch.abouts for start in about or ()]
    if not starts:
        return batch.mask
    if len(starts) != len(batch.mask):
        raise ValueError(f"{len(batch.mask)} texts, and {len(starts)} places where an answer begins")
    begin = torch.tensor(starts, device=batch.mask.device)[:, None]
    return batch.mask & (torch.arange(batch.mask.shape[1], device=batch.mask.device) >= begin)


class PairHead(PooledHead):
    """hidden (2B, T, D), the two texts of a pair behind each other -> logits (B, outputs): a linear layer on what both are and where they differ."""

    widths = 4

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        pooled = self.pooling(hidden, batch.mask)
        return self.linear(self.dropout(compared(pooled[0::2], pooled[1::2])))


def compared(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B, D) of the first and of the second texts -> (B, 4D): u, v, |u - v| and u * v, each vector made as long as the root of D.

    Source: Conneau et al. 2017 (InferSent), section 3.1; Reimers and Gurevych 2019 (Sentence-BERT), section 3.
    """
    u, v = (nn.functional.normalize(vectors, dim=1) * vectors.shape[1] ** 0.5 for vectors in (one, other))
    return torch.cat([u, v, (u - v).abs(), u * v], dim=1)


def read_as(told: str, rows: Rows) -> str:
    """How pairs are read, as far as the rows say: those of one text are read together. Raises: DataError where they were to be read apart."""
    paired = any(row.get("text_b") for row in rows)
    if told == "apart" and not paired:
        raise DataError(
            f"{rows.source}: pairs='apart': the rows have one text each. Give the second one (text_b=COLUMN), or leave pairs out."
        )
    return told if paired else "together"


def pooled_head(width: int, outputs: int, spec: Spec, dropout: float) -> PooledHead:
    """The head of a task that gives each text, or each pair of texts, some numbers."""
    return (PairHead if spec.apart else PooledHead)(width, outputs, spec.pooling, dropout)

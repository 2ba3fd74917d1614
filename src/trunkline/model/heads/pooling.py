"""From token states to one vector a text, and the head on it that most tasks need."""

from __future__ import annotations

import torch
from torch import nn

from trunkline.types import Batch

POOLINGS = ("mean", "first", "last", "attention")


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

    def __init__(self, width: int, outputs: int, pooling: str, dropout: float) -> None:
        super().__init__()
        self.pooling = Pooling(width, pooling)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.linear(self.dropout(self.pooling(hidden, batch.mask)))

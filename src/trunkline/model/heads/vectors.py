"""The head of tasks that compare texts: from token states to one vector of length 1 a text, which starts as the model has it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from trunkline.model.heads.pooling import Pooling


class Turned(nn.Module):
    """x + s A x with A = 0 to begin with: (N, D) -> (N, D). s = 1 / sqrt(D) keeps a first step of Adam from turning everything."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.step = width**-0.5
        nn.init.zeros_(self.linear.weight)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors + self.step * self.linear(vectors)


class Vectors(nn.Module):
    """hidden (S, T, D), mask (S, T) -> (S, d) float32 of length 1: pooling, dropout, a linear layer.

    width: d; where it is D (or 0) the layer starts as the identity, so that an untuned branch compares the pooled states as they are;
    None: no layer
    """

    def __init__(self, states: int, pooling: str, width: int | None, dropout: float) -> None:
        super().__init__()
        self.pooling = Pooling(states, pooling)
        self.dropout = nn.Dropout(dropout)
        self.projection: nn.Module = nn.Identity()
        if width in (0, states):
            self.projection = Turned(states)
        elif width is not None:
            self.projection = nn.Linear(states, width, bias=False)
            nn.init.orthogonal_(self.projection.weight)  # cosines stay about what they are

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.projection(self.dropout(self.pooling(hidden, mask))).float(), dim=-1)

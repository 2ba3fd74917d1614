"""Batches for a model pass: sequences sorted by length, as many as fit a token budget, padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trunkline.types import Tokens

TOKENS_PER_BATCH = 1024
"""So few that what a layer leaves for the next one stays in the processor's cache; with 4,096 a pass takes up to 1.5 times as long."""


def by_length(lengths: Sequence[int], max_tokens: int = TOKENS_PER_BATCH) -> list[np.ndarray]:
    """Index arrays, shortest sequences first, each with count x longest <= `max_tokens` (one sequence at the least).

    A batch that is half full ends where a longer sequence comes: then most batches have no padding and need no mask.
    The same lengths give the same batches. Ties keep their order.

    >>> [batch.tolist() for batch in by_length([3, 1, 2], max_tokens=4)]
    [[1, 2], [0]]
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for at, index in enumerate(order):
        longer, count = lengths[index] > lengths[order[at - 1]], at - start
        half_full = 2 * count * lengths[order[at - 1]] >= max_tokens
        if count and ((longer and half_full) or (count + 1) * lengths[index] > max_tokens):
            batches.append(order[start:at])
            start = at
    return [*batches, order[start:]] if len(order) else []


def pad(tokens: Sequence[Tokens], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """ids (S, T) int64 padded on the right with `pad_id`, mask (S, T) bool (True = real), types (S, T) int64 or None."""
    longest = max(len(t) for t in tokens)
    ids = np.full((len(tokens), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(tokens), longest), dtype=bool)
    types = np.zeros((len(tokens), longest), dtype=np.int64) if any(t.types is not None for t in tokens) else None
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = one.ids
        mask[row, : len(one)] = True
        if types is not None and one.types is not None:
            types[row, : len(one)] = one.types
    return torch.from_numpy(ids), torch.from_numpy(mask), None if types is None else torch.from_numpy(types)

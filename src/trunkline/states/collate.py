"""Items to one padded batch: their hidden states from a store (or a live trunk), or their token ids at depth "all"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from trunkline.model.batches import pad
from trunkline.types import IGNORE, Batch, Item, Spec, Tokens


class Source(Protocol):
    """Where hidden states come from: `States` (stored) and `LiveStates` (computed) have this face."""

    def read(self, tokens: Sequence[Tokens]) -> list[np.ndarray]: ...


def collate(items: Sequence[Item], source: Source | None, spec: Spec, pad_id: int = 0) -> Batch:
    """A batch of the items' states, padded with zeros on the right; without a source, of their token ids."""
    tokens = [t for item in items for t in item.tokens]
    owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor([len(item.tokens) for item in items]))
    abouts = [item.about for item in items]
    if source is None:
        ids, mask, types = pad(tokens, pad_id)
        return Batch(None, mask, owner, spec, ids=ids, types=types, targets=_targets(items), abouts=abouts)
    states = source.read(tokens)
    longest = max(len(s) for s in states)
    hidden = np.zeros((len(states), longest, states[0].shape[1]), dtype=np.float32)
    mask_array = np.zeros((len(states), longest), dtype=bool)
    for row, one in enumerate(states):
        hidden[row, : len(one)] = one
        mask_array[row, : len(one)] = True
    return Batch(torch.from_numpy(hidden), torch.from_numpy(mask_array), owner, spec, targets=_targets(items), abouts=abouts)


def _targets(items: Sequence[Item]) -> torch.Tensor | None:
    """(B, ...) of the items' targets, or None where one has none. Those of differing shapes are filled up with IGNORE on every axis."""
    if any(item.target is None for item in items):
        return None
    targets = [np.asarray(item.target) for item in items]
    if len({target.shape for target in targets}) == 1:
        return torch.as_tensor(np.stack(targets))
    shape = np.max([target.shape for target in targets], axis=0)
    filled = np.full((len(targets), *shape), IGNORE, dtype=np.int64)
    for row, target in zip(filled, targets):
        row[tuple(map(slice, target.shape))] = target
    return torch.from_numpy(filled)

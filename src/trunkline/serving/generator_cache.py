"""Keys and values of the rows that are written together, in one block a layer; and of prompts that may come again.

The rows end at the same column, so what is new stands behind it for all of them; on the left each has as much padding as it needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

Kept = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one row, each (1, H, T, D), for each layer."""
_ROOM = 128
_SHORTEST = 16
"""A shorter beginning is not worth looking for."""


class Block(DynamicLayer):
    """One layer's keys and values with room behind them: a new token is written in place, where the library copies all that is there."""

    keys: torch.Tensor
    values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._put(key_states[..., :0, :], value_states[..., :0, :])

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self._all[0].shape[-2]:
            self._put(self.keys, self.values, end - begin)
        for whole, new in zip(self._all, (key_states, value_states)):
            whole[..., begin:end, :] = new
        self.keys, self.values = (whole[..., :end, :] for whole in self._all)
        return self.keys, self.values

    def take(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold these (B, H, T, D) from now on."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._put(keys, values)

    def _put(self, keys: torch.Tensor, values: torch.Tensor, more: int = 0) -> None:
        size = keys.shape[-2]
        self._all = tuple(one.new_empty((*one.shape[:2], size + more + _ROOM, one.shape[-1])) for one in (keys, values))
        for whole, old in zip(self._all, (keys, values)):
            whole[..., :size, :] = old
        self.keys, self.values = (whole[..., :size, :] for whole in self._all)


def fresh(kept: Kept | None = None) -> Cache:
    """A cache of such blocks: empty, or that begins with what is kept."""
    cache = Cache(layer_class_to_replicate=Block)
    for keys, values in kept or ():
        block = Block()
        block.take(keys, values)
        cache.layers.append(block)
    return cache


def content(cache: Cache) -> Kept:
    """What a cache holds, without the room behind it; the same memory."""
    return [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, Block)]


def joined(rows: Kept | None, before: int, row: Kept, lengths: Sequence[int]) -> Kept:
    """One more row beside those that are there: they end at the same column. before: columns of the rows; lengths: tokens of each, the new last."""
    size = max(lengths)
    made: Kept = []
    for at, (keys, values) in enumerate(row):
        old = rows[at] if rows else (None, None)
        made.append(tuple(_beside(one, two, before, size) for one, two in zip(old, (keys, values))))  # type: ignore[arg-type]
    return made


def without(rows: Kept, stay: Sequence[int], lengths: Sequence[int]) -> Kept:
    """Only these rows, with no more columns than the longest of them needs. lengths: tokens of each that stays."""
    index, size = torch.tensor(stay), max(lengths)
    return [(keys[..., -size:, :][index.to(keys.device)], values[..., -size:, :][index.to(values.device)]) for keys, values in rows]


def _beside(old: torch.Tensor | None, new: torch.Tensor, before: int, size: int) -> torch.Tensor:
    count = 0 if old is None else len(old)
    made = new.new_zeros((count + 1, new.shape[1], size, new.shape[-1]))
    if old is not None:
        kept = min(before, size)
        made[:count, :, size - kept :] = old[..., -kept:, :]
    made[count, :, size - new.shape[-2] :] = new[0]
    return made


class Prompts:
    """Keys and values of the last prompts, by whose they are: a prompt that begins as an earlier one of the same tenant goes on from there.

    most_bytes: what they may take together; the ones that were used longest ago go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, bytes], tuple[np.ndarray, Kept, int]] = OrderedDict()

    def find(self, tenant: str, ids: np.ndarray) -> Kept | None:
        """The longest beginning of these ids that is kept, at least one token short of them all, or None."""
        best, found = _SHORTEST - 1, None
        for key, (old, _, _) in self._kept.items():
            if key[0] == tenant:
                size = min(len(old), len(ids) - 1)
                differ = np.flatnonzero(old[:size] != ids[:size])
                same = int(differ[0]) if len(differ) else size
                if same > best:
                    best, found = same, key
        if found is None:
            return None
        self._kept.move_to_end(found)
        return [(keys[..., :best, :], values[..., :best, :]) for keys, values in self._kept[found][1]]

    def keep(self, tenant: str, ids: np.ndarray, kept: Kept) -> None:
        """Keep a prompt that was read, unless it is too large."""
        key = tenant, ids.tobytes()
        size = sum(one.numel() * one.element_size() for pair in kept for one in pair)
        if key in self._kept or size > self.most_bytes or len(ids) < _SHORTEST:
            return
        self._kept[key] = ids.copy(), [(keys.clone(), values.clone()) for keys, values in kept], size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1][2]

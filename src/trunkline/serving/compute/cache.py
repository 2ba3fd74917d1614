"""States of texts that were seen before, within a budget of bytes. The key has the tenant: nobody learns from times what others sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

_LARGEST_SHARE = 16


class StatesCache:
    """Least recently used texts leave first. Not for several threads at once: the engine's compute thread alone uses it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> torch.Tensor | None:
        """The states (T, D) under a key, or None."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, states: torch.Tensor) -> None:
        """Keep a copy of (T, D), unless it would take a large part of all there is."""
        size = states.numel() * states.element_size()
        if size * _LARGEST_SHARE > self.max_bytes or key in self._kept:
            return
        self._kept[key] = states.clone()
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.numel() * oldest.element_size()

"""`HeldStates`: the states of some texts in memory, with the face of `States`. For what reads them many times: a search over cuts, rollouts.

Those of a higher cut are computed from those of a lower one, so the text goes through the trunk once for all cuts that are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from trunkline.model.batches import by_length
from trunkline.states.collate import Source
from trunkline.states.quantise import as_stored
from trunkline.types import Tokens

Lift = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


class HeldStates:
    """States in memory, as float16 where the store they stand for is rounded too (float16, int8)."""

    def __init__(self, tokens: Sequence[Tokens], source: Source, lift: Lift, dtype: str) -> None:
        self._held: dict[bytes, np.ndarray] = {}
        for indices in by_length([len(one) for one in tokens]):
            some = [tokens[i] for i in indices]
            hidden, mask = _padded(source.read(some))
            lifted = lift(hidden, None if bool(mask.all()) else mask).float().cpu().numpy()
            for one, states in zip(some, lifted):
                rounded = as_stored(states[: len(one)], dtype)
                self._held[one.key] = rounded if dtype == "float32" else rounded.astype(np.float16)

    @classmethod
    def of(cls, states: Mapping[bytes, np.ndarray]) -> HeldStates:
        """States that are there already: (T, D) float32 by the key of their tokens."""
        held = object.__new__(cls)
        held._held = dict(states)
        return held

    def read(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """The states of each of `tokens`: a list of (T, D) float32. Raises: KeyError for a text that is not held."""
        return [self._held[one.key].astype(np.float32, copy=False) for one in tokens]


def _padded(states: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden (S, T, D) float32 and mask (S, T) bool."""
    lengths = torch.tensor([len(one) for one in states])
    hidden = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in states], batch_first=True)
    return hidden, torch.arange(hidden.shape[1])[None] < lengths[:, None]

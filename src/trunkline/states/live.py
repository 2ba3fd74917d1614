"""`LiveStates`: the face of `States`, with nothing stored: the trunk runs when it is asked. For where storing does not help.

Dynamic masking, fresh augmentation, rollouts and single requests read each text once, so a store would only cost. What comes
out is rounded as a store of the same dtype would round it: a branch may train on one and serve on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from trunkline.errors import StatesError
from trunkline.model.batches import TOKENS_PER_BATCH, by_length, pad
from trunkline.states.quantise import as_stored, pool
from trunkline.types import Tokens


class Trunk(Protocol):
    """What the states need of a trunk. Called with ids (S, T), mask (S, T) or None, types (S, T) or None: (S, T, D) float32."""

    @property
    def id(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def __call__(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor: ...


def run_trunk(trunk: Trunk, tokens: Sequence[Tokens]) -> list[np.ndarray]:
    """One pass of the trunk over one batch: the states (T, D) float32 of each text, the padding cut off, not rounded.

    Raises: StatesError for a text without tokens.
    """
    if not all(len(one) for one in tokens):
        raise StatesError("A text has no tokens, so it has no states. Leave empty texts out, or let the tokenizer add its special tokens.")
    ids, mask, types = pad(tokens, trunk.pad_id)
    needed = None if bool(mask.all()) else mask.to(trunk.device)
    with torch.no_grad():
        hidden = trunk(ids.to(trunk.device), needed, None if types is None else types.to(trunk.device))
    states = hidden.float().cpu().numpy()
    return [states[row, : len(one)] for row, one in enumerate(tokens)]


class LiveStates:
    """`read`, `pooled` and `missing` as `States` has them, computed by the trunk at every call."""

    def __init__(self, trunk: Trunk, *, dtype: str = "float32", max_tokens: int = TOKENS_PER_BATCH) -> None:
        self.trunk_id, self.width, self.dtype = trunk.id, trunk.width, dtype
        self._trunk, self._max_tokens = trunk, max_tokens

    def missing(self, tokens: Sequence[Tokens]) -> list[Tokens]:
        """Nothing is ever missing."""
        return []

    def read(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """The states of each of `tokens`: a list of (T, D) float32, rounded as a store would."""
        found: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(tokens)
        for batch in by_length([len(one) for one in tokens], self._max_tokens):
            for at, states in zip(batch, run_trunk(self._trunk, [tokens[at] for at in batch]), strict=True):
                found[at] = as_stored(states, self.dtype)
        return found

    def pooled(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """(N, D) float32: the mean over the tokens of each of `tokens`, as stored."""
        means = [pool(states) for states in self.read(tokens)]
        return np.stack(means) if means else np.empty((0, self.width), dtype=np.float32)

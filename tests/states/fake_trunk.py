"""A trunk of a few hundred numbers, and random texts for it. Like a real one, a token's state depends on the tokens around it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trunkline.types import Tokens

VOCABULARY = 200


class FakeTrunk(torch.nn.Module):
    """Embeddings, positions, and the mean of the real tokens mixed in. `calls` keeps the shape and mask of every pass."""

    def __init__(self, width: int = 16, seed: int = 0, factor: float = 1.0, before: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.id, self.width, self.pad_id = f"{seed:064x}", width, 0
        self.factor, self.before = factor, before
        self.calls: list[tuple[tuple[int, ...], bool]] = []
        random = torch.Generator().manual_seed(seed)
        self.words = torch.randn(VOCABULARY, width, generator=random)
        self.places = torch.randn(256, width, generator=random)
        self.mix = torch.randn(width, width, generator=random) / width**0.5

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor:
        if self.before:
            self.before()
        self.calls.append((tuple(ids.shape), mask is not None))
        hidden = self.words[ids] + self.places[: ids.shape[1]]
        if types is not None:
            hidden = hidden + types[..., None] * 0.5
        weight = torch.ones(ids.shape) if mask is None else mask.float()
        mean = (hidden * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None]
        return self.factor * torch.tanh(hidden + mean @ self.mix)


def random_tokens(count: int, seed: int = 0, longest: int = 20, pairs: bool = False) -> list[Tokens]:
    """`count` different texts of 1 to `longest` tokens; with `pairs`, every second one has segment ids."""
    random = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        ids = random.integers(1, VOCABULARY, random.integers(1, longest + 1)).astype(np.int32)
        types = (np.arange(len(ids)) > len(ids) // 2).astype(np.int8) if pairs and len(found) % 2 else None
        one = Tokens(ids, types)
        found[one.key] = one
    return list(found.values())


def files(folder: Path) -> dict[str, bytes]:
    """All that a store's folder holds, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}

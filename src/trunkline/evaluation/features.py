"""What the untuned model makes of a text: its last hidden states, averaged. The baseline "before", and what neighbours are found by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from trunkline.evaluation.vectors import BLOCK, Vectors
from trunkline.model.backbone import ALL, Backbone, Depth
from trunkline.model.batches import by_length
from trunkline.model.heads.pooling import ANSWER, Pooling, compared, of_answers
from trunkline.model.network import Network
from trunkline.states.collate import Source, collate
from trunkline.types import Batch, Item, Spec


class _Pooled(nn.Module):
    def __init__(self, width: int, pooling: str) -> None:
        super().__init__()
        self.answers = pooling == ANSWER
        self.pooling = Pooling(width, "mean" if self.answers else pooling)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):  # the mean of states that are there already is exact in any precision
            return self.pooling(hidden.float(), of_answers(batch) if self.answers else batch.mask)


class _AsTheyAre(nn.Module):
    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return hidden


@torch.no_grad()
def untuned(
    backbone: Backbone, depth: Depth, items: Sequence[Item], source: Source | None, pooling: str = "mean",
    precision: torch.dtype = torch.float32,
) -> np.ndarray:  # fmt: skip
    """(N, D) float32: the last layer's hidden states of each item's first text, pooled, from the untouched model.

    With a source the pass starts from the states at the cut of `depth`, so only the layers above it are computed.
    precision: what their matrix products are in; bfloat16 is enough for a linear model, and several times as fast where a processor has it.
    """
    network = Network(backbone, depth if source is not None else ALL, _Pooled(backbone.width, pooling)).to(backbone.device).eval()
    found = np.empty((len(items), backbone.width), dtype=np.float32)
    first = [Item(item.tokens[:1], about=item.about[:1] if pooling == ANSWER else None) for item in items]
    for indices in by_length([len(item.tokens[0]) for item in first]):
        batch = collate([first[i] for i in indices], source, Spec(), backbone.tokenizer.pad_id).to(backbone.device)
        with torch.autocast(backbone.device.type, precision, enabled=precision != torch.float32):
            pooled = network(batch).logits
        found[indices] = pooled.float().cpu().numpy()
    return found


def read_by_head(
    backbone: Backbone, depth: Depth, items: Sequence[Item], source: Source | None, spec: Spec, precision: torch.dtype = torch.float32,
    pooling: str = "mean",
) -> Vectors:  # fmt: skip
    """(N, D) float32 as `untuned`; where pairs are read apart (N, 4D): what the two texts are and where they differ."""
    found = Vectors((4 if spec.apart else 1) * backbone.width)
    for start in range(0, len(items), BLOCK):
        some = items[start : start + BLOCK]
        if not spec.apart:
            found.append(untuned(backbone, depth, some, source, pooling, precision))
            continue
        halves = [[Item(item.tokens[at : at + 1]) for item in some] for at in (0, 1)]
        one, other = (torch.from_numpy(untuned(backbone, depth, half, source, pooling, precision)) for half in halves)
        found.append(compared(one, other).numpy())
    return found


def differences(
    backbone: Backbone, depth: Depth, items: Sequence[Item], source: Source | None, pooling: str, precision: torch.dtype = torch.float32
) -> np.ndarray:  # fmt: skip
    """(N, D) float32: what the untouched model makes of each item's first text less what it makes of its second."""
    halves = [
        [replace(item, tokens=item.tokens[at : at + 1], about=item.about and item.about[at : at + 1]) for item in items] for at in (0, 1)
    ]
    one, other = (untuned(backbone, depth, half, source, pooling, precision) for half in halves)
    return one - other


@torch.no_grad()
def word_states(
    backbone: Backbone, depth: Depth, items: Sequence[Item], source: Source | None, at: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each item (W, D) float16: the last layer's hidden states of its first text at these tokens, from the untouched model."""
    network = Network(backbone, depth if source is not None else ALL, _AsTheyAre()).to(backbone.device).eval()
    found: list[np.ndarray] = [np.empty((0, backbone.width), dtype=np.float16)] * len(items)
    first = [Item(item.tokens[:1]) for item in items]
    for indices in by_length([len(item.tokens[0]) for item in first]):
        batch = collate([first[i] for i in indices], source, Spec(), backbone.tokenizer.pad_id).to(backbone.device)
        hidden = network(batch).hidden
        for row, index in enumerate(indices):
            found[index] = hidden[row, torch.from_numpy(at[index]).to(hidden.device)].cpu().numpy().astype(np.float16)
    return found

"""The part of a branch that computes: the layers above the cut and the task's head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trunkline.model.backbone import ALL, Backbone, Depth
from trunkline.types import Batch, Output


class Network(nn.Module):
    """Hidden states at the cut in, logits out.

    upper: the layers above the cut (a `transformers` stack); head: called with hidden (S, T, D) and the batch, gives logits, or logits
    and a dict of further tensors.
    A new network is frozen but for its head; a method's `graft` says what else is trained.
    """

    def __init__(self, backbone: Backbone, depth: Depth, head: nn.Module) -> None:
        super().__init__()
        self.depth = backbone.check_depth(depth)
        self.upper = backbone.upper(depth)
        self.head = head
        self._norm = backbone.family.norm
        self._borrowed = () if depth == ALL else backbone.family.borrowed
        head.requires_grad_(True)

    def forward(self, batch: Batch) -> Output:
        """batch.hidden (S, T, D), or batch.ids (S, T) at depth "all" -> logits and the last hidden states (S, T, D)."""
        hidden = self._hidden(batch)
        found = self.head(hidden, batch)
        logits, extra = found if isinstance(found, tuple) else (found, {})
        return Output(logits, hidden, extra)

    def _hidden(self, batch: Batch) -> torch.Tensor:
        mask = None if bool(batch.mask.all()) else batch.mask.long()
        if self.depth == ALL:
            given = {"input_ids": batch.ids, "attention_mask": mask}
            if batch.types is not None:
                given["token_type_ids"] = batch.types
            return self.upper(**given).last_hidden_state
        if batch.hidden is None:
            raise ValueError("a branch with a cut reads hidden states, and the batch has none")
        if self.depth == 0:
            return self.upper.get_submodule(self._norm)(batch.hidden) if self._norm else batch.hidden
        return self.upper(inputs_embeds=batch.hidden, attention_mask=mask).last_hidden_state

    def train(self, mode: bool = True) -> Network:
        """As in torch, but layers of which nothing is trained stay in eval mode: a probe reads the model as it is, without dropout."""
        super().train(mode)
        if not any(p.requires_grad for p in self.upper.parameters()):
            self.upper.eval()
        return self

    def learned(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name: what a branch saves, and all that training changes."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def own(network: Network, wanted: Callable[[str], bool]) -> int:
    """Replace the shared parameters above the cut whose name is `wanted` by trainable copies; says how many. Tied ones stay tied."""
    copies: dict[int, nn.Parameter] = {}
    for part_name, part in network.upper.named_modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            full_name = f"{part_name}.{name}"
            if wanted(full_name) and not any(b in full_name for b in network._borrowed):
                fresh = copies.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                setattr(part, name, fresh)
    return len(copies)

"""The part of a branch that computes: the layers above the cut and the task's head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from trunkline.model.backbone import ALL, Backbone, Depth
from trunkline.model.guide import Guide
from trunkline.model.precision import ROUNDS_INPUTS, each_length, lower
from trunkline.model.stacks import shared
from trunkline.model.writing.generation import Stream, Writer, left_padded
from trunkline.model.writing.language import LanguageHead
from trunkline.types import Batch, Output


class Network(nn.Module):
    """Hidden states at the cut in, logits out.

    upper: the layers above the cut (a `transformers` stack); head: called with hidden (S, T, D) and the batch, gives logits, or logits
    and a dict of further tensors; below: what is frozen between the stored states and those layers (decoder.py), or None.
    A new network is frozen but for its head; a method's `graft` says what else is trained.
    """

    def __init__(self, backbone: Backbone, depth: Depth, head: nn.Module) -> None:
        super().__init__()
        self.depth = backbone.check_depth(depth)
        self.upper = backbone.upper(depth)
        self.below = backbone.below(self.depth)
        self.head = head
        self.guide = Guide()  # what a method has to say at each step of training
        self.precision = "float32"  # of the layers above the cut
        self._backbone = backbone
        self._norm = backbone.family.norm
        self._borrowed = () if depth == ALL else backbone.family.borrowed
        head.requires_grad_(True)
        if isinstance(head, LanguageHead):
            head.tie(backbone)

    @property
    def backbone(self) -> Backbone:
        """What the layers above the cut were taken from."""
        return self._backbone

    def forward(self, batch: Batch) -> Output:
        """batch.hidden (S, T, D), or batch.ids (S, T) at depth "all" -> logits and the last hidden states (S, T, D).

        Where a text is to be written (a language head, no targets) nothing is run yet: `Output.generate` does.
        """
        if isinstance(self.head, LanguageHead) and batch.targets is None:
            nothing = torch.empty(0, device=batch.mask.device)
            return Output(nothing, nothing, generate=partial(self.write, batch))
        hidden = self.hidden(batch)
        self._follow_embeddings()
        found = self.head(hidden, batch)
        logits, extra = found if isinstance(found, tuple) else (found, {})
        return Output(logits, hidden, extra)

    def write(self, batch: Batch, stream: Stream | None = None) -> list[str]:
        """A text for each item of the batch, as batch.spec (a `WritingSpec`) says; nothing is run before this is called.

        A decoder goes on from the prompt, whose ids are the item's `about`: its cache needs the layers below the cut too, so the whole
        model runs. An encoder-decoder begins with the states at the cut.
        """
        return self.writer().write(self.begun(batch), batch.spec, stream)

    def writer(self) -> Writer:
        """The library's model with this network's layers in it, over the same tensors."""
        head: Any = self.head
        self._follow_embeddings()
        model = head.model.around(self._backbone.whole(self.upper, self.depth)).eval()
        start = None if self.below is None else self.below.start
        return Writer(model, self._backbone.tokenizer, self._backbone.ends, start, self._backbone.max_tokens)

    def begun(self, batch: Batch) -> dict[str, Any]:
        """What a writer goes on from: the prompts of the batch, or of an encoder-decoder its encoded texts."""
        if self.below is None:
            return left_padded(batch.abouts, self._backbone.tokenizer.pad_id, batch.mask.device)
        with torch.no_grad():
            encoded = BaseModelOutput(last_hidden_state=self.below.encoded(batch, self.upper))
        return {"encoder_outputs": encoded, "attention_mask": batch.mask.long()}

    def _follow_embeddings(self) -> None:
        """Where the whole model trains, an output layer that is tied to the embeddings follows them."""
        if self.depth == ALL and isinstance(self.head, LanguageHead) and self.head.model is not None:
            stack: Any = self.upper if self.below is None else self.upper["decoder"]  # type: ignore[index]
            self.head.model.use(stack.get_input_embeddings().weight)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """What the head reads: the last hidden states (S, T, D); of an encoder-decoder the decoder's, (S, U, D)."""
        if self.below is not None:
            return self.below(batch, self.upper)
        mask = None if bool(batch.mask.all()) else batch.mask
        if self.depth == ALL:
            given = {"input_ids": batch.ids, "attention_mask": None if mask is None else mask.long()}
            if batch.types is not None:
                given["token_type_ids"] = batch.types
            return self.upper(**given).last_hidden_state
        if batch.hidden is None:
            raise ValueError("a branch with a cut reads hidden states, and the batch has none")
        if self.depth == 0:
            return self.upper.get_submodule(self._norm)(batch.hidden) if self._norm else batch.hidden
        return each_length(self._lifted, mask, batch.hidden) if self.precision in ROUNDS_INPUTS else self._lifted(mask, batch.hidden)

    def _lifted(self, mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
        return self.upper(inputs_embeds=hidden, attention_mask=None if mask is None else mask.long()).last_hidden_state

    def train(self, mode: bool = True) -> Network:
        """As in torch, but layers of which nothing is trained stay in eval mode: a probe reads the model as it is, without dropout."""
        super().train(mode)
        if not any(p.requires_grad for p in self.upper.parameters()):
            self.upper.eval()
        return self

    def under(self, head: nn.Module) -> Network:
        """The same layers, over the same tensors, under another head."""
        other = copy.copy(self)
        other._modules = {**self._modules, "head": head}
        return other

    def rounded(self, precision: str) -> Network:
        """The same network, to answer with: its layers, which have to be plain ones above a cut, compute in a precision of a trunk (precision.py)."""
        other = self.under(self.head)
        other._modules["upper"] = lower(copy.deepcopy(self.upper, shared(self.upper)), precision)
        other.precision = precision
        return other.eval()

    def learned(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name: what a branch saves, and all that training changes."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class Heads(nn.Module):
    """Heads of several tasks on the same layers: each batch says by its `part` which of them reads it."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(heads)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> Any:
        return self.each[batch.part](hidden, batch)


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

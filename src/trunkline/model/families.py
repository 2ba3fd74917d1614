"""How each family of `transformers` models is cut: one table, one entry a family.

A stack is cut by shortening its layer list and replacing what stands before the first layer by a pass-through; masks,
rotary positions, attention kernels and the cache stay the library's. What an entry says is only where things are.
To add a family: an entry here, and a tiny configuration in tests/model/test_families.py; the contract test does the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from trunkline.errors import ModelError, unknown


@dataclass(frozen=True)
class Family:
    """Where the parts of a base model are; paths are dotted names below the stack.

    kind: "encoder", "decoder" or "encoder-decoder" (of which the encoder is the stack that is cut)
    stack: path from the base model to the stack that is cut ("" = the model itself); decoder: to the other half, if there is one,
        whose parts have the same names
    layers: the list of layers; norm: what follows the last layer, or None
    passed: modules before the first layer that a branch replaces by one that returns `inputs_embeds`
    zeroed: modules whose result is added to the hidden states before the first layer
    skipped: modules that would change the hidden states before the first layer
    quirk: called with (all layers, the branch's stack, cut) for what no path can say
    segments: whether segment ids are read; whole_only: layers share their weights, so only depth 0 and "all" exist
    reserved: positions that the position table keeps for itself
    borrowed: name parts of tensors that every layer reads, those of the trunk too: a branch never trains them
    """

    kind: str
    layers: str
    norm: str | None = None
    stack: str = ""
    decoder: str = ""
    passed: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    quirk: Callable[[nn.ModuleList, nn.Module, int], None] | None = None
    segments: bool = False
    whole_only: bool = False
    reserved: int = 0
    borrowed: tuple[str, ...] = ()


def _carry_position_bias(layers: nn.ModuleList, stack: nn.Module, cut: int) -> None:
    """T5 computes its relative position bias in the first block and hands it upward: the new first block gets the table too."""
    source, target = layers[0].layer[0].SelfAttention, stack.block[0].layer[0].SelfAttention  # type: ignore[union-attr,index]
    table = source.relative_attention_bias
    target.relative_attention_bias = copy.deepcopy(table, {id(table.weight): table.weight})  # a module of its own: methods change modules
    target.has_relative_attention_bias = True


def _drop_convolution(layers: nn.ModuleList, stack: nn.Module, cut: int) -> None:
    """DeBERTa-v2 may add a convolution behind its first layer; above the cut there is none."""
    if cut > 0:
        stack.encoder.conv = None  # type: ignore[union-attr]


_BERT = Family("encoder", "encoder.layer", passed=("embeddings",), segments=True)
_LLAMA = Family("decoder", "layers", norm="norm", passed=("embed_tokens",))
_T5 = Family(
    "encoder-decoder",
    "block",
    "final_layer_norm",
    stack="encoder",
    decoder="decoder",
    passed=("embed_tokens",),
    quirk=_carry_position_bias,
    borrowed=("relative_attention_bias",),
)
_BART = Family(
    "encoder-decoder",
    "layers",
    stack="encoder",
    decoder="decoder",
    passed=("embed_tokens",),
    zeroed=("embed_positions",),
    skipped=("layernorm_embedding",),
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "electra": Family("encoder", "encoder.layer", passed=("embeddings",), skipped=("embeddings_project",), segments=True),
    "roberta": Family("encoder", "encoder.layer", passed=("embeddings",), reserved=2),
    "xlm-roberta": Family("encoder", "encoder.layer", passed=("embeddings",), reserved=2),
    "camembert": Family("encoder", "encoder.layer", passed=("embeddings",), reserved=2),
    "mpnet": Family("encoder", "encoder.layer", passed=("embeddings",), reserved=2, borrowed=("relative_attention_bias",)),
    "distilbert": Family("encoder", "transformer.layer", passed=("embeddings",)),
    "deberta-v2": Family(
        "encoder",
        "encoder.layer",
        passed=("embeddings",),
        quirk=_drop_convolution,
        segments=True,
        borrowed=("rel_embeddings", "encoder.LayerNorm"),
    ),
    "modernbert": Family("encoder", "layers", norm="final_norm", passed=("embeddings",)),
    "albert": Family("encoder", "encoder.albert_layer_groups", segments=True, whole_only=True),
    "gpt2": Family("decoder", "h", norm="ln_f", passed=("wte",), zeroed=("wpe",), skipped=("drop",)),
    "gpt_neox": Family("decoder", "layers", norm="final_layer_norm", passed=("embed_in",), skipped=("emb_dropout",)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "smollm3": _LLAMA,
    "phi3": _LLAMA,
    "t5": _T5,
    "mt5": _T5,
    "umt5": replace(_T5, quirk=None, borrowed=()),  # each layer has a position table of its own
    "bart": _BART,
    "pegasus": replace(_BART, norm="layer_norm", skipped=()),
}


def family(model_type: str) -> Family:
    """The entry of a `transformers` model type. Raises: ModelError that lists the families known."""
    if model_type not in FAMILIES:
        raise unknown("model family", model_type, FAMILIES, ModelError)
    return FAMILIES[model_type]


class PassThrough(nn.Module):
    """Stands where embeddings stood, and returns what it is given as `inputs_embeds`."""

    def forward(self, *given: torch.Tensor | None, **named: torch.Tensor | None) -> torch.Tensor:
        tensors = (named.get("inputs_embeds"), *given)  # families pass them by name or by place
        return next(t for t in tensors if t is not None and t.is_floating_point())


class Zero(nn.Module):
    """Stands where a position table stood: nothing is added."""

    def forward(self, *given: object, **named: object) -> torch.Tensor:
        return torch.zeros(())  # one number goes with tensors of any device

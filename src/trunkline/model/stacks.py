"""A stack of layers (a `transformers` base model, or one half of it) taken apart and put together, always over the same tensors."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from trunkline.model.families import Family, PassThrough, Zero


def top(stack: nn.Module, family: Family, cut: int) -> nn.Module:
    """The layers from `cut` up and what follows them, as a stack of its own that takes its inputs_embeds (S, T, D) as they come."""
    own = copy.deepcopy(stack, shared(stack))
    layers: Any = at(stack, family.layers)
    for path in family.passed:
        put(own, path, PassThrough())
    for path in family.zeroed:
        put(own, path, Zero())
    for path in family.skipped:
        if at(own, path, None) is not None:
            put(own, path, nn.Identity())
    if family.whole_only:
        return own
    kept = list(at(own, family.layers))[cut:]
    put(own, family.layers, numbered(kept))
    _shorten(own.config, cut, len(kept))
    if family.quirk and kept:
        family.quirk(layers, own, cut)
    return own


def bottom(stack: nn.Module, family: Family, cut: int) -> nn.Module:
    """The embeddings and the layers below `cut`, as a stack that ends there: its last_hidden_state is what enters layer `cut`."""
    own = copy.deepcopy(stack, shared(stack))
    put(own, family.layers, numbered(list(at(own, family.layers))[:cut]))
    if family.norm:
        put(own, family.norm, nn.Identity())
    _shorten(own.config, 0, cut)
    return own


def joined(stack: nn.Module, family: Family, upper: nn.Module, cut: int) -> nn.Module:
    """The whole stack, from token ids, with the layers of `upper` (a `top` of it) in place of its own from `cut` up."""
    own = copy.deepcopy(stack, shared(stack))
    if family.whole_only:
        return own
    lower = list(at(own, family.layers))[:cut]
    put(own, family.layers, numbered([*lower, *copy.deepcopy(at(upper, family.layers), shared(upper))]))
    if family.norm:
        put(own, family.norm, at(upper, family.norm))
    return own


def shared(module: nn.Module) -> dict[int, Any]:
    """A deepcopy memo that keeps every tensor the same object, so that only the module structure is copied."""
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}


def at(module: Any, path: str | None, *default: Any) -> Any:
    """What a dotted path names below a module."""
    for name in path.split(".") if path else ():
        module = getattr(module, name, *default)
    return module


def put(module: Any, path: str, value: nn.Module) -> None:
    """Set what a dotted path names below a module."""
    *parents, name = path.split(".")
    setattr(at(module, ".".join(parents)), name, value)


def numbered(layers: list[nn.Module]) -> nn.ModuleList:
    """The layers as a list that counts from 0, as masks and caches expect."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index  # type: ignore[assignment]
    return nn.ModuleList(layers)


def _shorten(config: Any, cut: int, depth: int) -> None:
    """Make the configuration of a copied stack say how many layers it has, and of which types."""
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[cut : cut + depth]

"""Method: every attention above the cut also looks at learned keys and values. Source: Li and Liang 2021 (prefix tuning), section 4.

They are put in through the library's own place for attention functions, so encoders, decoders and encoder-decoders are served in the same way, and
the cache of a text in writing holds real tokens only. Two forms:
- `gate=yes`: attention over the prefix is a second one, added with a learned weight for each head that starts at zero, so the network
  starts as the plain model (Source: Zhang et al. 2023, LLaMA-Adapter, section 3.2; its equation 9 scales within one sum).
- `gate=no`: one softmax over prefix and text, as in the paper; this changes the model from the first step.
Where we differ from the paper: only the layers above the cut have a prefix (depth "all": all of them), and there is no network that makes it
(section 4.3). It starts from the keys and values of random words, as its section 7.4 recommends. It takes no position from the text, and a
sliding window does not hide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.model.backbone import ALL
from trunkline.model.network import Network
from trunkline.types import Batch

_NAME = "trunkline_prefix"


@dataclass(frozen=True)
class Config:
    """length: how many keys and values each attention gets; gate: start as the plain model."""

    length: int = 16
    gate: bool = True
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        between("length", self.length, 1, 512)
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Give each attention above the cut a prefix. Raises: OptionError where the family computes its attention in a way of its own."""
    if network.depth == 0:
        return
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    for stack in _stacks(network):
        if stack.config._attn_implementation != "sdpa":
            raise _no_place(stack)
        stack.config._attn_implementation = _NAME
    _read_words(network, config.length)
    prefixes = [module for module in network.upper.modules() if isinstance(module, Prefix)]
    if not prefixes:
        raise _no_place(_stacks(network)[0])
    for prefix in prefixes:
        if not config.gate:
            prefix.gate = None


def merge(network: Network) -> Network:
    """Raises: OptionError; a prefix is part of no layer's weights."""
    raise OptionError(
        "method='prefix': keys and values are no weights, so they cannot be merged into some. Keep them, or tune with 'lora'."
    )


class Prefix(nn.Module):
    """keys, values: (heads for keys, P, width of a head); gate: (H,), or None for one softmax over prefix and text."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, heads: int) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(one.clone(memory_format=torch.contiguous_format)) for one in (keys, values))
        self.gate: nn.Parameter | None = nn.Parameter(torch.zeros(heads, device=keys.device))


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, **rest: Any
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """The library's attention with a prefix: query (S, H, T, d), key and value (S, heads for keys, U, d) -> (S, T, H, d).

    An attention that has no prefix yet makes one of the keys and values that it is given: so `graft` finds all there are.
    """
    if not hasattr(module, "prefix"):
        module.prefix = Prefix(key[0].detach(), value[0].detach(), query.shape[1])
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    prefix: Prefix = module.prefix
    keys, values = (one.to(query.dtype).expand(len(query), -1, -1, -1) for one in (prefix.keys, prefix.values))
    if prefix.gate is None:
        columns = keys.shape[2]
        mask = _widened(_mask(module, query, key, attention_mask, rest.get("is_causal")), columns)
        rest["position_bias"] = _widened(rest.get("position_bias"), columns)
        return sdpa_attention_forward(module, query, torch.cat([keys, key], 2), torch.cat([values, value], 2), mask, **rest)
    plain, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    keys, values = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (keys, values))
    added = functional.scaled_dot_product_attention(query, keys, values, scale=rest.get("scaling"))
    return plain + (prefix.gate.tanh()[:, None, None] * added).to(plain.dtype).transpose(1, 2), None


def _mask(module: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, causal: bool | None) -> torch.Tensor | None:
    """The mask as given; where it is left to the kernel that later tokens are not seen, one that says it."""
    rows, columns = query.shape[2], key.shape[2]
    if mask is not None or rows == 1 or not (getattr(module, "is_causal", True) if causal is None else causal):
        return mask
    return torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)[None, None]


def _widened(given: torch.Tensor | None, columns: int) -> torch.Tensor | None:
    """A mask or a bias (..., T, U) with so many columns in front that let everything through."""
    if given is None:
        return None
    return functional.pad(given, (columns, 0), value=True if given.dtype == torch.bool else 0.0)


def _stacks(network: Network) -> list[Any]:
    return list(network.upper.values()) if isinstance(network.upper, nn.ModuleDict) else [network.upper]


@torch.no_grad()
def _read_words(network: Network, length: int) -> None:
    """One pass of the layers over so many random words."""
    backbone = network._backbone
    ids = torch.randint(0, backbone.config.get_text_config().vocab_size, (1, length)).to(backbone.device)
    hidden = None if network.depth == ALL else backbone.trunk(network.depth)(ids, None)
    if network.below is not None:
        mask, owner = torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
        network.below(Batch(hidden, mask, owner, None, ids=ids, targets=ids), network.upper)
    elif hidden is None:
        network.upper(input_ids=ids)
    else:
        network.upper(inputs_embeds=hidden)


def _no_place(stack: Any) -> OptionError:
    return OptionError(
        f"method='prefix': {stack.config.model_type} computes its attention in a way of its own, which has no place for a prefix. "
        "Use 'lora', 'adapter' or 'prompt'."
    )

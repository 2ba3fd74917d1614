"""Method: small bottleneck networks behind the sublayers above the cut. Source: Houlsby et al. 2019, section 2.1; Pfeiffer et al. 2021.

"houlsby" puts one behind each attention and one behind each feed-forward block, "pfeiffer" only the second. Where we differ: an adapter reads
what a sublayer's last linear layer gives, before anything is added to it or normed, in every family (in the paper Gemma's norm behind
a sublayer did not exist); Pfeiffer's reads behind the norm. The layer norms stay frozen: they are the method `norm`. The way up
starts at zero, so a network starts as the plain model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.model.injected import attention_ends, feedforward_ends, linear
from trunkline.model.network import Network

PLACEMENTS = ("houlsby", "pfeiffer")


@dataclass(frozen=True)
class Config:
    """size: the width of the bottleneck; placement: behind attention and feed-forward ("houlsby") or behind feed-forward ("pfeiffer")."""

    size: int = 48
    placement: str = "houlsby"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        between("size", self.size, 1, 4096)
        one_of("placement", self.placement, PLACEMENTS)
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Put an adapter behind the last linear layer of each chosen sublayer."""
    layers: Any = linear(network)
    chosen = feedforward_ends(network) + (attention_ends(network) if config.placement == "houlsby" else [])
    for name in chosen:
        width = layers[name].weight.shape[0 if isinstance(layers[name], nn.Linear) else 1]
        layers[name].adapter = Bottleneck(width, config.size)
        layers[name].register_forward_hook(_adapted)


def merge(network: Network) -> Network:
    """Raises: OptionError; what an adapter does is no linear map."""
    raise OptionError("method='adapter': an adapter is no linear layer, so it cannot be merged into one. Keep it, or tune with 'lora'.")


class Bottleneck(nn.Module):
    """states (S, T, D) -> (S, T, D): narrow to `size`, bend, widen, add."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.up(functional.gelu(self.down(states)))


def _adapted(layer: nn.Module, given: Any, result: torch.Tensor) -> torch.Tensor:
    """The hook behind a layer: a function of the layer it is called with, so that a copy of the layer uses the copy's adapter."""
    adapter: Any = layer.adapter
    return adapter(result)

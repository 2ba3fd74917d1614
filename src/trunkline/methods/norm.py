"""Method: train the layer norms above the cut and nothing else there. Source: Zhao et al. 2023 (LayerNorm tuning), section 3."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.choices import between
from trunkline.model.network import Network, own


@dataclass(frozen=True)
class Config:
    """learning_rate: of the norms and the head; higher than for all weights."""

    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Give the network its own copy of every weight and bias of a norm above the cut, trainable."""
    norms = {
        f"{place}.{name}"
        for place, module in network.upper.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    own(network, norms.__contains__)


def merge(network: Network) -> Network:
    """Norms are changed in place, so there is nothing to merge: the network as it is."""
    return network

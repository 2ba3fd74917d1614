"""Method: train every weight above the cut (at depth "all": of the whole model)."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.choices import between
from trunkline.model.network import Network, own


@dataclass(frozen=True)
class Config:
    """learning_rate: of the layers and the head, at the top of the schedule."""

    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Give the network its own copy of every weight above the cut, trainable."""
    own(network, lambda name: True)


def merge(network: Network) -> Network:
    """Nothing is added beside the weights, so there is nothing to merge: the network as it is."""
    return network

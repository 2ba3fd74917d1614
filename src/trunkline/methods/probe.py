"""Method: train the head only; every layer stays as it was pre-trained. Source: Alain and Bengio 2016 (linear probes)."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.choices import between
from trunkline.model.network import Network


@dataclass(frozen=True)
class Config:
    """learning_rate: of the head. How the states are pooled is the task's option `pooling`."""

    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Nothing to add: a new network is frozen but for its head."""


def merge(network: Network) -> Network:
    """Nothing is added, so there is nothing to merge: the network as it is."""
    return network

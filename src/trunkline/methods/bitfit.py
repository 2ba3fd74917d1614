"""Method: train the biases above the cut and nothing else there. Source: Ben Zaken et al. 2022 (BitFit, ACL)."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.model.network import Network, own


@dataclass(frozen=True)
class Config:
    """learning_rate: of the biases and the head; higher than for all weights, as in the paper (section 4)."""

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Give the network its own copy of every bias above the cut, trainable. Raises: OptionError where there is none."""
    if not own(network, lambda name: name.rsplit(".", 1)[-1] == "bias") and network.depth != 0:
        raise OptionError("method='bitfit': this model's layers have no biases (Llama-like models have none). Use 'lora' or 'full'.")


def merge(network: Network) -> Network:
    """Biases are changed in place, so there is nothing to merge: the network as it is."""
    return network

"""Method: keys, values and what the feed-forward block widens to are scaled by learned vectors, injected by PEFT.

Source: Liu et al. 2022 (IA3), section 3.3. Where one layer makes queries, keys and values together (GPT-2, GPT-NeoX, ModernBERT, Phi-3) the
vector scales the queries too, as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass

from peft import IA3Config

from trunkline.choices import between
from trunkline.model.injected import feedforward_ends, inject, keys_and_values, merged, transposed
from trunkline.model.network import Network


@dataclass(frozen=True)
class Config:
    """learning_rate: of the vectors and the head; higher than for weights, since a vector's numbers are few and near 1."""

    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Put a vector of ones behind each layer that makes keys or values, and before the last layer of each feed-forward block."""
    if network.depth == 0:
        return
    widened = feedforward_ends(network)
    names = [*keys_and_values(network), *widened]
    inject(network, IA3Config(target_modules=names, feedforward_modules=widened, fan_in_fan_out=transposed(network)))


def merge(network: Network) -> Network:
    """A network of plain layers, each vector multiplied into its weight: the same answers, nothing beside the layers."""
    return merged(network)

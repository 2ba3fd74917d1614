"""Method: low-rank updates beside the linear layers above the cut, injected by PEFT. Source: Hu et al. 2021 (LoRA), section 4.1.

Its kin are options: DoRA (Liu et al. 2024, equation 5), rsLoRA (Kalajdzievski 2023, theorem 3.2), LoRA+ (Hayou et al. 2024,
section 4), QLoRA (Dettmers et al. 2023, equation 5), and the starts of PiSSA (Meng et al. 2024, section 3) and EVA (Paischer et al. 2024, section 3).
Where we differ: EVA's ranks stay alike (its rho = 1), for a saved branch has the shapes that its options say; and it looks at some thousand tokens, not
until the directions settle. QLoRA's merge gives float32 weights that answer alike; PEFT rounds them to 4 bits again, which moves answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.incremental_pca import IncrementalPCA

from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.model.guide import Guide
from trunkline.model.injected import in_four_bits, inject, injected, merged, targets, transposed
from trunkline.model.network import Network, own
from trunkline.types import Batch

STARTS = ("zero", "pissa", "eva")
BITS = (4, 32)
_TOKENS, _AT_ONCE = 2048, 256
"""EVA looks at so many tokens of the training rows, and takes them up in pieces of so many."""


@dataclass(frozen=True)
class Config:
    """rank: r in the paper; alpha: the update is scaled by alpha / rank; dropout: on the input of the update; targets: "all" linear
    layers, those that make queries, keys and values ("attention"), or some by name, as in "query+value".

    dora: length and direction of a weight's columns are learned apart; rslora: the update is scaled by alpha / sqrt(rank);
    ratio: the learning rate of the B matrices over that of the A matrices, 16 in LoRA+; start: "zero"; "pissa", which puts the strongest
    directions of a weight into the update and leaves the rest frozen; or "eva", where A begins as the directions in which the layer's inputs vary
    most on the training rows; bits: of the frozen weights of linear layers above the cut, 32 or 4 (QLoRA).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all"
    dora: bool = False
    rslora: bool = False
    ratio: float = 1.0
    start: str = "zero"
    bits: int = 32
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        between("rank", self.rank, 1, 1024)
        between("alpha", self.alpha, 1e-3, 1e4)
        between("dropout", self.dropout, 0.0, 0.9)
        between("ratio", self.ratio, 1e-3, 1e3)
        one_of("start", self.start, STARTS)
        if self.bits not in BITS:
            raise OptionError(f"bits={self.bits}: use 32, which leaves the frozen weights as they are, or 4.")
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Put a low-rank update beside each target; together with the weight it starts as the weight, so the network as the plain model.

    Raises: OptionError where no layer is a target.
    """
    if network.depth == 0:
        return
    names = targets(network, config.targets)
    if config.start == "pissa":  # it takes the update out of the weight, which must not be the backbone's then
        own(network, {f"{name}.weight" for name in names}.__contains__)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=transposed(network),
        use_dora=config.dora,
        use_rslora=config.rslora,
        init_lora_weights="pissa" if config.start == "pissa" else True,
    )
    inject(network, lora)
    if config.bits == 4:  # now, so that DoRA's lengths and PiSSA's directions are those of the float weights
        in_four_bits(network)
    network.guide = _Kin(config)


def merge(network: Network) -> Network:
    """A network of plain layers, each update added into its weight (a 4-bit one taken back to float32): the same answers, nothing beside the layers."""
    return merged(network)


class _Kin(Guide):
    """The B matrices learn faster than the A matrices, and EVA's start; by default neither."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def rate(self, name: str) -> float:
        return self.config.ratio if ".lora_B." in name else 1.0

    def begin(self, network: Any, texts: Iterator[Batch]) -> None:
        """EVA's start, but not of an update that has learned something already."""
        layers = injected(network)
        if self.config.start != "eva" or any(bool(layer.lora_B["default"].weight.any()) for layer in layers.values()):
            return
        for name, directions in input_directions(network, texts, self.config.rank).items():
            down = layers[name].lora_A["default"].weight
            down.data[: len(directions)] = directions.to(down)


@torch.no_grad()
def input_directions(network: Network, texts: Iterator[Batch], rank: int) -> dict[str, torch.Tensor]:
    """By target: the directions (rank, in) of length 1 in which its inputs vary most (fewer rows where it is not so wide).

    Raises: OptionError where the texts have fewer tokens than directions are wanted.
    """
    network.eval()
    layers = injected(network)
    found = {name: IncrementalPCA(min(rank, layer.in_features)) for name, layer in layers.items()}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [layer.register_forward_pre_hook(_keep(seen[name])) for name, layer in layers.items()]
    looked = 0
    try:
        for batch in texts:
            network.hidden(batch)
            if (waiting := _fewest(seen)) >= max(_AT_ONCE, rank):
                _take_up(found, seen)
                looked += waiting
            if looked >= _TOKENS:
                break
    finally:
        for hook in hooks:
            hook.remove()
    if not looked:  # few rows: one piece, if that
        if _fewest(seen) < rank:
            raise OptionError(
                f"rank={rank}: start='eva' takes so many directions from what goes into each layer, and the training rows have "
                f"{_fewest(seen)} tokens. Use a smaller rank, or another start."
            )
        _take_up(found, seen)
    return {name: one.components_ for name, one in found.items()}


def _fewest(seen: dict[str, list[torch.Tensor]]) -> int:
    """How many inputs the layer has seen that has seen fewest."""
    return min(sum(map(len, inputs)) for inputs in seen.values())


def _keep(inputs: list[torch.Tensor]) -> Any:
    return lambda module, given: inputs.append(given[0].flatten(0, -2).float())


def _take_up(found: dict[str, IncrementalPCA], seen: dict[str, list[torch.Tensor]]) -> None:
    for name, inputs in seen.items():
        found[name].partial_fit(torch.cat(inputs))
        inputs.clear()

"""Method: low-rank updates beside the linear layers above the cut, injected by PEFT. Source: Hu et al. 2021 (LoRA), section 4.1.

Its kin are options: DoRA (Liu et al. 2024, equation 5), rsLoRA (Kalajdzievski 2023, theorem 3.2), LoRA+ (Hayou et al. 2024,
section 4) and the start of PiSSA (Meng et al. 2024, section 3). EVA (Paischer et al. 2024) is not among them: it starts from what goes into
every layer on the training rows, and a method is grafted before any row is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from peft import LoraConfig

from trunkline.choices import between, one_of
from trunkline.model.guide import Guide
from trunkline.model.injected import inject, merged, targets, transposed
from trunkline.model.network import Network, own

STARTS = ("zero", "pissa")


@dataclass(frozen=True)
class Config:
    """rank: r in the paper; alpha: the update is scaled by alpha / rank; dropout: on the input of the update; targets: "all" linear
    layers, those that make queries, keys and values ("attention"), or some by name, as in "query+value".

    dora: length and direction of a weight's columns are learned apart; rslora: the update is scaled by alpha / sqrt(rank);
    ratio: the learning rate of the B matrices over that of the A matrices, 16 in LoRA+; start: "zero", or "pissa", which puts the strongest
    directions of a weight into the update and leaves the rest frozen.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all"
    dora: bool = False
    rslora: bool = False
    ratio: float = 1.0
    start: str = "zero"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        between("rank", self.rank, 1, 1024)
        between("alpha", self.alpha, 1e-3, 1e4)
        between("dropout", self.dropout, 0.0, 0.9)
        between("ratio", self.ratio, 1e-3, 1e3)
        one_of("start", self.start, STARTS)
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
    if config.ratio != 1.0:
        network.guide = _Faster(config.ratio)


def merge(network: Network) -> Network:
    """A network of plain layers, each update added into its weight: the same answers, nothing beside the layers."""
    return merged(network)


class _Faster(Guide):
    """The B matrices learn faster than the A matrices."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def rate(self, name: str) -> float:
        return self.ratio if ".lora_B." in name else 1.0

"""Method: low-rank updates beside the linear layers above the cut, injected by PEFT. Source: Hu et al. 2021 (LoRA), section 4.1."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.model.network import Network

TARGETS = ("all", "attention")
_ATTENTION = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "Wqkv", "q", "k", "v",
              "q_lin", "k_lin", "v_lin", "query_proj", "key_proj", "value_proj")  # fmt: skip


@dataclass(frozen=True)
class Config:
    """rank: r in the paper; alpha: the update is scaled by alpha / rank; targets: every linear layer, or those that make
    queries, keys and values; dropout: on the input of the update.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        between("rank", self.rank, 1, 1024)
        between("alpha", self.alpha, 1e-3, 1e4)
        between("dropout", self.dropout, 0.0, 0.9)
        one_of("targets", self.targets, TARGETS)
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Put a low-rank update beside each target; it starts at zero, so the network starts as the plain model."""
    if network.depth == 0:
        return
    names = [n for n, m in network.upper.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    if config.targets == "attention":
        names = [n for n in names if n.rsplit(".", 1)[-1] in _ATTENTION]
    if not names:
        raise OptionError(f"targets={config.targets!r}: no such linear layer above the cut. Use 'all'.")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in network.upper.modules()),
    )
    inject_adapter_in_model(lora, network.upper)


def merge(network: Network) -> Network:
    """A network of plain layers, each update added into its weight: the same answers, nothing beside the layers."""
    merged = copy.deepcopy(network)
    for name, module in [(n, m) for n, m in merged.upper.named_modules() if isinstance(m, LoraLayer)]:
        module.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(merged.upper.get_submodule(parent), last, module.get_base_layer())
    return merged.requires_grad_(False)

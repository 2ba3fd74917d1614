"""Method: low-rank updates whose ranks go where they matter, injected by PEFT. Source: Zhang et al. 2023 (AdaLoRA).

An update is a product of three, as of singular vectors and values (equation 3), held near orthogonal by a penalty (equation 4). How much the loss
depends on each value is averaged over the steps (equations 8 to 12), and under a falling budget (equation 13) those that matter
least are set to zero. Schedule and averages are PEFT's. Where we differ: the schedule is given in shares of the run,
and the weights before the ranks have come down to the budget are never kept as the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig
from peft.tuners.adalora.layer import RankAllocator

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.model.guide import Guide
from trunkline.model.injected import inject, injected, merged, targets, transposed
from trunkline.model.network import Network

_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")


@dataclass(frozen=True)
class Config:
    """rank: what a target has on average in the end; initial_rank: what each has at first; alpha: the update is scaled by alpha / initial_rank.

    rise: the share of the steps before ranks fall; rest: the share at the end in which they stay; every: steps between two cuts;
    orthogonality: the weight of the penalty; targets, dropout: as for `lora`.
    """

    rank: int = 8
    initial_rank: int = 12
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all"
    rise: float = 0.1
    rest: float = 0.3
    every: int = 1
    orthogonality: float = 0.1
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        between("initial_rank", self.initial_rank, 2, 1024)
        between("rank", self.rank, 1, self.initial_rank - 1)
        between("alpha", self.alpha, 1e-3, 1e4)
        between("dropout", self.dropout, 0.0, 0.9)
        between("rise", self.rise, 0.0, 0.9)
        between("rest", self.rest, 0.0, 0.9)
        between("every", self.every, 1, 100_000)
        between("orthogonality", self.orthogonality, 0.0, 100.0)
        between("learning_rate", self.learning_rate, 1e-8, 1.0)
        if self.rise + self.rest > 0.9:
            raise OptionError(f"rise={self.rise} and rest={self.rest}: together at most 0.9, so that steps are left in which ranks fall.")


def graft(network: Network, config: Config) -> None:
    """Put an update of the first rank beside each target; its values are zero, so the network starts as the plain model."""
    if network.depth == 0:
        return
    told = AdaLoraConfig(
        init_r=config.initial_rank,
        target_r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=targets(network, config.targets),
        fan_in_fan_out=transposed(network),
        deltaT=config.every,
        total_step=1_000_000,  # PEFT asks for it when the layers are made; the schedule is set at each step
    )
    inject(network, told)
    network.guide = _Ranks(RankAllocator(network.upper, told, "default"), config)


def merge(network: Network) -> Network:
    """A network of plain layers, each update added into its weight: the same answers, nothing beside the layers."""
    return merged(network)


def ranks(network: Network) -> dict[str, int]:
    """How many values of each target's update are not zero, by its name above the cut."""
    return {name: int((layer.lora_E["default"] != 0).sum()) for name, layer in injected(network).items()}


class _Ranks(Guide):
    """The penalty, the averages and the budget. PEFT's allocator does the sums; what it keeps is in `tensors`."""

    def __init__(self, allocator: RankAllocator, config: Config) -> None:
        self.allocator, self.config = allocator, config
        self.kept: dict[str, torch.Tensor] = {}
        """Which values stay, once the budget is reached."""

    def penalty(self, network: Any) -> torch.Tensor | float:
        if not self.config.orthogonality:
            return 0.0
        products = [
            (layer.lora_A["default"] @ layer.lora_A["default"].T, layer.lora_B["default"].T @ layer.lora_B["default"])
            for layer in injected(network).values()
        ]
        apart = [(one - torch.eye(len(one), dtype=one.dtype, device=one.device)).norm() for pair in products for one in pair]
        return self.config.orthogonality * torch.stack(apart).mean()

    def after_step(self, network: Any, step: int, steps: int) -> None:
        last = self._last(steps)
        told: Any = self.allocator.peft_config
        told.total_step, told.tfinal, told.tinit = steps, steps - last, min(int(self.config.rise * steps), last - 1)
        if step > last:
            self._mask(network)
            return
        self.allocator.update_ipt(network.upper)
        budget, due = self.allocator.budget_schedule(step)
        if step == last:
            pattern = self.allocator.mask_to_budget(network.upper, self.allocator.target_bgt)
            self.kept = {name: torch.tensor(one) for name, one in pattern.items()}
            self.allocator.reset_ipt()
        elif due:
            self.allocator.mask_to_budget(network.upper, budget)

    def settled(self, step: int, steps: int) -> bool:
        return step >= self._last(steps)

    def about(self, network: Any) -> dict[str, Any]:
        return {"ranks": ranks(network)}

    def tensors(self) -> dict[str, torch.Tensor]:
        averages = {f"{kind}|{name}": one for kind in _AVERAGES for name, one in getattr(self.allocator, kind).items()}
        return averages | {f"kept|{name}": one for name, one in self.kept.items()}

    def restore(self, tensors: dict[str, torch.Tensor], device: torch.device) -> None:
        self.allocator.reset_ipt()
        self.kept = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("|")
            if kind == "kept":
                self.kept[name] = tensor
            else:
                getattr(self.allocator, kind)[name] = tensor.to(device)
                self.allocator.ipt[name] = torch.zeros_like(tensor, device=device)  # its key says that the averages have begun

    def _last(self, steps: int) -> int:
        """The step at which the budget is reached."""
        return steps - int(self.config.rest * steps)

    def _mask(self, network: Any) -> None:
        parameters = dict(network.upper.named_parameters())
        with torch.no_grad():
            for name, kept in self.kept.items():
                parameters[name].masked_fill_(~kept[:, None].to(parameters[name].device), 0.0)

"""Goal: identity preference optimisation. As dpo, but the margin is pulled to a value of its own instead of ever further."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from trunkline.alignment import preference
from trunkline.alignment.preference import METRICS, PairGoal, Pairs, PairSpec, head, make, prepare
from trunkline.types import Answer, Batch, Output

__all__ = ["METRICS", "READS", "Config", "TaskSpec", "align", "decode", "head", "loss", "losses", "prepare"]
READS = "reward"


@dataclass(frozen=True)
class TaskSpec(PairSpec):
    """beta: tau of the paper. average: where the paper sums over tokens, its authors have since taken means; here it is the default too."""

    task: str = "ipo"
    average: bool = True


Config = TaskSpec
align = partial(preference.run, PairGoal(make))


def losses(pairs: Pairs, spec: TaskSpec) -> torch.Tensor:
    """(B,): (h - 1 / (2 beta))^2, h how much more the policy prefers the better answer than the reference does.

    Source: Azar et al. 2023, equation 17.
    """
    return (pairs.change - 1 / (2 * spec.beta)) ** 2


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the pairs."""
    return losses(preference.pairs(out, batch), batch.spec).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The margin of each pair, in units of what the loss asks for."""
    return preference.answers(2 * spec.beta * preference.pairs(out, batch).change)

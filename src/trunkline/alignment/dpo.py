"""Goal: direct preference optimisation. The reward is implied: how much likelier an answer became against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from trunkline.alignment import preference
from trunkline.alignment.preference import METRICS, PairGoal, Pairs, PairSpec, head, make, prepare
from trunkline.choices import between
from trunkline.types import Answer, Batch, Output

__all__ = ["METRICS", "READS", "Config", "TaskSpec", "align", "decode", "head", "loss", "losses", "prepare"]
READS = "reward"


@dataclass(frozen=True)
class TaskSpec(PairSpec):
    """label_smoothing: the share of pairs that are taken to be the wrong way round."""

    task: str = "dpo"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("label_smoothing", self.label_smoothing, 0.0, 0.49)


Config = TaskSpec
align = partial(preference.run, PairGoal(make))


def losses(pairs: Pairs, spec: TaskSpec) -> torch.Tensor:
    """(B,): -log sigmoid(beta h), h how much more the policy prefers the better answer than the reference does.

    Source: Rafailov et al. 2023, equation 7; the smoothed form, Mitchell 2023 (cDPO), equation 3.
    """
    scaled = spec.beta * pairs.change
    return -(1 - spec.label_smoothing) * functional.logsigmoid(scaled) - spec.label_smoothing * functional.logsigmoid(-scaled)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the pairs."""
    return losses(preference.pairs(out, batch), batch.spec).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The margin of the implied rewards of each pair."""
    return preference.answers(spec.beta * preference.pairs(out, batch).change)

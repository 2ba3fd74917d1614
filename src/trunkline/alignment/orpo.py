"""Goal: odds ratio preference optimisation. Learns the better answer as in plain tuning, and is pushed from the worse one. No reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from trunkline.alignment import preference
from trunkline.alignment.preference import METRICS, PairGoal, Pairs, PairSpec, head, make, prepare
from trunkline.types import Answer, Batch, Output

__all__ = ["METRICS", "READS", "Config", "TaskSpec", "align", "decode", "head", "loss", "losses", "prepare"]
READS = "reward"


@dataclass(frozen=True)
class TaskSpec(PairSpec):
    """beta: lambda of the paper, the weight of the odds ratio beside the likelihood of the better answer. average: always, as in the paper."""

    task: str = "orpo"
    average: bool = True


Config = TaskSpec
align = partial(preference.run, PairGoal(make, has_reference=False))


def log_odds(policy: torch.Tensor) -> torch.Tensor:
    """(B,): log of odds(better) / odds(worse), of mean log-probabilities (B, 2). Source: Hong et al. 2024, equations 4 and 5."""
    odds = policy - torch.log(-torch.expm1(policy.clamp(max=-1e-7)))
    return odds[:, 0] - odds[:, 1]


def losses(pairs: Pairs, spec: TaskSpec) -> torch.Tensor:
    """(B,): -log p(better), a token, - beta log sigmoid(log odds ratio). Source: Hong et al. 2024, equations 6 and 7."""
    return -pairs.policy[:, 0] - spec.beta * functional.logsigmoid(log_odds(pairs.policy))


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the pairs."""
    return losses(preference.pairs(out, batch), batch.spec).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The log odds ratio of each pair."""
    return preference.answers(log_odds(preference.pairs(out, batch).policy))

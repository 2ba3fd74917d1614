"""Goal: proximal policy optimisation, with policy, reference, value and reward as readers of one set of states.

Source: Schulman et al. 2017 (PPO), as Ziegler et al. 2019 and Ouyang et al. 2022 use it for language models: the KL to the reference is
part of each token's reward, advantages come from a value (GAE), and ratios and values are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from trunkline.alignment import finish
from trunkline.alignment.estimators import gae
from trunkline.alignment.experience import Experience, Goal, Settings

READS = "generate"


@dataclass(frozen=True)
class Config(Settings):
    """As all ways of learning from rewards."""


def advantages(found: Experience, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, A) each: generalised advantages and the returns that the value learns."""
    return gae(found.rewards, found.values, found.mask, discount=settings.discount, decay=settings.decay)


GOAL = Goal("ppo", advantages, has_value=True)
align = partial(finish.align, GOAL)

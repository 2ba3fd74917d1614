"""Goal: group relative policy optimisation (GRPO). An answer is compared with the others to the same prompt; the KL is in the loss.

Source: Shao et al. 2024 (DeepSeekMath), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from trunkline.alignment import finish
from trunkline.alignment.estimators import group_normalised
from trunkline.alignment.experience import Experience, Goal, Settings

READS = "generate"


@dataclass(frozen=True)
class Config(Settings):
    """As all, with four answers to each prompt.

    scale_by_deviation: advantages are divided by the deviation of their group, as in the paper; without it a prompt whose answers are nearly
    alike counts no more than others (Liu et al. 2025, Dr. GRPO)
    """

    group: int = 4
    whiten_advantages: bool = False
    scale_rewards: bool = False
    scale_by_deviation: bool = True


def advantages(found: Experience, settings: Settings) -> tuple[torch.Tensor, None]:
    """(N, A): the score less the mean of its group, over its deviation; the same at each token.

    Source: Shao et al. 2024, section 4.1.2.
    """
    of_answers = group_normalised(found.scores, settings.group, scale=getattr(settings, "scale_by_deviation", True))
    return torch.where(found.mask, of_answers[:, None], 0.0), None


GOAL = Goal("grpo", advantages, weights="within", kl_in="loss")
align = partial(finish.align, GOAL)

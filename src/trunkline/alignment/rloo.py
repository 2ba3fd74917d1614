"""Goal: REINFORCE with the other answers to the same prompt as its baseline (RLOO). No value is learned.

Source: Ahmadian et al. 2024 ("Back to basics"), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from trunkline.alignment import finish
from trunkline.alignment.estimators import leave_one_out
from trunkline.alignment.experience import Experience, Goal, Settings

READS = "generate"


@dataclass(frozen=True)
class Config(Settings):
    """As all, with four answers to each prompt, which are learned from once."""

    group: int = 4
    epochs: int = 1
    whiten_advantages: bool = False


def advantages(found: Experience, settings: Settings) -> tuple[torch.Tensor, None]:
    """(N, A): what an answer earns, its KL taken off, less the mean of the other answers of its group; the same at each token.

    Source: Ahmadian et al. 2024, equation 8.
    """
    of_answers = leave_one_out(found.rewards.sum(1), settings.group)
    return torch.where(found.mask, of_answers[:, None], 0.0), None


GOAL = Goal("rloo", advantages, weights="answers")
align = partial(finish.align, GOAL)

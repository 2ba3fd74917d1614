"""What learning from rewards can be told, and what it holds: of one step's answers, of a run, of what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from trunkline.alignment.rewards import Function, Part, Scores
from trunkline.alignment.rollout import Rollouts
from trunkline.branch import Branch
from trunkline.choices import between, one_of
from trunkline.errors import OptionError

Reward = Branch | Function | Part | Mapping[str, Branch | Function | Part]


@dataclass(frozen=True)
class Settings:
    """What all ways of learning from rewards can be told. Tokens of one answer are summed in KL figures: nats an answer.

    steps: batches of answers; answers: in each; group: to each prompt; epochs: over them; minibatch: answers an optimizer step
    learning_rate: of the policy, constant; value_learning_rate: of the value; clip_gradient: its largest norm
    max_new_tokens: the longest answer; temperature: that answers are drawn at and scored at
    kl: weight of the KL to the reference; kl_target: in nats an answer, towards which that weight then moves; kl_cap: stop above it
    discount, decay: gamma and lambda of the advantages; clip: of the ratio; value_clip: of the value's move; entropy: weight of a bonus
    scale_rewards: divided by their deviation over all steps; whiten_advantages: mean 0 and deviation 1 in a step
    missing_end: taken off the reward of an answer that was cut at its longest; value_from: the "states" at the cut, or the "policy"'s last ones
    hacking: at the signs of a gamed reward "stop", "note" them, or "off"; weak_reward: at a reward branch that hardly tells pairs "stop" or "note"
    tensorboard: for `align`: a folder for event files, which TensorBoard shows while the run goes on
    seed, checkpoint_seconds: for `learn`; `align` takes both from the settings of the run
    reward, label: for `align`, which knows no functions: folders of branches that judge, with + between them and a weight behind a *, as in
    runs/kind+runs/unsafe*-2; and the label that a classifier among them is asked for (none: its last one)
    """

    steps: int = 40
    answers: int = 64
    group: int = 1
    epochs: int = 4
    minibatch: int = 16
    learning_rate: float = 3e-4
    value_learning_rate: float = 1e-3
    clip_gradient: float = 1.0
    max_new_tokens: int = 24
    temperature: float = 1.0
    kl: float = 0.05
    kl_target: float | None = None
    kl_cap: float | None = None
    discount: float = 1.0
    decay: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    entropy: float = 0.0
    scale_rewards: bool = True
    whiten_advantages: bool = True
    missing_end: float = 0.0
    value_from: str = "states"
    hacking: str = "stop"
    weak_reward: str = "stop"
    seed: int = field(default=0, metadata={"setting": True})
    checkpoint_seconds: float = field(default=60.0, metadata={"setting": True})
    reward: str = ""
    label: str | None = None
    tensorboard: str = ""

    def __post_init__(self) -> None:
        one_of("value_from", self.value_from, ("states", "policy"))
        one_of("hacking", self.hacking, ("stop", "note", "off"))
        one_of("weak_reward", self.weak_reward, ("stop", "note"))
        for name, low, high in (("steps", 1, 100_000), ("answers", 1, 65536), ("group", 1, 4096), ("epochs", 1, 100), ("minibatch", 1, 65536),
                                ("learning_rate", 1e-9, 10), ("value_learning_rate", 1e-9, 10), ("clip_gradient", 1e-6, 1e6),
                                ("max_new_tokens", 1, 131072), ("temperature", 0.01, 100), ("kl", 0, 1000), ("discount", 0, 1), ("decay", 0, 1),
                                ("clip", 1e-4, 1e6), ("value_clip", 1e-4, 1e6), ("entropy", 0, 100), ("missing_end", -1e6, 1e6), ("seed", 0, 2**31),
                                ("checkpoint_seconds", 0, 86400)):  # fmt: skip
            between(name, getattr(self, name), low, high)
        for name in ("kl_target", "kl_cap"):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), 1e-6, 1e6)
        if self.answers % self.group:
            raise OptionError(f"answers={self.answers}: not a multiple of group={self.group}. Each prompt gets a whole group of answers.")


@dataclass(frozen=True)
class Goal:
    """How scores become advantages.

    advantages: from the experience and the settings to (N, A) advantages and returns, or returns None where there is no value
    weights: how tokens are summed: "tokens" (mean over all), "answers" (sum over each, mean over answers), "within" (mean over each, then answers)
    has_value: whether a value is learned; kl_in: the "reward" or the "loss"; clipped: whether ratios are clipped; name: as on the command line
    """

    name: str
    advantages: Callable[[Experience, Settings], tuple[torch.Tensor, torch.Tensor | None]]
    weights: str = "tokens"
    has_value: bool = False
    kl_in: str = "reward"
    clipped: bool = True


@dataclass
class Experience:
    """What is known of one step's answers before anything is learned from them. Tensors are (N, A); scores (N,), scaled.

    policy, reference: log-probabilities as drawn; rewards: of each token, the KL in them where the goal has it there
    """

    rollouts: Rollouts
    mask: torch.Tensor
    policy: torch.Tensor
    reference: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    told: Scores
    rewards: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor | None = None


@dataclass
class Progress:
    """Where a run stands: everything a checkpoint keeps beside tensors. stopped: the reason a guard gave."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    coefficient: float = 0.0
    scale: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    bad: int = 0
    stopped: str | None = None
    done: bool = False


@dataclass(frozen=True)
class Learned:
    """policy: the branch, a usual one; history: an entry for each step, the last one of what came out; stopped: why, where a guard did."""

    policy: Branch
    history: list[dict[str, Any]]
    stopped: str | None = None

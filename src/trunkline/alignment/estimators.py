"""The mathematics of learning from rewards, as functions over tensors: advantages, clipped losses, KL estimates, the KL coefficient.

Above nothing but torch: rollout.py fills the tensors, online.py steps on the losses. Shapes: B rollouts, A tokens of the longest answer.
A mask (B, A) is True where an answer has a token; what stands elsewhere in the other tensors does not count and must be finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trunkline.errors import OptionError

_TINY = 1e-8
ERROR_CLIP = 0.2
"""Of the KL controller's relative error. Source: Ziegler et al. 2019, section 2.2."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the places that count; 0 where none does."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: torch.Tensor, mask: torch.Tensor, *, keep_mean: bool = False) -> torch.Tensor:
    """Values (B, A) with mean 0 and variance 1 over the places that count; with `keep_mean` only scaled.

    Constant values become 0 (R7): the deviation is divided by one that is never below 1e-8. Source: Schulman et al. 2017 as implemented
    by Ziegler et al. 2019; the variance is that of the places at hand (divided by their number).
    """
    mean = masked_mean(values, mask)
    spread = masked_mean((values - mean) ** 2, mask).sqrt()
    white = (values - mean) / spread if bool(spread > _TINY) else torch.zeros_like(values)
    return torch.where(mask, white + mean if keep_mean else white, 0.0)


def token_rewards(scores: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor, coefficient: float) -> torch.Tensor:
    """(B, A): -coefficient x log(policy / reference) at every token, and the score (B,) of the whole answer at its last token.

    Source: Ziegler et al. 2019, equation 2; Ouyang et al. 2022, equation 2 without its pre-training term. An answer without tokens gets none.
    """
    rewards = torch.where(mask, -coefficient * log_ratios, 0.0)
    rows = mask.any(1)
    last = (mask.sum(1) - 1).clamp(min=0)
    at = torch.arange(len(mask), device=mask.device)
    return rewards.index_put((at[rows], last[rows]), scores[rows].to(rewards.dtype), accumulate=True)


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Advantages and returns (B, A), from rewards and values (B, A) of each token; behind the last token the value is 0.

    delta_t = r_t + discount V_{t+1} - V_t; A_t = delta_t + discount decay A_{t+1}; return_t = A_t + V_t.
    Source: Schulman et al. 2015 (GAE), equation 16.

    >>> found, _ = gae(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), decay=0.5)
    >>> found.tolist()
    [[0.5, 1.0]]
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    running = after = torch.zeros_like(values[:, 0]) if values.shape[1] else values.new_zeros(len(values))
    for at in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, at] + discount * after - values[:, at]
        running = torch.where(mask[:, at], delta + discount * decay * running, 0.0)
        after = values[:, at]
        advantages[:, at] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


@dataclass(frozen=True)
class PolicyLoss:
    """loss: scalar; clipped: share of tokens whose ratio the clip held; ratio: their mean; low and high: the extremes (R2)."""

    loss: torch.Tensor
    clipped: float
    ratio: float
    low: float
    high: float


def policy_loss(
    new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, clip: float, weights: torch.Tensor | None = None
) -> PolicyLoss:  # fmt: skip
    """-mean min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) over the tokens that count; ratio = exp(new - old), log-probabilities (B, A).

    weights: of each token in the sum, instead of one over their number.

    Source: Schulman et al. 2017 (PPO), equation 7.
    """
    ratio = torch.where(mask, new - old, 0.0).exp()
    plain, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    with torch.no_grad():
        clipped = masked_mean((held > plain).to(ratio.dtype), mask)
        found = ratio[mask] if bool(mask.any()) else ratio.new_ones(1)
        told = [float(clipped), float(found.mean()), float(found.min()), float(found.max())]
    worse = torch.maximum(plain, held)
    return PolicyLoss(masked_mean(worse, mask) if weights is None else (weights * worse).sum(), *told)


def value_loss(
    new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> tuple[torch.Tensor, float]:  # fmt: skip
    """0.5 mean max((V - R)^2, (clip(V, old - clip, old + clip) - R)^2), and the share of tokens that the clip held.

    Source: the clipped value loss of the PPO code of OpenAI Baselines, which Ziegler et al. 2019 use too; it is in no equation of the paper.
    """
    held = torch.minimum(torch.maximum(new, old - clip), old + clip)
    plain, other = (new - returns) ** 2, (held - returns) ** 2
    clipped = masked_mean((other > plain).to(new.dtype).detach(), mask)
    return 0.5 * masked_mean(torch.maximum(plain, other), mask), float(clipped)


def kl_k1(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """log(policy / reference) of tokens drawn from the policy: unbiased for KL(policy || reference), and may be negative."""
    return policy - reference


def kl_k3(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """reference / policy - 1 - log(reference / policy) of tokens drawn from the policy: unbiased, and never negative.

    Source: Schulman 2020 ("Approximating KL divergence"), k3; Shao et al. 2024 (GRPO), equation 4.
    """
    ratio = reference - policy
    return ratio.exp() - 1 - ratio


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - var(returns - values) / var(returns) over the tokens that count; 0 where the returns do not vary."""
    if not bool(mask.any()):
        return 0.0
    told, left = returns[mask], (returns - values)[mask]
    spread = float(told.var(unbiased=False))
    return 1 - float(left.var(unbiased=False)) / spread if spread > _TINY else 0.0


def leave_one_out(scores: torch.Tensor, size: int) -> torch.Tensor:
    """(B,): each score minus the mean of the others of its group; groups are `size` scores in a row.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO), equation 8.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), 3).tolist()
    [-3.0, -1.5, 4.5]
    """
    groups = _groups(scores, size)
    return ((size * groups - groups.sum(1, keepdim=True)) / (size - 1)).reshape(-1)


def group_normalised(scores: torch.Tensor, size: int, *, scale: bool = True) -> torch.Tensor:
    """(B,): each score minus the mean of its group, divided by its standard deviation (of the group at hand), 0 where all are equal.

    scale: without the division, which weighs groups by how hard they are. Source: Shao et al. 2024 (GRPO), section 4.1.2; Liu et al. 2025
    (Dr. GRPO), section 3.1, for the form without.
    """
    groups = _groups(scores, size)
    centred = groups - groups.mean(1, keepdim=True)
    if not scale:
        return centred.reshape(-1)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(spread > _TINY, centred / spread.clamp(min=_TINY), 0.0).reshape(-1)


def _groups(scores: torch.Tensor, size: int) -> torch.Tensor:
    if size < 2 or len(scores) % size:
        raise OptionError(
            f"group={size}: {len(scores)} answers cannot be compared in groups of that size. Use 2 or more answers to each prompt."
        )
    return scores.reshape(-1, size)


@dataclass
class Coefficient:
    """The weight of the KL term. With a target it moves: by at most 2% an update, up where the policy is further from the reference.

    beta <- beta (1 + 0.1 clip((KL - target) / target, -0.2, 0.2)), KL in nats an answer. Source: Ziegler et al. 2019, section 2.2.
    """

    value: float
    target: float | None = None
    speed: float = 0.1

    def update(self, kl: float) -> None:
        """Move towards what keeps the KL, in nats an answer, at the target; without a target nothing moves."""
        if self.target is not None:
            error = (kl - self.target) / self.target
            self.value *= 1 + self.speed * min(max(error, -ERROR_CLIP), ERROR_CLIP)


@dataclass
class Scale:
    """The running mean and deviation of rewards, over all that were seen. Source: Welford 1962, in the form for batches by Chan et al. 1979."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def see(self, scores: torch.Tensor) -> None:
        """Take in a batch of scores (B,)."""
        found, count = scores.double(), len(scores)
        if not count:
            return
        mean, squares = float(found.mean()), float(((found - found.mean()) ** 2).sum())
        total, apart = self.count + count, mean - self.mean
        self.squares += squares + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def apply(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores divided by the deviation seen so far, not shifted: what is good stays good. Constant rewards stay as they are."""
        spread = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return scores / spread if spread > _TINY else scores

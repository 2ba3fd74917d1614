"""The loop of learning from rewards: draw answers, score them, learn from them in a few epochs, look at the figures, go on or stop.

ppo.py, rloo.py, grpo.py and ift.py say how a score becomes an advantage; all else is here. The loop is not train/fit.py's, because its rows are
made by what it trains; optimizer state, checkpoints and signals are. Answers, states, log-probabilities, rewards and values are computed
once a step, and every epoch reads them.

Every random number of step n comes from the seed and n alone, so a run that was killed goes on bit for bit from its last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from trunkline.alignment.estimators import (
    Coefficient,
    Scale,
    explained_variance,
    kl_k1,
    kl_k3,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from trunkline.alignment.experience import Experience, Goal, Learned, Progress, Reward, Settings
from trunkline.alignment.guards import ALARM, Guard, distinct
from trunkline.alignment.rewards import Scores, judge, parts_of, require_worthy
from trunkline.alignment.roles import policy_from, same_trunk
from trunkline.alignment.rollout import Drawing, Rollouts, check_policy, roll_out
from trunkline.alignment.scoring import Value, cut_states, token_scores
from trunkline.branch import Branch, restore
from trunkline.errors import DataError, OptionError, TrainingError
from trunkline.memory import give_back_at_once
from trunkline.model.batches import by_length
from trunkline.progress import timed
from trunkline.states.collate import collate
from trunkline.train.checkpoint import Checkpoints, Tensors
from trunkline.train.fit import optimizer_tensors, restore_optimizer
from trunkline.train.signals import held
from trunkline.types import Batch, Row

_BAD = 3
_TOKENS_AT_ONCE, _TOKENS_ON_A_GPU = {"cpu": 512}, 16_384
"""Tokens, prompts included, of a part of a minibatch."""
_SAMPLES = 2


def learn(
    start: Branch, rows: Sequence[Row], reward: Reward, goal: Goal, settings: Settings, *, gold: Reward | None = None,
    checkpoints: Checkpoints | None = None, on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Learned:  # fmt: skip
    """A policy that goes on from `start`, and writes what `reward` is for.

    rows: the prompts; reward: a judge or several with weights (rewards.py); gold: another reward that is only watched, for R5's guard
    on_step: called with each entry of the history. Raises: OptionError, DataError, TrainingError.
    """
    loop = Loop(start, rows, reward, goal, settings, gold, checkpoints)
    loop.resume()
    try:
        while not loop.progress.done:
            loop.step()
            if on_step:
                on_step(loop.progress.history[-1])
    except KeyboardInterrupt:
        loop.save()
        raise
    loop.policy.network.eval()
    return Learned(loop.policy, loop.progress.history, loop.progress.stopped)


class Loop:
    """The state of one run, with one method for each thing that happens in it."""

    def __init__(
        self, start: Branch, rows: Sequence[Row], reward: Reward, goal: Goal, settings: Settings, gold: Reward | None,
        checkpoints: Checkpoints | None,
    ) -> None:  # fmt: skip
        check_policy(start)
        give_back_at_once()
        if not rows:
            raise DataError("no prompts: give at least one row with a text.")
        self.start, self.rows, self.goal, self.settings, self.checkpoints = start, list(rows), goal, settings, checkpoints
        self.on_states = settings.value_from == "states" and start.backbone.family.kind == "decoder"
        self.policy = policy_from(start)
        same_trunk({"policy": self.policy, "reference": start})
        self.device = start.backbone.device
        self.drawing = Drawing(settings.max_new_tokens, settings.temperature)
        self.reward = parts_of(reward, start)
        require_worthy(self.reward, settings.weak_reward)
        self.gold = parts_of(gold, start) if gold is not None else None
        self.learned: dict[str, torch.nn.Parameter] = dict(self.policy.network.learned())
        if not self.learned:
            raise OptionError(
                f"the start has method {start.method!r}, which trains nothing in a policy. Use 'lora' or 'full', at a depth of 1 or more."
            )
        if getattr(start.config, "start", "") == "eva" and start.report is None:
            raise OptionError(
                "start='eva': begins from training rows, and what a policy learns from is yet to be written. Use 'zero' or 'pissa'."
            )
        groups = [{"params": list(self.learned.values()), "lr": settings.learning_rate}]
        self.value = self._value() if goal.has_value else None
        if self.value is not None:
            of_value = {f"value.{name}": p for name, p in self.value.named_parameters()}
            groups.append({"params": list(of_value.values()), "lr": settings.value_learning_rate})
            self.learned |= of_value
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.coefficient = Coefficient(settings.kl, settings.kl_target)
        self.scale, self.guard = Scale(), Guard(settings.kl_target, settings.kl_cap, settings.hacking)
        self.progress = Progress(coefficient=settings.kl)
        self.good = self._snapshot()
        self.saved_at = time.monotonic()

    def _value(self) -> Value:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return Value(self.start.backbone.width).to(self.device)

    def resume(self) -> None:
        """Go on from the newest checkpoint, where there is one."""
        found = self.checkpoints.latest() if self.checkpoints else None
        if not found:
            return
        groups, state = found
        self._put(groups["weights"])
        self.good = groups["good"]
        restore_optimizer(self.optimizer, self.learned, groups["optimizer"])
        self.progress = Progress(**state["progress"])
        self.coefficient.value = self.progress.coefficient
        self.scale, self.guard = Scale(**self.progress.scale), Guard(**self.progress.guard)

    def save(self) -> None:
        """Write a checkpoint. Only between steps: what a step has begun is done again after a kill."""
        if not self.checkpoints:
            return
        groups = {"weights": self._snapshot(), "good": self.good, "optimizer": optimizer_tensors(self.optimizer, self.learned)}
        self.checkpoints.save(self.progress.step, groups, {"progress": asdict(self.progress)})
        self.saved_at = time.monotonic()

    def step(self) -> None:
        """One batch of answers: measured always, and learned from unless it is the last one or a guard stops the run."""
        progress, seconds = self.progress, dict[str, float]()
        last = progress.step == self.settings.steps
        with timed(seconds, "generate"):
            rollouts = self.draw()
        with timed(seconds, "score"):
            found = self.score(rollouts)
        entry = self.entry(found)
        with held():
            self.watch(entry)
            if not progress.done and not last:
                with timed(seconds, "update"):
                    entry |= self.update(found)
                self._stop_if(self.guard.skipped_out)
                self.coefficient.update(entry["kl"])
            progress.history.append(_in_order(entry | {"seconds": seconds}))
            progress.step += 1
            progress.done |= last
            progress.coefficient, progress.scale, progress.guard = self.coefficient.value, asdict(self.scale), self.guard.to_json()
        if progress.done or time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds:
            self.save()

    def draw(self) -> Rollouts:
        """A group of answers to each of some prompts, which are shuffled anew in each round through all of them."""
        settings, wanted, rows = self.settings, self.settings.answers // self.settings.group, []
        for at in range(self.progress.step * wanted, (self.progress.step + 1) * wanted):
            turn, place = divmod(at, len(self.rows))
            rows.append(self.rows[int(np.random.default_rng((settings.seed, turn)).permutation(len(self.rows))[place])])
        every = [row for row in rows for _ in range(settings.group)]
        return roll_out(self.policy, every, self.drawing, seed=settings.seed * 1_000_003 + self.progress.step)

    @torch.no_grad()
    def score(self, rollouts: Rollouts) -> Experience:
        """Log-probabilities of policy and reference, values and rewards, all from the states that were caught."""
        mask = rollouts.mask
        told = judge(self.reward, rollouts, self.policy, missing_end=self.settings.missing_end)
        policy, entropy, reference, values = (torch.zeros(mask.shape) for _ in range(4))
        self.policy.network.eval()
        self.start.network.eval()
        for indices in by_length([len(item.tokens[0]) for item in rollouts.items]):
            batch, counts = self._batch(rollouts, indices), mask[indices]
            ours = token_scores(self.policy.network, batch, temperature=self.settings.temperature, with_entropy=True)
            theirs = token_scores(self.start.network, batch, temperature=self.settings.temperature)
            found = [(policy, ours.log_probability), (entropy, ours.entropy), (reference, theirs.log_probability)]
            if self.value is not None:
                found.append((values, self.value(self._states(batch, ours.hidden))))
            for grid, flat in found:
                rows = grid[indices]
                rows[counts] = flat.float().cpu()
                grid[indices] = rows
        scores = torch.from_numpy(told.total).float()
        if self.settings.scale_rewards:
            self.scale.see(scores)
            scores = self.scale.apply(scores)
        return self.experience(rollouts, told, scores, (policy, reference, entropy, values))

    def experience(self, rollouts: Rollouts, told: Scores, scores: torch.Tensor, grids: tuple[torch.Tensor, ...]) -> Experience:
        """The advantages of what was scored. `grids`: policy, reference, entropy, values, (N, A) each."""
        policy, reference, entropy, values = grids
        mask, coefficient = rollouts.mask, self.coefficient.value if self.goal.kl_in == "reward" else 0.0
        rewards = token_rewards(scores, kl_k1(policy, reference), mask, coefficient)
        found = Experience(rollouts, mask, policy, reference, entropy, values, scores, told, rewards, torch.zeros_like(rewards))
        found.advantages, found.returns = self.goal.advantages(found, self.settings)
        return found

    def update(self, found: Experience) -> dict[str, Any]:
        """Some epochs over the answers, an optimizer step for each minibatch; and what is said of them."""
        told: list[dict[str, float]] = []
        advantages = whiten(found.advantages, found.mask) if self.settings.whiten_advantages else found.advantages
        for epoch in range(self.settings.epochs):
            order = np.random.default_rng((self.settings.seed, self.progress.step, epoch, 1)).permutation(len(found.rollouts))
            for at in range(0, len(order), self.settings.minibatch):
                if self.guard.skipped_out is None:
                    told.append(self.minibatch(found, advantages, order[at : at + self.settings.minibatch]))
        return _summary(told)

    def minibatch(self, found: Experience, advantages: torch.Tensor, indices: np.ndarray) -> dict[str, float]:
        """One optimizer step, skipped where a ratio is out of all proportion or a gradient is no finite number."""
        mask = found.mask[indices]
        weights, tokens = _weights(self.goal.weights, mask), max(int(mask.sum()), 1)
        self.optimizer.zero_grad(set_to_none=True)
        told = [
            self.part(found, advantages, indices[some], weights[some], int(mask[some].sum()) / tokens)
            for some in self._parts(found, indices)
        ]
        whole = _joined(told)
        if self.guard.allows(whole["ratio_low"], whole["ratio_high"]):
            self._take()
        else:
            whole["skipped"] = 1.0
        return whole

    def part(
        self, found: Experience, advantages: torch.Tensor, indices: np.ndarray, weights: torch.Tensor, share: float
    ) -> dict[str, float]:  # fmt: skip
        """Add the gradient of some answers of a minibatch. weights: of their tokens in its loss (B, A); share: of its tokens that are theirs."""
        mask, batch, settings = found.mask[indices], self._batch(found.rollouts, indices), self.settings
        scores = token_scores(self.policy.network, batch, temperature=settings.temperature, with_entropy=settings.entropy > 0)
        old, reference, gained, flat = (
            grid[mask].to(self.device) for grid in (found.policy[indices], found.reference[indices], advantages[indices], weights)
        )
        loss, told = self._policy_loss(scores.log_probability, old, reference, gained, flat)
        loss = loss - settings.entropy * (flat * scores.entropy).sum()
        if self.value is not None and found.returns is not None:
            values = self.value(self._states(batch, scores.hidden))
            was, returns = (grid[indices][mask].to(self.device) for grid in (found.values, found.returns))
            of_value, told["value_clipped"] = value_loss(
                values, was, returns, torch.ones_like(returns, dtype=torch.bool), settings.value_clip
            )
            loss, told["value_loss"] = loss + share * of_value, float(of_value.detach())
        loss.backward()
        return told | {"share": share}

    def _parts(self, found: Experience, indices: np.ndarray) -> list[np.ndarray]:
        """The places of a minibatch in as many parts as keep each to so many tokens: what is kept for the way back is as large as a part."""
        tokens = sum(len(found.rollouts.items[at].tokens[0]) for at in indices)
        most = _TOKENS_AT_ONCE.get(self.device.type, _TOKENS_ON_A_GPU)
        return np.array_split(np.arange(len(indices)), min(math.ceil(tokens / most), len(indices)))

    def _policy_loss(
        self, new: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantages: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
        clip = self.settings.clip if self.goal.clipped else float("inf")
        found = policy_loss(new, old, advantages, torch.ones_like(new, dtype=torch.bool), clip, weights)
        told = {"clip_fraction": found.clipped, "ratio": found.ratio, "ratio_low": found.low, "ratio_high": found.high, "skipped": 0.0}
        loss = found.loss
        if self.goal.kl_in == "loss":
            loss = loss + self.coefficient.value * (weights * kl_k3(new, reference)).sum()
        return loss, told | {"policy_loss": float(found.loss.detach())}

    def _take(self) -> None:
        of_policy = [p for name, p in self.learned.items() if not name.startswith("value.")]
        of_value = [p for name, p in self.learned.items() if name.startswith("value.")]
        norms = [torch.nn.utils.clip_grad_norm_(group, self.settings.clip_gradient) for group in (of_policy, of_value) if group]
        if all(bool(torch.isfinite(norm)) for norm in norms):
            self.optimizer.step()
            self.progress.bad = 0
            return
        self.progress.bad += 1
        if self.progress.bad >= _BAD:
            raise TrainingError(
                f"step {self.progress.step}: the gradient is not a finite number, {_BAD} times in a row. Use a smaller learning rate."
            )

    def entry(self, found: Experience) -> dict[str, Any]:
        """The figures of one batch of answers, before it is learned from."""
        mask, lengths = found.mask, found.mask.sum(1).float()
        kl = torch.where(mask, kl_k1(found.policy, found.reference), 0.0).sum(1)
        entry: dict[str, Any] = {
            "step": self.progress.step,
            "reward": float(found.told.total.mean()),
            "reward_deviation": float(found.told.total.std()),
            "parts": {name: float(values.mean()) for name, values in found.told.parts.items()},
            "kl": float(kl.mean()),
            "coefficient": self.coefficient.value,
            "entropy": float(masked_mean(found.entropy, mask)),
            "length": float(lengths.mean()),
            "ended": float(found.rollouts.ended.mean()),
            "distinct": distinct(found.rollouts.ids),
            "samples": _samples(found),
        }
        if found.returns is not None:
            entry["explained_variance"] = explained_variance(found.values, found.returns, mask)
        if self.gold is not None:
            entry["gold"] = float(judge(self.gold, found.rollouts, self.policy).total.mean())
        return entry

    def watch(self, entry: dict[str, Any]) -> None:
        """Ask the guard; keep the weights where all is well, go back to those that were good where it stops the run."""
        self._stop_if(self.guard.judge(entry))
        if not self.progress.done and self.guard.good(entry["kl"]):
            self.good = self._snapshot()

    def _stop_if(self, reason: str | None) -> None:
        if reason:
            self.progress.stopped, self.progress.done = reason, True
            self._put(self.good)

    def _batch(self, rollouts: Rollouts, indices: np.ndarray) -> Batch:
        items = [rollouts.items[at] for at in indices]
        return collate(items, rollouts.source, self.policy.spec, self.policy.backbone.tokenizer.pad_id).to(self.device)

    def _states(self, batch: Batch, last: torch.Tensor) -> torch.Tensor:
        """What a value is read from. It never moves the policy's layers."""
        return cut_states(batch) if self.on_states else last.detach()

    def _snapshot(self) -> Tensors:
        return {name: p.detach().cpu().clone().contiguous() for name, p in self.learned.items()}

    def _put(self, tensors: Tensors) -> None:
        of_value = {name.removeprefix("value."): tensor for name, tensor in tensors.items() if name.startswith("value.")}
        restore(self.policy.network, {name: tensor for name, tensor in tensors.items() if not name.startswith("value.")}, "checkpoint")
        if self.value is not None:
            self.value.load_state_dict(of_value, strict=True)


def _weights(kind: str, mask: torch.Tensor) -> torch.Tensor:
    """(B, A): of each token in the sum that is the loss, where the mask has one."""
    lengths = mask.sum(1, keepdim=True)
    if kind == "tokens":
        found = torch.full(mask.shape, 1 / max(int(lengths.sum()), 1))
    else:
        found = torch.full(mask.shape, 1 / len(mask))
        found = found / lengths.clamp(min=1) if kind == "within" else found
    return found


def _joined(told: Sequence[dict[str, float]]) -> dict[str, float]:
    """What the parts of a minibatch said, together: sums of what each adds to the loss, means over tokens, extremes."""
    found = {name: sum(one["share"] * one[name] for one in told) for name in told[0] if name != "share"}
    found["policy_loss"] = sum(one["policy_loss"] for one in told)
    low, high = min(one["ratio_low"] for one in told), max(one["ratio_high"] for one in told)
    return found | {"ratio_low": low, "ratio_high": high, "alarm": float(low < ALARM[0] or high > ALARM[1])}


def _summary(told: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over minibatches, but the extremes of ratios, and counts of what was skipped or alarming."""
    found: dict[str, Any] = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
    found["ratio_low"], found["ratio_high"] = min(one["ratio_low"] for one in told), max(one["ratio_high"] for one in told)
    found["skipped"], found["alarm"] = int(sum(one["skipped"] for one in told)), int(sum(one["alarm"] for one in told))
    return found


def _in_order(value: Any) -> Any:
    """With the names in the order in which a checkpoint gives them back, so that a run that goes on has the very history of one left alone."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value


def _samples(found: Experience) -> list[dict[str, Any]]:
    rollouts = found.rollouts
    return [
        {"prompt": rollouts.rows[at]["text"][-300:], "answer": rollouts.texts[at][:500], "reward": float(found.told.total[at])}
        for at in range(min(_SAMPLES, len(rollouts)))
    ]

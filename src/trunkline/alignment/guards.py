"""What watches a policy while it learns: how far it is from the reference, how large its steps are, whether it games its reward; and whether
what came out may be promoted.

A guard that stops a run gives the reason; the loop then goes back to the last weights that were good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trunkline.alignment.rewards import Part, judge, parts_of
from trunkline.alignment.rollout import Drawing, roll_out
from trunkline.branch import Branch
from trunkline.errors import TrainingError
from trunkline.evaluation.interval import bootstrap_mean
from trunkline.types import Row

LEAST_KL = -1.0
"""Nats an answer. A mean below it cannot come from chance: what was drawn is not what is scored."""
ALARM = (0.1, 2.0)
MOST_RATIO = 10.0
_SKIPS = 3
_FAR = 10
"""Updates in a row with a KL of more than twice the target."""
_STRANGE = 3
"""Steps in a row with a sign of a gamed reward."""
_WINDOW = 3
"""Steps that are averaged, at the start and now."""
LONGER, POORER, OPEN, FALLEN = 1.5, 0.7, 0.1, 0.03
"""Signs: length times so much, distinct pairs of words times so little, so much smaller a share of closed answers; gold so far below its peak."""


@dataclass
class Guard:
    """Its fields are all that it remembers, so that a run that was stopped goes on bit for bit.

    target, cap: of the KL in nats an answer, or None; hacking: "stop", "note" or "off"
    far, skips, strange: how many times in a row; seen: the figures of each step
    """

    target: float | None = None
    cap: float | None = None
    hacking: str = "stop"
    far: int = 0
    skips: int = 0
    strange: int = 0
    seen: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def allows(self, low: float, high: float) -> bool:
        """Whether a step may be taken in which the ratios of new and old probabilities lie between these (R2)."""
        self.skips = self.skips + 1 if not high <= MOST_RATIO else 0  # a NaN too
        return self.skips == 0

    @property
    def skipped_out(self) -> str | None:
        """The reason to stop after several skipped steps in a row."""
        if self.skips < _SKIPS:
            return None
        return f"{_SKIPS} minibatches in a row had a ratio above {MOST_RATIO:g}: the policy moved too far in one update. Use a smaller learning rate."

    def judge(self, entry: dict[str, Any]) -> str | None:
        """The reason to stop after this step, if there is one. Signs of a gamed reward are noted in the entry.

        Raises: TrainingError where the KL is so far below zero that drawing and scoring cannot be the same (R3).
        """
        if entry["kl"] < LEAST_KL:
            raise TrainingError(
                f"step {entry['step']}: the KL to the reference is {entry['kl']:.2f} nats an answer, and below zero beyond chance: answers are drawn "
                "in another way than they are scored. Draw from all tokens (top_p 1, top_k 0), at the temperature of the scores."
            )
        self.seen.append(
            {name: float(entry[name]) for name in ("reward", "length", "distinct", "ended", "gold") if entry.get(name) is not None}
        )
        entry["signs"] = self.signs() if self.hacking != "off" else []
        self.strange = self.strange + 1 if entry["signs"] else 0
        return self._far_off(entry["kl"]) or self._gamed(entry["signs"])

    def good(self, kl: float) -> bool:
        """Whether weights with this KL may be gone back to."""
        return kl <= min(2 * self.target if self.target else np.inf, self.cap or np.inf) and not self.strange

    def _far_off(self, kl: float) -> str | None:
        """R1."""
        self.far = self.far + 1 if self.target is not None and kl > 2 * self.target else 0
        if self.cap is not None and kl > self.cap:
            return f"the KL to the reference is {kl:.1f} nats an answer, over the cap of {self.cap:g}. Use a smaller learning rate or a larger kl."
        if self.far >= _FAR:
            return f"the KL to the reference was over twice its target of {self.target:g} for {_FAR} updates. Use a smaller learning rate."
        return None

    def _gamed(self, signs: Sequence[str]) -> str | None:
        """R5."""
        if self.hacking == "stop" and self.strange >= _STRANGE:
            return f"the reward may be gamed: {'; '.join(signs)}. Read the samples; give another reward, or hacking='note' to go on."
        return None

    def signs(self) -> list[str]:
        """What speaks for a gamed reward: the last few steps against the first few, and gold against its peak."""
        if len(self.seen) < 2 * _WINDOW:
            return []
        first, now = _mean(self.seen[:_WINDOW]), _mean(self.seen[-_WINDOW:])
        found = []
        if now["length"] > LONGER * first["length"]:
            found.append(f"answers are {now['length'] / first['length']:.1f} times as long as at the start")
        if now["distinct"] < POORER * first["distinct"]:
            found.append(f"they say {1 - now['distinct'] / first['distinct']:.0%} fewer different things")
        if now["ended"] < first["ended"] - OPEN:
            found.append(f"{first['ended'] - now['ended']:.0%} fewer come to an end")
        return found + self._gold()

    def _gold(self) -> list[str]:
        told = [one for one in self.seen if "gold" in one]
        if len(told) < 2 * _WINDOW:
            return []
        means = [_mean(told[at : at + _WINDOW]) for at in range(len(told) - _WINDOW + 1)]
        best = max(means, key=lambda one: one["gold"])
        fallen = best["gold"] - means[-1]["gold"]
        if fallen > FALLEN * abs(best["gold"]) and means[-1]["reward"] >= best["reward"]:
            return [f"the other reward is {fallen:.3g} below its best of {best['gold']:.3g}, and the reward rises"]
        return []


def distinct(ids: Sequence[np.ndarray], size: int = 2) -> float:
    """The share of different ones among all runs of so many tokens; 1 where there is none. Source: Li et al. 2016 (distinct-n).

    >>> distinct([np.array([1, 2, 1, 2])])
    0.6666666666666666
    """
    runs = [tuple(one[at : at + size].tolist()) for one in ids for at in range(len(one) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


@dataclass(frozen=True)
class Promotion:
    """before, after: mean safety score of start and policy on the same prompts; difference with its 95% interval; allowed, and why not."""

    before: float
    after: float
    difference: float
    low: float
    high: float
    allowed: bool
    reason: str


def promotion(
    policy: Branch, start: Branch, safety: Any, rows: Sequence[Row], *, drawing: Drawing | None = None, tolerance: float = 0.0, seed: int = 0
) -> Promotion:  # fmt: skip
    """Whether a policy may take the place of its start: not when its safety score has fallen on these prompts.

    safety: a judge as for a reward (a branch, a function, a `Part`), higher is safer; tolerance: a fall of the mean by no more than this is
    nothing. The interval says how sure the difference is; what decides is the mean, since a fall that is not proven is no proof of safety.
    Raises: as `judge`.
    """
    found = []
    for branch in (start, policy):
        parts = parts_of(safety if isinstance(safety, Part | dict) else Part(safety), branch)
        found.append(judge(parts, roll_out(branch, rows, drawing or Drawing(), seed=seed), branch).total)
    before, after = found
    moved = bootstrap_mean(after - before, seed=seed)
    allowed = moved.value >= -tolerance
    reason = (
        ""
        if allowed
        else f"the safety score fell from {before.mean():.3g} to {after.mean():.3g} on {len(rows)} prompts ({moved.low:.3g} to {moved.high:.3g})."
    )
    return Promotion(float(before.mean()), float(after.mean()), moved.value, moved.low, moved.high, allowed, reason)


def require_promotion(found: Promotion) -> None:
    """Raises: TrainingError where the policy may not be promoted."""
    if not found.allowed:
        raise TrainingError(
            f"the policy is not promoted: {found.reason} Add the safety judge to the reward with a weight, and align again."
        )


def _mean(entries: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in entries])) for name in entries[0]}

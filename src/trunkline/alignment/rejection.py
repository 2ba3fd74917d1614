"""Goal: rejection sampling. The policy answers each prompt several times, a judge picks the best, and those are learned as in plain tuning.

The states that were caught while the answers were written are what is learned from, so no answer goes through the trunk again. `best_of` is
the same without learning: the best of several answers, when one is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import branch as branches
from trunkline import storage
from trunkline.alignment.finish import judges_of
from trunkline.alignment.rewards import Part, judge, parts_of, require_worthy
from trunkline.alignment.roles import policy_from
from trunkline.alignment.rollout import Drawing, Rollouts, roll_out
from trunkline.branch import Branch, identity, savable
from trunkline.choices import between, one_of
from trunkline.data.split import Split
from trunkline.errors import OptionError
from trunkline.evaluation.interval import bootstrap_mean
from trunkline.progress import timed
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import Row

READS = "generate"
STEP = 0.3
"""The learning rate where none is told, as a share of the method's own."""


@dataclass(frozen=True)
class Config:
    """answers: to each prompt; keep: so many of them, the best, are learned; rounds: of answering and learning

    reward, label: folders of branches that judge, with + between them and a weight behind a *; and the label that a classifier is asked for
    max_new_tokens, temperature: how answers are drawn
    weak_reward: at a reward branch that hardly tells pairs "stop" or "note"
    """

    reward: str = ""
    label: str | None = None
    answers: int = 8
    keep: int = 1
    rounds: int = 1
    max_new_tokens: int = 24
    temperature: float = 1.0
    weak_reward: str = "stop"

    def __post_init__(self) -> None:
        one_of("weak_reward", self.weak_reward, ("stop", "note"))
        for name, low, high in (("answers", 2, 1024), ("keep", 1, 1023), ("rounds", 1, 100), ("max_new_tokens", 1, 131072),
                                ("temperature", 0.01, 100)):  # fmt: skip
            between(name, getattr(self, name), low, high)
        if self.keep >= self.answers:
            raise OptionError(f"keep={self.keep} of answers={self.answers}: nothing would be rejected. Keep fewer.")

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.max_new_tokens, self.temperature)


@dataclass(frozen=True)
class Best:
    """Of each prompt the best answer and its score; scores: (N, answers) of all, in the order in which they were drawn."""

    texts: tuple[str, ...]
    best: np.ndarray
    scores: np.ndarray

    def curve(self) -> np.ndarray:
        """(answers,): the mean score of the best of 1, 2, ... answers, over all ways to draw so many of those that are there.

        Source: as pass@k of Chen et al. 2021, equation 1: the j-th worst of n is the best of k with the chance C(j-1, k-1) / C(n, k).
        """
        ordered = np.sort(self.scores, axis=1).mean(axis=0)
        count = len(ordered)
        chances = [[math.comb(j, k - 1) / math.comb(count, k) for j in range(count)] for k in range(1, count + 1)]
        return np.asarray(chances) @ ordered


def drift(answers: int) -> float:
    """The most that the best of so many answers can differ from the policy, in nats of KL. Source: Stiennon et al. 2020, appendix G.3."""
    return math.log(answers) - (answers - 1) / answers


def best_of(
    policy: Branch, rows: Sequence[Row], reward: Any, *, answers: int = 8, drawing: Drawing | None = None, seed: int = 0
) -> Best:  # fmt: skip
    """The best of several answers to each prompt. reward: a function of rows and answers, a branch that judges, or several (rewards.py)."""
    drawn, scores = _drawn(policy, rows, parts_of(reward, policy), answers, drawing or Drawing(), seed)
    first = scores.argmax(axis=1)
    texts = tuple(drawn.texts[at * answers + place] for at, place in enumerate(first))
    return Best(texts, scores.max(axis=1), scores)


def align(start: Branch, parts: Split, config: Config, settings: Settings, out: Path | None = None) -> Branch:
    """The policy's branch, after each round from the best of its own answers on; a run that was stopped goes on at its round.

    Raises: OptionError without a judge; as `fit` and `branch.load`.
    """
    if not config.reward:
        raise OptionError("goal='rejection': what is rewarded? Give a branch that judges, as in rejection:reward=runs/judge.")
    return improve(start, parts, judges_of(config.reward, config.label, start), config, settings, out)


def improve(
    start: Branch, parts: Split, reward: Any, config: Config, settings: Settings, out: Path | None = None
) -> Branch:  # fmt: skip
    """`align` with any reward that `best_of` takes."""
    out = savable(out) if out else None
    folder = out.with_name(f"{out.name}.checkpoints") if out else None
    judges, policy, seconds = parts_of(reward, start), policy_from(start), dict[str, float]()
    require_worthy(judges, config.weak_reward)
    free = ("checkpoint_seconds", "force", "threads", "device")
    told = {f"settings.{name}": value for name, value in asdict(settings).items() if name not in free}
    about = {"goal": "rejection", "config": asdict(config), "rows": parts.train.fingerprint, "start": identity(start), **told}
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        kept = stack.enter_context(Checkpoints(folder, about, force=settings.force)) if folder else None
        if kept and (found := kept.latest()):
            rounds = found[1]["rounds"]
            branches.restore(policy.network, found[0]["weights"], "checkpoint")
        for number in range(len(rounds), config.rounds):
            within = stack.enter_context(Checkpoints(folder / f"at-{number}", about, force=settings.force)) if folder else None
            rounds.append(_round(policy, parts, judges, config, settings, number, within, seconds))
            if kept:
                weights = {name: p.detach().cpu().contiguous() for name, p in policy.network.learned().items()}
                kept.save(len(rounds), {"weights": weights}, {"rounds": rounds})
    policy = _measured(start, policy, parts, judges, config, settings, rounds, seconds)
    if out and folder:
        policy.save(out)
        storage.remove_folder(folder)
    return policy


def _round(
    policy: Branch, parts: Split, judges: dict[str, Part], config: Config, settings: Settings, number: int, kept: Checkpoints | None,
    seconds: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """One round of answering and learning, in place; says what was drawn and kept."""
    rows, held = list(parts.train), list(parts.validation)
    with timed(seconds, "draw"):
        drawn, scores = _drawn(policy, [*rows, *held], judges, config.answers, config.drawing, settings.seed * 1009 + number)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : config.keep]
    best = [[drawn.items[at * config.answers + place] for place in places] for at, places in enumerate(order)]
    train, validation = ([item for group in some for item in group] for some in (best[: len(rows)], best[len(rows) :]))
    data = Data(train, validation, drawn.source, policy.spec, policy.backbone.tokenizer.pad_id)
    rate = settings.learning_rate or STEP * policy.config.learning_rate
    with timed(seconds, "align"):
        fit(policy.network, data, settings, learning_rate=rate, seed=settings.seed + number, checkpoints=kept)
    picked = np.take_along_axis(scores, order, axis=1)
    return {"round": number, "drawn": float(scores.mean()), "kept": float(picked.mean())}


def _drawn(
    policy: Branch, rows: Sequence[Row], judges: dict[str, Part], answers: int, drawing: Drawing, seed: int
) -> tuple[Rollouts, np.ndarray]:  # fmt: skip
    """So many answers to each prompt, one prompt after the other, and what each is worth (N, answers)."""
    drawn = roll_out(policy, [row for row in rows for _ in range(answers)], drawing, seed=seed)
    return drawn, judge(judges, drawn, policy).total.reshape(len(rows), answers)


def _measured(
    start: Branch, policy: Branch, parts: Split, judges: dict[str, Part], config: Config, settings: Settings, rounds: list[dict[str, Any]],
    seconds: dict[str, float],
) -> Branch:  # fmt: skip
    """The policy with its report: what one drawn answer is worth on held-out prompts, before and after, with the interval of the difference."""
    rows = list(parts.test or parts.validation)
    (old, was), (new, now) = (_drawn(branch, rows, judges, 2, config.drawing, settings.seed) for branch in (start, policy))
    gain = bootstrap_mean(now.mean(axis=1) - was.mean(axis=1))
    notes = [
        f"round {one['round'] + 1}: answers drawn are worth {one['drawn']:.3f} on average, those kept {one['kept']:.3f}" for one in rounds
    ]
    notes.append(f"on {len(rows)} held-out prompts an answer was worth {was.mean():.3f} before and {now.mean():.3f} after: {gain.value:+.3f} "
                 f"({gain.low:+.3f} to {gain.high:+.3f})")  # fmt: skip
    samples = [
        {"text": row["text"], "label": "", "before": old.texts[2 * at], "predicted": new.texts[2 * at]} for at, row in enumerate(rows[:8])
    ]
    told = {"source": parts.train.source, "rows": {name: len(part) for name, part in parts.parts().items()}, "notes": notes}
    report = branches.Report(
        "rejection",
        data=told,
        samples=samples,
        settings=asdict(config) | asdict(settings),
        cost={"seconds": seconds},
        seeds=[settings.seed],
    )
    return replace(policy, report=report)

"""Goal: a policy gradient on a reward that is learned too: E[f_psi(x, y) grad log p_theta(y | x)], psi and theta in turn (IFT).

Cooperative: psi learns what people say of the policy's own newest answers, which a callback asks them; theta learns to please psi.
Adversarial: psi learns to tell people's answers from the policy's, theta to be taken for a person. Both end by a rule of their own.
psi reads what the untouched model makes of an answer: the mean of its last states over the answer's tokens, which scoring computes anyway.

Source: Williams 1992 (REINFORCE), equation 4; the baseline of the other answers, Kool et al. 2019; the adversarial game, Yu et al. 2017 (SeqGAN),
section 3, where we differ: psi is a small network on frozen states, not a model of its own. The KL term is part of the reward: its gradient is
E[log(p / reference) grad log p], because E[grad log p] = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.alignment import finish
from trunkline.alignment.estimators import leave_one_out
from trunkline.alignment.experience import Experience, Goal, Learned, Settings
from trunkline.alignment.history import Events
from trunkline.alignment.online import Loop
from trunkline.alignment.rewards import Part
from trunkline.alignment.rollout import Rollouts, roll_out
from trunkline.alignment.scoring import Value, token_scores
from trunkline.branch import Branch, savable
from trunkline.choices import between, one_of
from trunkline.data.split import Split
from trunkline.errors import DataError
from trunkline.model.batches import by_length
from trunkline.states.collate import Source, collate
from trunkline.train import settings as training
from trunkline.types import Item, Row

READS = "generate"
Feedback = Callable[[Sequence[Row], Sequence[str]], Sequence[float]]
"""From rows and the policy's newest answers to what people say of them: 1 and 0, or ratings; higher is better."""


@dataclass(frozen=True)
class Config(Settings):
    """As all; steps are those of theta, in each of so many rounds.

    mode: "cooperative" or "adversarial"; rounds: of psi and theta in turn; asked: answers that psi learns from in a round
    psi_steps, psi_rate: of psi's learning in a round; patience: so many rounds in a row without gain (cooperative), or in which psi cannot tell
    (adversarial), end it; margin: how far above one half psi's accuracy may be for that
    """

    mode: str = "cooperative"
    rounds: int = 10
    steps: int = 2
    asked: int = 64
    group: int = 4
    epochs: int = 1
    minibatch: int = 65536
    whiten_advantages: bool = False
    scale_rewards: bool = False
    psi_steps: int = 100
    psi_rate: float = 1e-2
    patience: int = 3
    margin: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mode", self.mode, ("cooperative", "adversarial"))
        for name, low, high in (("rounds", 1, 100_000), ("asked", 4, 65536), ("psi_steps", 1, 100_000), ("psi_rate", 1e-7, 1.0),
                                ("patience", 1, 1000), ("margin", 0.0, 0.5)):  # fmt: skip
            between(name, getattr(self, name), low, high)


def advantages(found: Experience, settings: Settings) -> tuple[torch.Tensor, None]:
    """(N, A): what an answer earns, less the mean of the other answers, of its prompt or else of the batch: those know nothing of it, so the
    gradient stays unbiased. The same at each token.
    """
    size = settings.group if settings.group > 1 else len(found.mask)
    earned = found.rewards.sum(1)
    of_answers = leave_one_out(earned, size) if size > 1 else earned
    return torch.where(found.mask, of_answers[:, None], 0.0), None


GOAL = Goal("ift", advantages, weights="answers", clipped=False)


class Psi:
    """f_psi: a number for an answer. As a judge it is called with rollouts; `learn` takes it further on features (N, D) and targets (N,)."""

    def __init__(self, reference: Branch, config: Config) -> None:
        self.reference, self.config = reference, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Value(reference.backbone.width).to(reference.backbone.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.psi_rate, weight_decay=1e-3)

    def __call__(self, rows: Sequence[Row], texts: Sequence[str]) -> list[float]:
        raise TypeError("f_psi reads states: it judges rollouts")

    @torch.no_grad()
    def of(self, rollouts: Rollouts) -> np.ndarray:
        """(N,): the scores of some answers."""
        return np.asarray(self.network(self.features(rollouts.items, rollouts.source)).double().cpu().numpy())

    @torch.no_grad()
    def features(self, items: Sequence[Item], source: Source | None) -> torch.Tensor:
        """(N, D): the mean, over the tokens of each answer, of the states that the reference predicts them from."""
        reference, found = self.reference, torch.zeros(len(items), self.reference.backbone.width, device=self.reference.backbone.device)
        reference.network.eval()
        for indices in by_length([len(item.tokens[0]) for item in items]):
            batch = collate([items[at] for at in indices], source, reference.spec, reference.backbone.tokenizer.pad_id).to(found.device)
            states = token_scores(reference.network, batch).hidden.float()
            lengths = [int((np.asarray(items[at].target) != -100).sum()) for at in indices]
            for at, own in zip(indices, states.split(lengths)):
                found[at] = own.mean(0)
        return found

    def learn(self, features: torch.Tensor, targets: torch.Tensor, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        """Some steps of psi on all of these."""
        for _ in range(self.config.psi_steps):
            self.optimizer.zero_grad()
            loss(self.network(features), targets).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()


@dataclass
class Rounds:
    """What was seen round by round. told: mean feedback (cooperative), or how often psi tells right on answers it has not seen (adversarial)."""

    config: Config
    told: list[float] = field(default_factory=list)

    def over(self) -> str | None:
        """The reason to stop after the rounds so far, if there is one."""
        last, patience = self.told[-self.config.patience :], self.config.patience
        if self.config.mode == "adversarial":
            if len(last) == patience and max(last) <= 0.5 + self.config.margin:
                return f"in {patience} rounds in a row psi took the policy's answers for people's: it was right in {np.mean(last):.0%}."
            return None
        if len(self.told) > patience and max(last) <= max(self.told[:-patience]):
            return f"in {patience} rounds in a row people liked the answers no better than before."
        return None


def learn(
    start: Branch, rows: Sequence[Row], config: Config, *, feedback: Feedback | None = None, on_round: Callable[[dict[str, Any]], None] | None = None
) -> Learned:  # fmt: skip
    """A policy that goes on from `start`, and the history: an entry for each step of theta, with `round` and `told`: what psi was told of the

    newest answers (cooperative: the mean of the feedback, None where nobody is asked; adversarial: how often it was right).

    rows: the prompts; adversarial: with a person's answer as `label`; cooperative: rows with an answer (`label`) and what was said of it
    (`liked`) are learned from before the first round. feedback: for the cooperative mode, asked in each round; without it psi learns from
    the rows alone. Raises: DataError where there is nothing for psi to learn from; as `online.learn`.
    """
    rows = list(rows)
    known = [row for row in rows if row.get("label") is not None]
    if config.mode == "adversarial" and len(known) < 2:
        raise DataError("mode='adversarial': psi needs people's answers. Give rows with an answer (`label`).")
    said = [row for row in known if row.get("liked") is not None]
    if config.mode == "cooperative" and feedback is None and not said:
        raise DataError("mode='cooperative': nothing says what is good. Give a feedback function, or rows with an answer and `liked`.")
    psi = Psi(start, config)
    loop = Loop(start, rows, Part(psi), GOAL, config, None, None)
    play = _adversarial(psi, start, known) if config.mode == "adversarial" else _cooperative(psi, start, said, feedback)
    seen = Rounds(config)
    for number in range(config.rounds):
        told = play(loop, number)
        if told is not None:
            seen.told.append(told)
        if reason := seen.over():
            loop.progress.stopped = reason
            break
        for _ in range(config.steps):
            _step(loop, {"round": number, "told": told})
            if on_round:
                on_round(loop.progress.history[-1])
        if loop.progress.stopped:
            break
    loop.policy.network.eval()
    return Learned(loop.policy, loop.progress.history, loop.progress.stopped)


def _step(loop: Loop, told: dict[str, Any]) -> None:
    """A step of theta that never counts as the last one: how many there are is the rounds' business."""
    rollouts = loop.draw()
    found = loop.score(rollouts)
    entry = loop.entry(found)
    loop.watch(entry)
    if not loop.progress.done:
        entry |= loop.update(found)
        loop.coefficient.update(entry["kl"])
    loop.progress.history.append(entry | told | {"seconds": {}})
    loop.progress.step += 1


def _cooperative(psi: Psi, start: Branch, said: list[Row], feedback: Feedback | None) -> Callable[[Loop, int], float | None]:
    """A round of psi: the newest answers are asked about, and psi learns from all that was ever said. Gives the mean of what was said of those,

    or None where nobody is asked: then no round is known to be without gain, and none ends the run.
    """
    features, targets = [], []
    if said:
        features.append(psi.features(start.prepare(said), start.source()))
        targets.append(torch.tensor([float(row["liked"]) for row in said]))

    def play(loop: Loop, number: int) -> float | None:
        mean = None
        if feedback is not None:
            rollouts = _ask(loop, number)
            told = torch.tensor([float(one) for one in feedback(rollouts.rows, rollouts.texts)])
            if len(told) != len(rollouts) or not bool(torch.isfinite(told).all()):
                raise DataError(f"feedback gave {len(told)} numbers for {len(rollouts)} answers. Give one finite number for each.")
            features.append(psi.features(rollouts.items, rollouts.source))
            targets.append(told)
            mean = float(told.mean())
        every = torch.cat(targets).to(features[0].device)
        psi.learn(torch.cat(features), every, lambda found, wanted: functional.mse_loss(found, wanted))
        return mean

    return play


def _adversarial(psi: Psi, start: Branch, known: list[Row]) -> Callable[[Loop, int], float | None]:
    """A round of psi: people's answers against the policy's newest ones. Gives how often it is right on a quarter that it does not learn from."""
    people = psi.features(start.prepare(known), start.source())

    def play(loop: Loop, number: int) -> float | None:
        rollouts = _ask(loop, number)
        policy = psi.features(rollouts.items, rollouts.source)
        chance = np.random.default_rng((psi.config.seed, number, 2))
        count = min(len(policy), len(people))
        own, theirs = policy[chance.permutation(len(policy))[:count]], people[chance.permutation(len(people))[:count]]
        held = max(1, count // 4)
        features = torch.cat([theirs[held:], own[held:]])
        targets = torch.cat([torch.ones(count - held), torch.zeros(count - held)]).to(features.device)
        if len(features):
            psi.learn(features, targets, functional.binary_cross_entropy_with_logits)
        with torch.no_grad():
            right = torch.cat([psi.network(theirs[:held]) > 0, psi.network(own[:held]) <= 0])
        return float(right.float().mean())

    return play


def _ask(loop: Loop, number: int) -> Rollouts:
    """Answers of the policy as it is now, one to each of some prompts."""
    chance = np.random.default_rng((loop.settings.seed, number, 3))
    config: Any = loop.settings
    some = [loop.rows[at] for at in chance.choice(len(loop.rows), config.asked, replace=len(loop.rows) < config.asked)]
    return roll_out(loop.policy, some, loop.drawing, seed=config.seed * 1_000_003 + 500_009 + number)


def align(start: Branch, parts: Split, config: Config, settings: training.Settings, out: Path | None = None) -> Branch:
    """The policy's branch with its history, from rows alone: people's answers (adversarial), or answers with what was said of them."""
    out, config = savable(out) if out else None, finish.settled(GOAL.name, config, settings)
    with Events(config.tensorboard) as events:
        found = learn(start, list(parts.train), config, on_round=events.add)
    return finish.finished(GOAL, found, parts, config, out)

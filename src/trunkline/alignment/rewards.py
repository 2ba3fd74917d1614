"""What an answer is worth: the judges that score rollouts, and their weighted sum.

A judge is a Python function, or a branch. A branch on the policy's own trunk reads the states that were caught while the policy wrote, so
its trunk has nothing left to do; a branch of fewer layers than the policy's has the frozen layers between the two cuts run over them first.
Any other branch reads the texts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trunkline.alignment.rollout import Rollouts
from trunkline.branch import Branch
from trunkline.errors import DataError, OptionError, unknown
from trunkline.model.backbone import Lift
from trunkline.states.held import HeldStates
from trunkline.types import Answer, Item, Row

Function = Callable[[Sequence[Row], Sequence[str]], Sequence[float]]
"""From the rows of the prompts and the answers, both (N,), to N numbers. A row has `text`, and what else the user gave (`label`, `messages`)."""
JUDGES = ("classify", "regress", "reward")
LEAST_ACCURACY, ABOVE_LENGTHS = 0.65, 0.05
"""Of held-out pairs so many a reward has to tell, and so many more than the lengths of their answers tell. Source: bar R6."""
_LENGTHS = "length"  # the baseline of that name (evaluation/baselines/preferences.py)
_SURE = 1e-6
"""A probability is taken as between this and 1 minus this, so that its log-odds are finite."""


@dataclass(frozen=True)
class Part:
    """One judge of several. weight: below 0 it is a penalty, such as -2 for the log-odds that a text is unsafe; label: whose log-odds a
    classifier is asked for (none: its last one); reads: "both" prompt and answer, or the "answer" alone.
    """

    judge: Branch | Function
    weight: float = 1.0
    label: str | None = None
    reads: str = "both"


@dataclass(frozen=True)
class Scores:
    """total: (N,) float64, what the policy learns from; parts: of each judge (N,), before its weight."""

    total: np.ndarray
    parts: dict[str, np.ndarray]


def parts_of(reward: Branch | Function | Part | Mapping[str, Branch | Function | Part], policy: Branch) -> dict[str, Part]:
    """The judges by name. Raises: OptionError for one that cannot judge, or a label that a classifier does not have."""
    many = reward if isinstance(reward, Mapping) else {"reward": reward}
    if not many:
        raise OptionError("reward={}: give at least one judge, a branch or a function.")
    parts = {name: part if isinstance(part, Part) else Part(part) for name, part in many.items()}
    for name, part in parts.items():
        _check(name, part)
    if policy.backbone.family.kind != "decoder":  # what is written stands alone: it does not go on from the source
        parts = {n: Part(p.judge, p.weight, p.label, "answer" if _task(p) != "reward" else "both") for n, p in parts.items()}
    return parts


def judge(parts: Mapping[str, Part], rollouts: Rollouts, policy: Branch, *, missing_end: float = 0.0) -> Scores:
    """What the answers are worth. missing_end: taken off where an answer has no end, because it was cut at its longest.

    Raises: DataError for a judge that gives another number of scores, or one that is not finite.
    """
    found = {name: _scores(name, part, rollouts, policy) for name, part in parts.items()}
    total = np.sum([part.weight * found[name] for name, part in parts.items()], axis=0)
    return Scores(total - missing_end * ~rollouts.ended, found)


def reads_states(part: Part, policy: Branch) -> bool:
    """Whether this judge reads the states of the rollouts: a branch on the policy's backbone, of at most as many layers, over both texts."""
    branch = part.judge
    return (
        isinstance(branch, Branch)
        and part.reads == "both"
        and branch.backbone.id == policy.backbone.id
        and policy.backbone.family.kind == "decoder"
        and branch.backbone.trunk_precision == policy.backbone.trunk_precision == "float32"
        and (branch.task != "reward" or getattr(policy.spec, "form", "") == "chat")  # otherwise a line break was between the two
        and isinstance(branch.depth, int)
        and branch.depth <= int(policy.depth)
    )


def require_worthy(parts: Mapping[str, Part], weak_reward: str = "stop") -> None:
    """Whether a policy may learn from these judges: a reward branch has to tell pairs apart, by its own report (R6). Others have no such figures.

    weak_reward: "stop" raises where one does not, "note" warns. Raises: OptionError.
    """
    for name, part in parts.items():
        if doubt := _doubt(part.judge):
            text = f"reward {name!r}: {doubt} A policy would learn its errors. Tune it on more pairs"
            if weak_reward == "stop":
                raise OptionError(f"{text}, or take it as it is with weak_reward=note.")
            warnings.warn(f"{text}.", stacklevel=3)


def _doubt(judge: Branch | Function) -> str:
    """Why a reward branch is not to be learned from; nothing of any other, and of one that was never measured."""
    if not isinstance(judge, Branch) or judge.task != "reward" or judge.report is None:
        return ""
    found = {one["name"]: one["metrics"]["pair_accuracy"]["value"] for one in judge.report.results if "pair_accuracy" in one["metrics"]}
    if "tuned" not in found:
        return ""
    told, lengths = found["tuned"], found.get(_LENGTHS, 0.0)
    if told >= LEAST_ACCURACY and told >= lengths + ABOVE_LENGTHS:
        return ""
    return (
        f"of held-out pairs it tells {told:.1%}, the lengths of the answers alone {lengths:.1%}; needed are {LEAST_ACCURACY:.0%}, and "
        f"{100 * ABOVE_LENGTHS:.0f} points more than the lengths."
    )


def _check(name: str, part: Part) -> None:
    if not math.isfinite(part.weight):
        raise OptionError(f"reward {name!r}: weight={part.weight}: use a finite number.")
    if part.reads not in ("both", "answer"):
        raise unknown(f"reward {name!r}: reads", part.reads, ("both", "answer"))
    if not isinstance(part.judge, Branch):
        if not callable(part.judge):
            raise OptionError(f"reward {name!r} is {part.judge!r:.60}: use a branch, or a function of rows and answers.")
        return
    if part.judge.task not in JUDGES:
        raise OptionError(f"reward {name!r}: a branch of task {part.judge.task!r} gives no number. Use one of {', '.join(JUDGES)}.")
    if part.label is not None and (part.judge.task != "classify" or part.label not in part.judge.spec.labels):
        raise unknown(f"reward {name!r}: label", part.label, getattr(part.judge.spec, "labels", ()))


def _task(part: Part) -> str:
    return part.judge.task if isinstance(part.judge, Branch) else ""


def _scores(name: str, part: Part, rollouts: Rollouts, policy: Branch) -> np.ndarray:
    given: Any
    if hasattr(part.judge, "of"):  # a judge that is learned with the policy (ift.py): it reads the rollouts themselves
        given = part.judge.of(rollouts)
    elif not isinstance(part.judge, Branch):
        given = part.judge(rollouts.rows, rollouts.texts)
    elif reads_states(part, policy):
        given = _from_states(part, rollouts, policy)
    else:
        given = [_number(part, answer) for answer in part.judge.predict(_rows(part, rollouts, policy))]
    found = np.asarray(given, dtype=np.float64)
    if found.shape != (len(rollouts),):
        raise DataError(f"reward {name!r} gave {found.shape} numbers for {len(rollouts)} answers. Give one number for each.")
    if not np.isfinite(found).all():
        at = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(f"reward {name!r} gave {found[at]} for the answer {rollouts.texts[at][:60]!r}. Give finite numbers.")
    return found


def _from_states(part: Part, rollouts: Rollouts, policy: Branch) -> list[float]:
    branch: Any = part.judge
    ends = branch.task == "reward"  # a chat's answers are closed by their end in its training rows too
    tokens = [item.tokens[0] for item in rollouts.items] if ends else list(rollouts.said)
    lift = Lift(policy.backbone, policy.depth, branch.depth)
    source = HeldStates(tokens, rollouts.source, lift, branch.states)
    begin = [len(item.about) if ends else 0 for item in rollouts.items]  # of a decoder's rollouts the prompt is what they are about
    return [_number(part, answer) for answer in branch.answers([Item((one,), about=(at,)) for one, at in zip(tokens, begin)], source)]


def _rows(part: Part, rollouts: Rollouts, policy: Branch) -> list[Row]:
    """What a judge that reads texts is given. A text without anything in it is a space: some models have no token for nothing."""
    texts = [text or " " for text in rollouts.texts]
    if _task(part) == "reward":
        messages = [{"messages": row["messages"]} if "messages" in row else {} for row in rollouts.rows]
        return [{"text": row["text"], "text_b": text, **more} for row, text, more in zip(rollouts.rows, texts, messages)]
    if part.reads == "both" and policy.backbone.family.kind == "decoder":
        return [{"text": policy.backbone.tokenizer.text(one.ids.tolist()) or " "} for one in rollouts.said]
    return [{"text": text} for text in texts]


def _number(part: Part, answer: Answer) -> float:
    branch: Any = part.judge
    if branch.task != "classify":
        return float(answer.value)
    labels = branch.spec.labels
    p = float(answer.scores[labels.index(part.label) if part.label is not None else len(labels) - 1])
    p = min(max(p, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))

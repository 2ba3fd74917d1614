"""Goal: Kahneman-Tversky optimisation. Needs no pairs: answers that were liked, and answers that were not, each to a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from trunkline import names
from trunkline.alignment import preference
from trunkline.alignment.preference import METRICS, PairGoal, Pairs, PairSpec, head, prepare
from trunkline.branch import Branch
from trunkline.choices import between
from trunkline.errors import DataError
from trunkline.types import Answer, Batch, Item, Output, Row

__all__ = ["METRICS", "READS", "Config", "TaskSpec", "align", "decode", "head", "loss", "losses", "prepare"]
READS = "generate"


@dataclass(frozen=True)
class TaskSpec(PairSpec):
    """liked, disliked: the weight of each kind of answer; where one is rarer, weigh it more, so that both come to about the same."""

    together: ClassVar[bool] = True  # the drift is one of the batch
    task: str = "kto"
    liked: float = 1.0
    disliked: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("liked", self.liked, 0.0, 100.0)
        between("disliked", self.disliked, 0.0, 100.0)


Config = TaskSpec


def make(rows: Sequence[Row], start: Branch, spec: PairSpec) -> list[Item]:
    """An item of each answer (of a pair two): the answer, and beside it the answer of the next row to the same prompt, which stands for
    any answer: from these the drift from the reference is estimated. Raises: DataError for rows that were neither liked nor disliked.
    """
    said = []
    for row in rows:
        prompt = {k: v for k, v in row.items() if k not in ("label", "rejected", "liked")}
        if row.get("rejected"):
            said += [(prompt, row["label"], True), (prompt, row["rejected"], False)]
        elif row.get("liked") is not None and row.get("label"):
            said.append((prompt, row["label"], bool(row["liked"])))
        else:
            raise DataError(f"the prompt {row['text'][:60]!r} has no answer that was liked or not. Give pairs, or a column kto_tag.")
    task, tokenizer = names.task(start.task), start.backbone.tokenizer
    found = []
    for at, (prompt, answer, liked) in enumerate(said):
        following = (said[(at + step) % len(said)] for step in range(1, len(said)))
        other = next((text for asked, text, _ in following if asked["text"] != prompt["text"]), answer)
        one, beside = (task.prepare({**prompt, "label": text}, tokenizer, start.spec) for text in (answer, other))
        found.append(preference.two(one, beside, liked))
    return found


align = partial(preference.run, PairGoal(make))


def losses(pairs: Pairs, spec: TaskSpec) -> torch.Tensor:
    """(B,): weight (1 - sigmoid(beta (r - z))) of a liked answer, weight (1 - sigmoid(beta (z - r))) of another one.

    r: log of policy over reference for the answer; z: the same for answers to other prompts, its mean over the batch, at least 0, without
    gradient: an estimate of the KL to the reference. Source: Ethayarajh et al. 2024, equations 7 and 8.
    """
    drift = pairs.ratios[:, 1].mean().clamp(min=0).detach()
    sign = torch.where(pairs.liked, 1.0, -1.0).to(pairs.policy.dtype)
    weight = torch.where(pairs.liked, spec.liked, spec.disliked).to(pairs.policy.dtype)
    return weight * (1 - torch.sigmoid(spec.beta * sign * (pairs.ratios[:, 0] - drift)))


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the answers."""
    return losses(preference.pairs(out, batch), batch.spec).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """How far each answer moved the right way: a liked one up, another one down, against the reference."""
    found = preference.pairs(out, batch)
    return preference.answers(spec.beta * torch.where(found.liked, 1.0, -1.0) * found.ratios[:, 0])

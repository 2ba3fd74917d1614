"""Task: from what a user had (the texts of those items, the latest last) to the item that comes next.

Every item is known by its text, so one that nobody has taken yet can be recommended. A row has `history` and the next item (`text_b`);
data/readers/interactions.py makes rows of a log. A user is a vector made of the vectors of the history; items are ranked by how near they are to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import DataError, OptionError
from trunkline.model.heads.pooling import POOLINGS
from trunkline.model.heads.vectors import Turned, Vectors
from trunkline.states.search import Hit, Index
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("ndcg_at_10", "recall_at_10", "mrr")
COMBINES = ("attention", "mean")
SIDES = ("user", "item")
POPULAR = 20_000
"""Items whose popularity is remembered, the most popular first; all others count as equally rare."""


@dataclass(frozen=True)
class TaskSpec(Spec):
    """combine: how a history becomes a user: "attention" (learned weights by what an item is and by how long ago it was), or "mean".

    history: so many of the last items are read; scale: what cosines are multiplied by before the softmax
    correction: take the popularity of the batch's items out of the scores while training
    popular, shares: the most popular items (by a hash of the text) and the share of rows that each is the answer of; rare: of any other
    """

    kind: ClassVar[str] = "ranks"
    task: str = "recommend"
    max_tokens: int = 64
    combine: str = "attention"
    history: int = 10
    scale: float = 20.0
    correction: bool = True
    width: int = 0
    dropout: float = 0.0
    popular: tuple[str, ...] = field(default=(), metadata={"learned": True})
    shares: tuple[float, ...] = field(default=(), metadata={"learned": True})
    rare: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, POOLINGS)
        one_of("combine", self.combine, COMBINES)
        between("history", self.history, 1, 1000)
        between("scale", self.scale, 1.0, 200.0)
        between("width", self.width, 0, 16384)
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """How popular each item is as an answer. Raises: DataError where rows have no next item, or all the same one."""
        lacking = next((row for row in rows if not row.get("text_b")), None)
        if lacking is not None:
            raise DataError(f"{rows.source}: the history {lacking['text'][:60]!r} has no next item. Each training row needs one (text_b).")
        counts = Counter(_key(row["text_b"]) for row in rows)
        if len(counts) < 2:
            raise DataError(f"{rows.source}: the next item is the same in all {len(rows):,} training rows. There is nothing to learn.")
        most = counts.most_common(POPULAR)
        left = len(counts) - len(most)
        rare = (len(rows) - sum(count for _, count in most)) / left / len(rows) if left else 1 / len(rows)
        return {"popular": tuple(key for key, _ in most), "shares": tuple(count / len(rows) for _, count in most), "rare": rare}

    @cached_property
    def _shares(self) -> dict[str, float]:
        return dict(zip(self.popular, self.shares))

    def share(self, item: str) -> float:
        """The share of training rows whose answer is this item."""
        return self._shares.get(_key(item), self.rare)


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """History, next item, and `others` of the catalogue -> one `Tokens` each; target 1, or None without a next item.

    The history is the row's field, or the lines of its text. A row with `side` "item" is one item alone. Raises: DataError for an empty history.
    """
    one_of("side", row.get("side", "user"), SIDES)
    if row.get("side") == "item":
        had, history, after = [], [], [row["text"]]
    else:
        had = list(row.get("history") or (line for line in row["text"].splitlines() if line.strip()))
        history, after = had[-spec.history :], [row["text_b"]] if row.get("text_b") else []
        if not history:
            raise DataError(
                f"text={row['text'][:60]!r}: no history to go by. Give the texts of what the user had, a line each, or popular items."
            )
    right = tuple(after) if row.get("text_b") else ()
    texts = (*history, *after, *row.get("others", ()))
    encoded = [tokenizer.encode(text, max_tokens=spec.max_tokens) for text in texts]
    about = {"query": None, "passages": texts, "right": right, "excluded": tuple(had), "history": len(history)}
    return Item(tuple(tokens for tokens, _ in encoded), 1 if right else None, any(cut for _, cut in encoded), about)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """hidden (S, T, D) -> logits (S, d), the items' vectors, and "users" (B, d)."""
    return _Head(width, spec)


class _Head(nn.Module):
    """A vector for each text, and one for each history: a weighted mean of its items, turned. Starts as the plain mean.

    attention: weight softmax(sqrt(d) q v + r[age]) with a learned query q and a learned number r for each age, 0 the latest. Source: as
    Pooling's, with relative positions in the manner of Shaw et al. 2018.
    """

    def __init__(self, width: int, spec: TaskSpec) -> None:
        super().__init__()
        self.items = Vectors(width, spec.pooling, spec.width, spec.dropout)
        self.turn = Turned(spec.width or width)
        attends = spec.combine == "attention"
        self.query = nn.Parameter(torch.zeros(spec.width or width)) if attends else None
        self.recency = nn.Parameter(torch.zeros(spec.history)) if attends else None

    def forward(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        vectors = self.items(hidden, batch.mask)
        places, age = _histories(batch)
        weight = (age < 0).to(vectors.dtype) * torch.finfo(vectors.dtype).min
        if self.query is not None and self.recency is not None:
            known = vectors[places] @ self.query * len(self.query) ** 0.5
            weight = weight + known + self.recency[age.clamp(0, len(self.recency) - 1)]
        users = torch.einsum("bh,bhd->bd", weight.softmax(1) * (age >= 0), vectors[places])
        return vectors, {"users": functional.normalize(self.turn(users), dim=-1)}


def _histories(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, H) int64: which sequences are the history of each item, and how long ago each is (0 = the latest; -1: there is none)."""
    device = batch.owner.device
    counts = torch.bincount(batch.owner, minlength=len(batch.abouts))
    starts = counts.cumsum(0) - counts
    told = [about["history"] if about is not None else int(count) for about, count in zip(batch.abouts, counts.tolist())]
    lengths = torch.tensor(told, device=device)
    at = torch.arange(max(1, *told), device=device)[None]
    age = torch.where(at < lengths[:, None], lengths[:, None] - 1 - at, -1)
    return (starts[:, None] + at).where(age >= 0, 0), age


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the items of -log softmax of the next item among the next items of the batch, each of them once.

    Popular items are in more batches, and would be taught to all others as wrong answers more often. So from each score the logarithm of
    the probability that the item is in a batch of this size is taken, 1 - (1 - share)^B. What a user had already is left out of his sum.
    Source: Yi et al. 2019 (Sampling-bias-corrected neural modeling), section 3, equation 3, with B x share in place of that probability:
    about the same for large catalogues, and far off for a small one, where every batch holds the popular items.
    """
    vectors, users, abouts, spec = out.logits.float(), out.extra["users"].float(), batch.abouts, batch.spec
    counts = torch.bincount(batch.owner, minlength=len(abouts))
    starts = (counts.cumsum(0) - counts).tolist()
    column: dict[str, int] = {}
    places = []
    for start, about in zip(starts, abouts):
        if about["right"][0] not in column:
            column[about["right"][0]] = len(column)
            places.append(start + about["history"])
    scores = spec.scale * users @ vectors[places].T
    if spec.correction:
        there = [-float(np.expm1(len(abouts) * np.log1p(-min(spec.share(item), 1 - 1e-9)))) for item in column]
        scores = scores - torch.tensor(there, device=scores.device).log()
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    for at, about in enumerate(abouts):
        hidden[at, [column[item] for item in about["excluded"] if item in column and item not in about["right"]]] = True
    wanted = torch.tensor([column[about["right"][0]] for about in abouts], device=scores.device)
    return functional.cross_entropy(scores.masked_fill(hidden, float("-inf")), wanted)


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The vectors (1 + texts, d) float32 as scores, the user's first; the value is its cosine with the next item, None without one."""
    vectors, owner = out.logits.float().cpu().numpy(), batch.owner.cpu().numpy()
    texts = np.split(vectors, np.flatnonzero(np.diff(owner)) + 1)
    users = out.extra["users"].float().cpu().numpy()
    answers = []
    for user, own, about in zip(users, texts, batch.abouts):
        near = float(user @ own[about["history"]]) if about["right"] else None
        answers.append(Answer(near, np.concatenate([user[None], own])))
    return answers


def catalogue(branch: Any, items: Sequence[str]) -> Index:
    """The items' vectors, by their texts: made once, and added to when items come. Raises: OptionError for a branch of another task."""
    if branch.task != "recommend":
        raise OptionError(f"branch {branch!r}: its task is {branch.task!r}, and items are recommended by one tuned for 'recommend'.")
    texts = list(dict.fromkeys(items))
    answers = branch.predict([{"text": text, "side": "item"} for text in texts])
    vectors = np.stack([answer.scores[1] for answer in answers])
    index = Index(vectors.shape[1], made_by=branch.trunk_id)
    index.add(texts, vectors)
    return index


def recommend(branch: Any, histories: Sequence[Sequence[str]], items: Index, k: int = 10) -> list[list[Hit]]:
    """The `k` items of a catalogue that come next for each history, best first, without those in it."""
    answers = branch.predict([{"text": "\n".join(history), "history": list(history)} for history in histories])
    return [items.search(answer.scores[:1], k, without=history)[0] for answer, history in zip(answers, histories)]


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()

"""Task: find the passage that answers a query. Query and passages go through the same branch, one at a time (a bi-encoder), to unit vectors.

So passages are encoded once, and an `Index` of their vectors (states/search.py) answers queries. A row has a query (`text`), its right
passage (`text_b`), perhaps `negatives` that are wrong (given, or mined here), and perhaps a `label`: how alike the two are.

The other way, both texts in one pass (a cross-encoder), is `classify` or `regress` on pairs; `rerank` puts a few passages in order with either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import DataError, OptionError, unknown
from trunkline.model.heads.pooling import POOLINGS
from trunkline.model.heads.vectors import Vectors
from trunkline.states.search import Index
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("mrr", "recall_at_1", "recall_at_10", "ndcg_at_10")
PREFIXES = {"none": ("", ""), "e5": ("query: ", "passage: ")}
"""What some models were trained to see before a query and before a passage. Source: Wang et al. 2022 (E5), section 3."""
SIDES = ("query", "passage")


@dataclass(frozen=True)
class TaskSpec(Spec):
    """loss: "mnrl" (the right passage against all others of the batch), or "cosine" (rows whose label says how alike the two texts are).

    scale: what cosines are multiplied by before the softmax of mnrl
    projection: a linear layer over the pooled states that starts as the identity; width: of the vectors, 0 for that of the model
    prefixes: "none" or "e5"
    low, high: the range of the labels; a row with a label in its lower half is not a right pair
    """

    kind: ClassVar[str] = "ranks"
    task: str = "rank"
    loss: str = "mnrl"
    scale: float = 20.0
    projection: bool = True
    width: int = 0
    prefixes: str = "none"
    dropout: float = 0.0
    low: float = field(default=0.0, metadata={"learned": True})
    high: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, POOLINGS)
        one_of("loss", self.loss, ("mnrl", "cosine"))
        one_of("prefixes", self.prefixes, PREFIXES)
        between("scale", self.scale, 1.0, 200.0)
        between("width", self.width, 0, 16384)
        between("dropout", self.dropout, 0.0, 0.9)
        if self.width and not self.projection:
            raise OptionError(f"width={self.width}: vectors get another width by a projection. Leave projection=no out.")

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """The range of the labels, where rows have some. Raises: DataError where rows lack a passage, or a label that the loss needs."""
        lacking = next((row for row in rows if not row.get("text_b")), None)
        if lacking is not None:
            raise DataError(
                f"{rows.source}: the query {lacking['text'][:60]!r} has no passage. Each training row needs one (text_b=COLUMN)."
            )
        labels = [float(row["label"]) for row in rows if row.get("label") is not None]
        if self.loss == "cosine" and (len(labels) < len(rows) or min(labels) == max(labels)):
            raise DataError(
                f"{rows.source}: loss='cosine' learns how alike two texts are, and {len(labels):,} of {len(rows):,} rows have a label, "
                f"{len(set(labels)):,} of them different. Give a column of numbers (label=COLUMN), or use loss='mnrl'."
            )
        return {"low": min(labels), "high": max(labels)} if len(set(labels)) > 1 else {}

    def likeness(self, label: float) -> float:
        """A label as a number from 0 (nothing in common) to 1 (the same)."""
        return min(1.0, max(0.0, (float(label) - self.low) / (self.high - self.low)))


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """Query, right passage, wrong ones (`negatives`, and `others` that only happen to be there) -> one `Tokens` each.

    target: how alike query and passage are, 0 to 1 (1 without a label); None without a passage. A row of one text is a query, or with
    `side` "passage" a passage.
    """
    side = row.get("side", "query")
    one_of("side", side, SIDES)
    before = dict(zip(SIDES, PREFIXES[spec.prefixes]))
    right = [row["text_b"]] if row.get("text_b") else []
    passages = (*right, *row.get("negatives", ()), *row.get("others", ()))
    encoded = [tokenizer.encode(before[side] + row["text"], max_tokens=spec.max_tokens)]
    encoded += [tokenizer.encode(before["passage"] + passage, max_tokens=spec.max_tokens) for passage in passages]
    label = row.get("label")
    alike = 1.0 if label is None else spec.likeness(label)
    target = np.float32(alike) if right and (label is not None or spec.loss == "mnrl") else None
    about = {"query": row["text"], "passages": passages, "right": tuple(right) if alike >= 0.5 else (), "excluded": ()}
    return Item(tuple(tokens for tokens, _ in encoded), target, any(cut for _, cut in encoded), about)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Pooling, a linear layer, length 1: hidden (S, T, D) -> logits (S, d)."""
    return _Head(width, spec)


class _Head(nn.Module):
    def __init__(self, width: int, spec: TaskSpec) -> None:
        super().__init__()
        self.vectors = Vectors(width, spec.pooling, spec.width if spec.projection else None, spec.dropout)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.vectors(hidden, batch.mask)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """mnrl: mean over the items of -log softmax of the right passage, among all passages of the batch. cosine: mean squared error.

    A passage that several items have counts once; one that is right for an item's query too (as another item of the batch says) is left
    out of that item's sum, so that no right answer is ever its own negative. An item that is no right pair lends its passage only.
    Source: Henderson et al. 2017 (Efficient natural language response suggestion), section 4.4, with cosines times a scale.
    """
    vectors, abouts, spec = out.logits.float(), batch.abouts, batch.spec
    first = torch.searchsorted(batch.owner, torch.arange(len(abouts), device=vectors.device))
    if spec.loss == "cosine":
        return functional.mse_loss((vectors[first] * vectors[first + 1]).sum(-1), batch.targets.float())
    places, right = _columns(abouts)
    at, kept = torch.tensor(places, device=vectors.device), torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    kept[first] = False
    scores = spec.scale * vectors[first] @ vectors[kept][at].T
    wanted = torch.tensor([columns[0] if columns else 0 for columns in right], device=vectors.device)
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    for item, columns in enumerate(right):
        hidden[item, columns[1:]] = True
    each = functional.cross_entropy(scores.masked_fill(hidden, float("-inf")), wanted, reduction="none")
    return (each * torch.tensor([bool(columns) for columns in right], device=vectors.device)).mean()


def _columns(abouts: Sequence[Any]) -> tuple[list[int], list[list[int]]]:
    """Where each distinct passage of a batch first is among all of them; and for each item the columns of its right ones, its own first."""
    every = [passage for about in abouts for passage in about["passages"]]
    places: list[int] = []
    column: dict[str, int] = {}
    for place, passage in enumerate(every):
        if passage not in column:
            column[passage] = len(places)
            places.append(place)
    of_query: dict[str, dict[int, None]] = {}
    for about in abouts:
        of_query.setdefault(about["query"], {}).update((column[passage], None) for passage in about["right"])
    return places, [list(dict.fromkeys([*(column[p] for p in about["right"]), *of_query[about["query"]]])) if about["right"] else []
                    for about in abouts]  # fmt: skip


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The vectors (texts of the item, d) float32 as scores; the value is the cosine of query and passage, None for a query alone."""
    vectors, owner = out.logits.float().cpu().numpy(), batch.owner.cpu().numpy()
    texts = np.split(vectors, np.flatnonzero(np.diff(owner)) + 1)
    return [Answer(float(own[0] @ own[1]) if len(own) > 1 else None, own) for own in texts]


def embed(branch: Any, texts: Sequence[str], side: str = "passage") -> np.ndarray:
    """(N, d) float32: the vectors of texts, each as a passage or as a query, from a branch tuned for `rank`.

    Raises: OptionError for a branch of another task.
    """
    if branch.task != "rank":
        raise OptionError(f"branch {branch!r}: its task is {branch.task!r}, and vectors come from one tuned for 'rank'.")
    answers = branch.predict([{"text": text, "side": side} for text in texts])
    return np.stack([answer.scores[0] for answer in answers])


def rerank(branch: Any, query: str, passages: Sequence[str], *, label: str | None = None) -> list[tuple[str, float]]:
    """A few passages with their scores, best first: of a classifier of pairs the probability of `label` (the last one, unless told), of
    `regress` on pairs the number, of `rank` the cosine.

    Raises: OptionError for a label that the branch does not have, or a branch that gives texts no number.
    """
    answers = branch.predict([(query, passage) for passage in passages])
    kind = branch.spec.kind
    if kind in ("single", "multi"):
        labels = branch.spec.labels
        if label is not None and label not in labels:
            raise unknown("label", label, labels)
        at = len(labels) - 1 if label is None else labels.index(label)
        scores = [float(answer.scores[at]) for answer in answers]
    elif kind in ("number", "ranks"):
        scores = [float(answer.value) for answer in answers]
    else:
        raise OptionError(
            f"branch {branch!r}: task {branch.task!r} gives a pair of texts no number. Use one for classify, regress or rank."
        )
    order = sorted(range(len(passages)), key=lambda place: -scores[place])
    return [(passages[place], scores[place]) for place in order]


def mine_negatives(
    rows: Rows, queries: np.ndarray, passages: Sequence[str], vectors: np.ndarray, *, count: int = 3, margin: float = 0.05, deep: int = 50
) -> Rows:  # fmt: skip
    """The rows with `negatives`: wrong passages that look right, the `count` nearest to the query that are less near than its right one.

    queries: (N, D), a vector for each row; vectors: (P, D), one for each of `passages`. The pooled states of a store will do, so mining
    costs no pass of the model (`states.pooled`, states/search.py).
    margin: a passage nearer than the right one's cosine less this is taken for a right answer that nobody marked, and left out
    deep: so many of the nearest are looked at

    Source: Moreira et al. 2024 (NV-Retriever), TopK-MarginPos. Raises: OptionError where rows and vectors differ in number.

    >>> rows = Rows(({"text": "q", "text_b": "right"},), "rank")
    >>> near = np.array([[1, 0.1], [1, 0.2], [1, 1], [0, 1]], dtype=np.float32)
    >>> mine_negatives(rows, np.array([[1.0, 0.0]]), ["right", "right too", "wrong", "far"], near, count=1)[0]["negatives"]
    ['wrong']
    """
    if len(queries) != len(rows):
        raise OptionError(f"{len(queries):,} query vectors came with {len(rows):,} rows: one each is needed.")
    between("count", count, 1, 100)
    index = Index(vectors.shape[1])
    index.add(list(passages), vectors)
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row["text"], set()).add(row["text_b"])
    made = []
    own = index.vectors([row["text_b"] for row in rows])
    nearest = index.search(queries, deep)
    lengths = np.maximum(np.linalg.norm(queries, axis=1), 1e-12)
    for row, hits, limit in zip(rows, nearest, (queries * own).sum(1) / lengths - margin):
        wrong = [name for name, near in hits if near <= limit and name not in right[row["text"]]]
        found = list(dict.fromkeys([*row.get("negatives", ()), *wrong[:count]]))
        made.append({**row, "negatives": found} if found else row)
    total = sum(len(row.get("negatives", ())) for row in made)
    return replace(rows, rows=tuple(made), notes=(*rows.notes, f"Negatives, given and mined: {total:,} in {len(rows):,} rows."))

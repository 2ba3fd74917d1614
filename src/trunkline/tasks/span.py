"""Task: answer a question with a piece of a passage, or say that the passage has no answer.

A passage that is longer than the model reads is cut into windows that overlap; each window stands behind the question. The head gives every
token two logits: the answer starts here, it ends here. The first token of a window stands for "not in here".
Source: Devlin et al. 2019 (BERT), section 4.2 and 4.3. Where we differ: a span is scored against the first token of its own window, for a
softmax within each window leaves the level of the whole window free, so that logits of two windows cannot be compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between
from trunkline.errors import DataError
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec, Tokens

METRICS = ("span_f1", "span_exact")
_CANDIDATES = 20
"""Spans of each window that share the probability."""
_LETTERS = 20
"""Characters a token: what is longer is no text worth reading, and is cut before the tokenizer sees it."""


@dataclass(frozen=True)
class TaskSpec(Spec):
    """stride: tokens of the passage that two windows share; above max_answer_tokens, so that each answer is whole in one of them.

    max_windows: what lies beyond is not read. no_answer_threshold: how much better than the best span "no answer" has to be; none: picked
    on the validation rows, where some have no answer. no_answers: whether training had questions without an answer; without them, every
    question gets one.
    """

    kind: ClassVar[str] = "spans"
    task: str = "span"
    max_tokens: int = 384
    stride: int = 64
    max_windows: int = 16
    max_answer_tokens: int = 30
    no_answer_threshold: float | None = None
    dropout: float = 0.1
    no_answers: bool = field(default=False, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        between("max_tokens", self.max_tokens, 16, 131072)
        between("stride", self.stride, 1, 65536)
        between("max_windows", self.max_windows, 1, 10_000)
        between("max_answer_tokens", self.max_answer_tokens, 1, 10_000)
        between("no_answer_threshold", self.no_answer_threshold or 0.0, float("-inf"), float("inf"))
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Whether some questions have no answer. Raises: DataError when none has one."""
        if not any(row["label"] for row in rows):
            raise DataError(f"{rows.source}: none of the {len(rows)} training rows has an answer. There is nothing to learn.")
        return {"no_answers": not all(row["label"] for row in rows)}


@dataclass(frozen=True)
class Passage:
    """What `decode` needs of a row: the passage, and for each window where its tokens lie in it: (T, 2) int32, (0, 0) outside of it."""

    text: str
    windows: tuple[np.ndarray, ...]


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """Question and passage -> one sequence a window, and as target the first and last token of the answer in each: (W, 2) int64.

    (0, 0) for a window that does not hold one of the answers as a whole. Raises: DataError for a row without a passage.
    """
    if not isinstance(row.get("text_b"), str):
        raise DataError(
            f"{row['text'][:60]!r}: a question needs the passage to look in. Give (question, passage), or rows with text and text_b (--file)."
        )
    windows, was_cut = _windows(tokenizer, row["text"], row["text_b"], spec)
    passage = Passage(row["text_b"], tuple(places for _, places in windows))
    tokens = tuple(one for one, _ in windows)
    if row.get("label") is None:
        return Item(tokens, None, was_cut, about=passage)
    target = np.array([_target(places, row["label"]) for places in passage.windows], dtype=np.int64)
    return Item(tokens, target, was_cut, about=passage, gold=[answer for _, answer in row["label"]])


class SpanHead(nn.Module):
    """hidden (S, T, D), batch.mask (S, T) -> logits (S, T, 2): start and end; 0 on padding."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, 2)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.linear(self.dropout(hidden)).masked_fill(~batch.mask[..., None], 0.0)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """A linear layer on every token: hidden (S, T, D) -> logits (S, T, 2)."""
    return SpanHead(width, spec.dropout)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the items of the mean over their windows of the cross-entropies of start and end, each over the passage and the first token."""
    logits = out.logits.float().masked_fill(~_allowed(out.logits, batch)[..., None], float("-inf"))
    windows = torch.bincount(batch.owner)
    within = torch.arange(len(batch.owner), device=batch.owner.device) - (windows.cumsum(0) - windows)[batch.owner]
    wanted = batch.targets[batch.owner, within]
    each = functional.cross_entropy(logits.movedim(1, -1).flatten(0, 1), wanted.flatten(), reduction="none").view(-1, 2).mean(1)
    return (each / windows[batch.owner]).sum() / len(windows)


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """For each item the best span over its windows, with its text and its place in the passage, or no answer: {"text", "start", "end"}.

    Where training had questions without an answer, "no_answer" says by how much that beats the best span (less than 0: it does not).
    The probability is a softmax over the best 20 spans of each window and, where it may be, no answer.
    """
    logits = out.logits.float().cpu().numpy()
    answers, at = [], 0
    for passage in batch.abouts:
        count = len(passage.windows)
        found = [_candidates(logits[at + w], places, spec.max_answer_tokens) for w, places in enumerate(passage.windows)]
        answers.append(_answer(passage.text, np.concatenate(found), spec))
        at += count
    return answers


def fit_threshold(answers: Sequence[Answer], truth: Sequence[Sequence[str]], score: Callable[[Sequence[str], str], float]) -> float:
    """The threshold with the largest sum of scores on rows; of equals the one nearest to 0.

    answers: given with the threshold at infinity, so that each has its best span; score(right answers, answer): F1, say
    """
    margins = np.array([answer.value["no_answer"] for answer in answers])
    order = np.argsort(margins, kind="stable")
    spoken = np.array([score(right, answer.scores) for right, answer in zip(truth, answers, strict=True)])[order]
    silent = np.array([score(right, "") for right in truth])[order]
    sums = np.concatenate([[0.0], np.cumsum(spoken)]) + silent.sum() - np.concatenate([[0.0], np.cumsum(silent)])
    edges = np.concatenate([[margins.min() - 1], margins[order], [margins.max() + 1]])
    thresholds = (edges[:-1] + edges[1:]) / 2  # the k rows with the smallest margins get their span
    apart = edges[:-1] < edges[1:]  # rows of one margin cannot be parted
    thresholds, sums = thresholds[apart], sums[apart]
    best = thresholds[sums >= sums.max() - 1e-9]
    return float(best[np.abs(best).argmin()])


def _windows(tokenizer: Any, question: str, passage: str, spec: TaskSpec) -> tuple[list[tuple[Tokens, np.ndarray]], bool]:
    """Tokens and places of each window, and whether anything was left out. A question may take half of the tokens."""
    limit = spec.max_tokens * _LETTERS
    most = spec.max_windows * limit
    first = question[:limit] + ("\n" if tokenizer.pairs_joined else "")
    half = tokenizer.encodings(first, max_tokens=spec.max_tokens // 2)[0]
    cut = len(question) > limit or len(passage) > most
    if half.overflowing:
        first, cut = first[: max(end for _, end in half.offsets)], True
    room = spec.max_tokens - len(tokenizer.encodings(first, "", max_tokens=spec.max_tokens)[0])
    stride = max(1, min(spec.stride, room // 2))
    found = tokenizer.encodings(first, passage[:most], max_tokens=spec.max_tokens, stride=stride)
    windows = [_window(tokenizer, encoding) for encoding in found[: spec.max_windows]]
    return windows, cut or len(found) > spec.max_windows


def _window(tokenizer: Any, encoding: Any) -> tuple[Tokens, np.ndarray]:
    tokens, of = tokenizer.tokens(encoding), np.array([-1 if part is None else part for part in encoding.sequence_ids])
    places = np.where((of == 1)[:, None], np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2), 0).astype(np.int32)
    if tokenizer.pairs_joined:  # one text for the model: no special tokens between question and passage
        first, last = (of == 0).argmax(), len(of) - (of == 1)[::-1].argmax()
        keep = (of >= 0) | (np.arange(len(of)) < first) | (np.arange(len(of)) >= last)
        tokens, places = Tokens(tokens.ids[keep], None if tokens.types is None else tokens.types[keep]), places[keep]
    return tokens, places


def _target(places: np.ndarray, label: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """First and last token of the first answer that lies whole in the window, else (0, 0)."""
    inside = np.flatnonzero(places[:, 1] > places[:, 0])
    for start, answer in label:
        end = start + len(answer)
        if len(inside) and places[inside[0], 0] <= start and end <= places[inside[-1], 1]:
            touched = inside[(places[inside, 1] > start) & (places[inside, 0] < end)]
            if len(touched):
                return int(touched[0]), int(touched[-1])
    return 0, 0


def _allowed(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(S, T) bool: tokens of the passage, and the first one."""
    allowed = np.zeros(logits.shape[:2], dtype=bool)
    allowed[:, 0] = True
    for row, places in zip(allowed, (places for passage in batch.abouts for places in passage.windows), strict=True):
        row[: len(places)] |= places[:, 1] > places[:, 0]
    return torch.from_numpy(allowed).to(logits.device)


def _candidates(logits: np.ndarray, places: np.ndarray, most_tokens: int) -> np.ndarray:
    """logits (T, 2) -> (C, 3): the best spans of a window, each with its score against "not in here" and its place by characters."""
    inside = np.flatnonzero(places[:, 1] > places[:, 0])
    if not len(inside):
        return np.empty((0, 3))
    start, end = logits[inside, 0].astype(np.float64), logits[inside, 1].astype(np.float64)
    last = np.arange(len(inside))[:, None] + np.arange(min(most_tokens, len(inside)))  # (M, K): the last token of each span
    scores = np.where(last < len(inside), start[:, None] + end[np.minimum(last, len(inside) - 1)], -np.inf).ravel()
    best = np.argsort(-scores, kind="stable")[:_CANDIDATES]
    best = best[np.isfinite(scores[best])]
    firsts, lasts = inside[best // last.shape[1]], inside[last.ravel()[best]]
    return np.stack([scores[best] - logits[0].sum(dtype=np.float64), places[firsts, 0], places[lasts, 1]], axis=1)


def _answer(text: str, candidates: np.ndarray, spec: TaskSpec) -> Answer:
    """The best of all candidates (C, 3), where "no answer" has the score 0."""
    scores: dict[tuple[int, int], float] = {}
    for score, start, end in candidates.tolist():
        place = _trimmed(text, int(start), int(end))
        scores[place] = max(score, scores.get(place, -np.inf))
    best = max(scores, key=lambda place: scores[place], default=None)
    silent = best is None or (spec.no_answers and -scores[best] > (spec.no_answer_threshold or 0.0))
    every = np.array([*scores.values(), *([0.0] if spec.no_answers or best is None else [])])
    said = 0.0 if best is None or silent else scores[best]
    sure = float(np.exp(said - every.max()) / np.exp(every - every.max()).sum())
    start, end = (None, None) if best is None or silent else best
    answer = "" if start is None else text[start:end]
    margin = {"no_answer": 0.0 if best is None else -scores[best]} if spec.no_answers else {}
    return Answer({"text": answer, "start": start, "end": end, **margin}, answer, sure)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space around it: some tokenizers count the space before a word to the word."""
    inner = text[start:end].strip()
    start += text[start:end].find(inner)
    return start, start + len(inner)

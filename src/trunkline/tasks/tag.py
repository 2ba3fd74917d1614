"""Task: find the entities (or slots) in a text, each with its type and its place.

Words are those that the row brings, or letters in a run, digits in a run, each Chinese or Japanese character, each mark (data/tagging.py). The first
token of a word carries the word's tag. Where a tokenizer takes several words into one token, as those learned from whole sentences do with
Chinese, they are told apart by their place in it: the head gives one set of logits for each place, so that Chinese is tagged by character.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.data.tagging import HAN, Span, begins, covered, ends, follows, spans_of, tags_of, words_of
from trunkline.errors import DataError
from trunkline.model.heads.crf import Steps, StepWeights, allowed, best_path, log_partition, marginals, no_steps, path_score
from trunkline.types import IGNORE, Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("entity_f1", "entity_precision", "entity_recall", "entity_macro_f1")
SCHEMES = ("bio", "bioes")
PLACES = 4
"""Words of one token that are told apart, in texts with Chinese; a fifth one shares the tag of the fourth."""
_FEW = 0.01
"""In so small a share of the texts, Chinese is a quotation, and not worth a head of four times the size."""
_SIDE_BY_SIDE = re.compile(f"[{HAN}\u3040-\u30ff]{{2}}")
_CHARACTERS_A_TOKEN = 20  # far beyond any text worth reading: what is longer is cut before the tokenizer sees it


@dataclass(frozen=True)
class TaskSpec(Spec):
    """scheme: the tags that are learned, "bio" or "bioes" (data/tagging.py); crf: learn which tag follows which, too (docs/tasks/tag.md).

    Source: Lample et al. 2016 (NAACL), section 2.2, for the CRF over a network's scores.
    """

    kind = "entities"
    task: str = "tag"
    scheme: str = "bio"
    crf: bool = False
    dropout: float = 0.1
    labels: tuple[str, ...] = field(default=(), metadata={"learned": True})
    places: int = field(default=1, metadata={"learned": True})
    words: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("scheme", self.scheme, SCHEMES)
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """The tags, "O" first; how many places of a token are told apart; the mean number of words. Raises: DataError without any entity."""
        counts = Counter(kind for row in rows for _, _, kind in row["label"])
        if not counts:
            raise DataError(f"{rows.source}: none of the {len(rows)} training rows has an entity. There is nothing to learn.")
        labels = ("O", *(f"{letter}-{kind}" for kind in sorted(counts) for letter in self.scheme.upper() if letter != "O"))
        tight = sum(_SIDE_BY_SIDE.search(row["text"]) is not None for row in rows)
        return {
            "labels": labels,
            "places": PLACES if tight > _FEW * len(rows) else 1,
            "words": max(1.0, sum(len(words_of(row)) for row in rows) / len(rows)),
        }


class About(NamedTuple):
    """The text, the words that have a token (start and end by characters), and where the logits of each are: token * places + place."""

    text: str
    words: list[tuple[int, int]]
    slots: np.ndarray


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """A text -> tokens and target (T, P) int64: the tag of the word that begins in this token at this place, IGNORE elsewhere.

    An entity of a type that training did not have can be neither learned nor found: it stays in `gold`, and counts as missed.
    """
    text, words = row["text"], words_of(row)
    limit = spec.max_tokens * _CHARACTERS_A_TOKEN
    encoding = tokenizer.encodings(text[:limit], max_tokens=spec.max_tokens)[0]
    tokens = tokenizer.tokens(encoding)
    about = About(text, *_slots(words, encoding.offsets, spec.places))
    was_cut = bool(encoding.overflowing) or len(text) > limit
    if row.get("label") is None:
        return Item((tokens,), None, was_cut, about)
    gold = [(start, end, kind) for start, end, kind in row["label"]]
    known = [entity for entity in gold if f"B-{entity[2]}" in spec.labels]
    tags = tags_of(covered(known, about.words), len(about.words), spec.scheme)
    target = np.full(len(tokens) * spec.places, IGNORE, dtype=np.int64)
    target[about.slots] = [spec.labels.index(tag) for tag in tags]
    return Item((tokens,), target.reshape(-1, spec.places), was_cut, about, gold)


def _slots(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], places: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The words that have a token, and the slot of each. Words in one slot (a token holds more than there are places) become one word.

    A word without a token, behind the cut or of characters that the tokenizer drops, is left out.
    """
    kept: list[tuple[int, int]] = []
    slots: list[int] = []
    token, place = 0, 0
    for start, end in words:
        first = token
        while first < len(offsets) and (offsets[first][1] <= start or offsets[first][0] == offsets[first][1]):
            first += 1
        if first == len(offsets) or offsets[first][0] >= end:
            continue
        while first + 1 < len(offsets) and offsets[first][0] == offsets[first + 1][0] < offsets[first + 1][1]:
            first += 1  # the space that some tokenizers put before a text is said to be where its first word is
        place = place + 1 if slots and first == token else 0
        token = first
        slot = token * places + min(place, places - 1)
        if slots and slots[-1] == slot:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
            slots.append(slot)
    return kept, np.array(slots, dtype=np.int64)


class TagHead(nn.Module):
    """hidden (S, T, D) -> logits (S, T, P, K): dropout and one linear layer, for each place of a word in a token; with a CRF its steps too."""

    def __init__(self, width: int, spec: TaskSpec) -> None:
        super().__init__()
        self.shape = (spec.places, len(spec.labels))
        self.dropout = nn.Dropout(spec.dropout)
        self.linear = nn.Linear(width, spec.places * len(spec.labels))
        self.steps = StepWeights(len(spec.labels)) if spec.crf else None
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.linear(self.dropout(hidden)).unflatten(-1, self.shape)
        return logits, self.steps() if self.steps is not None else {}


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Logits for every tag at every token."""
    return TagHead(width, spec)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Negative log likelihood of the tags, summed over words; over the items and the mean number of words of a training row.

    So every word weighs the same, and a batch gives the same gradient whole or in parts.
    """
    spec, logits, targets = batch.spec, out.logits.float().flatten(1, 2), batch.targets.flatten(1)
    if spec.crf:
        emissions, mask, tags = _packed(logits, targets)
        steps = _steps(out, spec, logits.device)
        each = (log_partition(emissions, mask, steps) - path_score(emissions, tags, mask, steps)).masked_fill(~mask[:, 0], 0.0)
        total = each.sum()
    else:
        total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (len(targets) * spec.words)


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The entities of each item, from the best path of tags that may follow one another. The probability is that of the least sure tag."""
    logits = out.logits.float().flatten(1, 2).cpu()
    emissions = [logits[row, torch.from_numpy(about.slots)] for row, about in enumerate(batch.abouts)]
    return answers(emissions, batch.abouts, spec, _steps(out, spec, logits.device))


def answers(emissions: Sequence[torch.Tensor], abouts: Sequence[About], spec: TaskSpec, steps: Steps | None = None) -> list[Answer]:
    """The same from the logits (W, K) of the words of each text, with steps of a CRF, or with those alone that forbid what is no entity."""
    padded = nn.utils.rnn.pad_sequence([*emissions, torch.zeros(1, len(spec.labels))], batch_first=True)[:-1]
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(one) for one in emissions])[:, None]
    padded = padded if spec.crf else padded.log_softmax(2)
    steps = steps or _steps(Output(padded, padded), spec, padded.device)
    path = best_path(padded, mask, steps)
    sure = (marginals(padded, mask, steps) if spec.crf else padded.exp()).gather(2, path[..., None])[..., 0]
    least = sure.masked_fill(~mask, 1.0).amin(1).tolist()
    labels = [[spec.labels[tag] for tag in tags[: len(one)]] for tags, one in zip(path.tolist(), emissions)]
    return [_answer(about, tags, p, spec) for about, tags, p in zip(abouts, labels, least)]


def _answer(about: About, tags: list[str], sure: float, spec: TaskSpec) -> Answer:
    found, _ = spans_of(tags, spec.scheme)
    scores = [(about.words[start][0], about.words[end - 1][1], kind) for start, end, kind in found]
    return Answer(named(about.text, scores), scores, min(1.0, sure) if tags else None)


def named(text: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Entities as people read them: start, end, type and text."""
    return [{"start": start, "end": end, "type": kind, "text": text[start:end]} for start, end, kind in spans]


def _packed(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Emissions (B, W, K), mask and tags (B, W) of the slots that carry a tag, moved together to the front."""
    carries = targets != IGNORE
    order = torch.argsort((~carries).int(), dim=1, stable=True)[:, : max(1, int(carries.sum(1).max()))]
    emissions = logits.gather(1, order[..., None].expand(-1, -1, logits.shape[2]))
    return emissions, carries.gather(1, order), targets.gather(1, order).clamp(min=0)


def _steps(out: Output, spec: TaskSpec, device: torch.device) -> Steps:
    """What each step from tag to tag is worth, as learned or nothing; those that make no entity are forbidden."""
    learned = Steps(**out.extra) if out.extra else no_steps(len(spec.labels))
    may = Steps(*(ok.to(device) for ok in _may(spec.labels, spec.scheme)))
    return allowed(Steps(*(value.to(device) for value in learned)), may)


@lru_cache(maxsize=16)
def _may(labels: tuple[str, ...], scheme: str) -> Steps:
    """Which tags may begin a text, follow one another, and end a text: bool, on the processor."""
    pairs = [[follows(before, after, scheme) for after in labels] for before in labels]
    start, end = [begins(tag) for tag in labels], [ends(tag, scheme) for tag in labels]
    return Steps(torch.tensor(start), torch.tensor(pairs), torch.tensor(end))

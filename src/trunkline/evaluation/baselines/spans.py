"""What a branch that answers from a passage has to beat: the piece of the passage that shares the most words with the question.

The sentence whose words (weighted by how rare they are in the training passages) the question has most of; within it, the run of words that
the question does not have and that is the rarest. How long that run may be, and how much of the question the sentence must have for there
to be an answer at all, is picked on the validation rows.
Source: the sliding window of Richardson et al. 2013, with sentences in place of windows.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.errors import DataError
from trunkline.evaluation.baselines.labels import Result
from trunkline.evaluation.kinds.spans import f1
from trunkline.types import Row

MOST_WORDS = (1, 2, 3, 5, 8, 30)
"""Lengths of an answer that are tried; and the whole sentence."""
_SENTENCE = re.compile(r"[^.!?。！？；\n]*(?:[.!?](?!\s|$)[^.!?。！？；\n]*)*[.!?。！？；\n]*")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:[.,][0-9]+)*")


def span_baselines(train: Sequence[Row], test: Sequence[Row], spec: Any, *, validation: Sequence[Row] = ()) -> list[Result]:
    """ "overlap", and "majority" where the training rows have questions without an answer: none, for every question.

    Without validation rows the options are picked on the training rows. Raises: DataError where there are no rows.

    >>> from types import SimpleNamespace
    >>> row = {"text": "Where was Ada born?", "text_b": "She wrote in 1843. Ada was born in London.", "label": [[36, "London"]]}
    >>> span_baselines([row], [row], SimpleNamespace(no_answers=False))[0].test
    ['London']
    """
    if not train or not test:
        raise DataError(f"{len(train)} training and {len(test)} test rows: the baselines need at least one of each.")
    results, started = [], time.perf_counter()
    if spec.no_answers:
        results.append(Result("majority", 0.0, [""] * len(test), [""] * len(validation) if validation else None))
    weights = _rarity(train)
    held = [_Look.at(row, weights) for row in validation]
    judges = list(zip(held, validation)) if validation else [(_Look.at(row, weights), row) for row in train]
    shares = tuple(at / 10 for at in range(11)) if spec.no_answers else (0.0,)
    options = [(most, share) for share in shares for most in (*MOST_WORDS, 0)]
    best = max(options, key=lambda option: sum(f1([answer for _, answer in row["label"]], look.answer(*option)) for look, row in judges))
    said = [_Look.at(row, weights).answer(*best) for row in test]
    about = {"words": best[0] or "the sentence", **({"least share of the question": best[1]} if spec.no_answers else {})}
    checked = [look.answer(*best) for look in held] if validation else None
    return [*results, Result("overlap", time.perf_counter() - started, said, checked, about)]


@dataclass(frozen=True)
class _Look:
    """The best sentence of a passage, the share of the question's words it has (by weight), and its words with their weights by place."""

    sentence: str
    share: float
    words: tuple[tuple[int, int, float], ...]

    @classmethod
    def at(cls, row: Row, weights: dict[str, float]) -> _Look:
        asked = {word: _weight(word, weights) for word in _words(row["text"])}
        best = None
        for found in _SENTENCE.finditer(row["text_b"]):
            shared = asked.keys() & set(_words(found[0]))
            share = sum(asked[word] for word in sorted(shared)) / (sum(asked.values()) or 1.0)
            if found[0].strip() and (best is None or share > best.share):
                words = [(match.span(), match[0].lower()) for match in _WORD.finditer(found[0])]
                # words of the question end a run: they are no part of its answer
                best = cls(found[0], share, tuple((*place, 0.0 if word in asked else _weight(word, weights)) for place, word in words))
        return best or cls(row["text_b"], 0.0, ())

    def answer(self, most: int, least: float) -> str:
        """At most so many words, or the sentence for 0; nothing where it has less than this share of the question."""
        if self.share < least:
            return ""
        if not most or not any(weight for _, _, weight in self.words):
            return self.sentence.strip()
        best, start, end = (-1.0, 0), 0, 0  # of equal runs the one with more letters
        for first, (begin, _, weight) in enumerate(self.words):
            total = 0.0
            for _, stop, weight in self.words[first : first + most]:
                if not weight:
                    break
                total += weight
                if (total, stop - begin) > best:
                    best, start, end = (total, stop - begin), begin, stop
        return self.sentence[start:end]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _weight(word: str, weights: dict[str, float]) -> float:
    return weights.get(word, weights[""])


def _rarity(rows: Sequence[Row]) -> dict[str, float]:
    """The logarithm of how few training passages have a word; under "" that of a word which none has."""
    passages = {row["text_b"] for row in rows}
    counts = Counter(word for passage in passages for word in set(_words(passage)))
    unseen = math.log(len(passages) + 1) + 0.1
    return {word: unseen - math.log(count + 0.5) for word, count in counts.items()} | {"": unseen}

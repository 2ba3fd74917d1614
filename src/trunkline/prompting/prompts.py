"""From a row and its demonstrations to the token ids of a prompt that fits the model's window.

What does not fit loses demonstrations first, the one furthest from the row before the others, and then the end of its text. Both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trunkline.errors import OptionError
from trunkline.model.tokenizer import Tokenizer
from trunkline.prompting.template import Template
from trunkline.types import Row

_LEAST = 4
"""Tokens of its text that a row keeps when it is cut; where even these do not fit, the window is too small for the template."""


@dataclass(frozen=True)
class Prompt:
    """ids: (T,) int32; shots: the demonstrations kept; dropped: how many did not fit; was_cut: the text lost its end."""

    ids: np.ndarray
    shots: tuple[int, ...] = ()
    dropped: int = 0
    was_cut: bool = False


@dataclass(frozen=True)
class Writing:
    """How texts become ids for one model: its tokenizer, the longest prompt, and what stands behind a text (an encoder's end)."""

    tokenizer: Tokenizer
    room: int
    ended: bool = False

    def ids(self, text: str) -> np.ndarray:
        """(T,) int32 of a prompt, with what the model has at its beginning, and at its end where an encoder reads it."""
        return np.concatenate([np.array(self.tokenizer.start_ids, dtype=np.int32), self.tokenizer.pieces(text), self.ends])

    @cached_property
    def ends(self) -> np.ndarray:
        """What stands behind a whole text: nothing, where a decoder goes on from it."""
        encoding = self.tokenizer.encodings("a", max_tokens=64)[0]
        special = [one for one, added in zip(encoding.ids, encoding.special_tokens_mask) if added]
        return np.array(special[len(self.tokenizer.start_ids) :] if self.ended else [], dtype=np.int32)

    def label_ids(self, template: Template) -> list[np.ndarray]:
        """The ids of each label's words as they stand behind the prompt; as a text of their own where a decoder writes them behind an encoder.

        Raises: OptionError where a tokenizer joins the words of a label with what stands before them.
        """
        if self.ended:
            return [np.concatenate([self.tokenizer.pieces(word), self.ends]) for word in template.labels.values()]
        before = self.tokenizer.pieces(template.lead)
        found = []
        for label, word in template.labels.items():
            whole = self.tokenizer.pieces(f"{template.lead}{template.gap}{word}")
            if len(whole) <= len(before) or not np.array_equal(whole[: len(before)], before):
                raise OptionError(
                    f"label {label!r}: this tokenizer joins {word!r} with {template.lead!r}. Put a space or a line break before {{label}}."
                )
            found.append(whole[len(before) :])
        return found

    def prompt(self, row: Row, shots: Sequence[int], pool: Sequence[Row], template: Template, room: int) -> Prompt:
        """The prompt of a row with the demonstrations pool[i], in at most `room` tokens.

        Raises: OptionError where the template alone leaves no room for a text.
        """
        for start in range(len(shots) + 1):
            kept = tuple(shots[start:])
            ids = self.ids(template.prompt(row, [pool[i] for i in kept]))
            if len(ids) <= room:
                return Prompt(ids, kept, start)
        cut, over = row, len(ids) - room
        while len(ids) > room:
            cut = self._shorter(cut, over)
            ids = self.ids(template.prompt(cut))
            over = max(1, len(ids) - room)
            if not cut["text"] and len(ids) > room:
                raise OptionError(
                    f"max_tokens={self.room}: instruction, form and labels fill it, and {room} tokens are left for a prompt. "
                    "Allow more, or shorten the instruction."
                )
        return Prompt(ids, (), len(shots), True)

    def _shorter(self, row: Row, by: int) -> Row:
        """The row with its longer text shorter by some tokens."""
        name = "text_b" if len(row.get("text_b") or "") > len(row["text"]) else "text"
        size = len(self.tokenizer.pieces(row[name]))
        if size - by < _LEAST:
            return {**row, "text": "", **({"text_b": ""} if row.get("text_b") else {})}
        encoding = self.tokenizer.encodings(row[name], max_tokens=size - by + self._special())[0]
        return {**row, name: row[name][: max((end for _, end in encoding.offsets), default=0)]}

    def _special(self) -> int:
        return sum(self.tokenizer.encodings("a", max_tokens=64)[0].special_tokens_mask)


def prompts(
    writing: Writing, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row], template: Template, behind: int
) -> list[Prompt]:  # fmt: skip
    """A prompt for each row; `behind`: tokens that the longest label needs."""
    return [writing.prompt(row, some, pool, template, writing.room - behind) for row, some in zip(rows, shots, strict=True)]


def notes_on(made: Sequence[Prompt]) -> list[str]:
    """Sentences on what did not fit."""
    found, short = [], [one for one in made if one.dropped]
    if short:
        found.append(
            f"{sum(one.dropped for one in short):,} demonstrations of {len(short):,} prompts did not fit the window and were dropped"
        )
    if cut := sum(one.was_cut for one in made):
        found.append(f"{cut:,} texts were longer than the window and lost their end")
    return found


def blank(row: Row, text: str) -> Row:
    """The row with other texts: content-free, for calibration."""
    return {**row, "text": text} | ({"text_b": text} if "text_b" in row else {})


def with_labels(template: Template, labels: Sequence[str]) -> Template:
    """The template with its labels in this order. Raises: OptionError where it has no words for one of them."""
    missing = [label for label in labels if label not in template.labels]
    if missing:
        raise OptionError(
            f"template {template.name!r}: no words for the label {missing[0]!r}. Write a line for each label under `labels`, "
            f"or leave `labels` out. It has: {', '.join(template.labels)}."
        )
    return replace(template, labels={label: template.labels[label] for label in labels})

"""What several kinds of finding share: the rows and those they are compared with, their copies, their labels, and which labels are doubtful."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from trunkline.data.tagging import covered, tags_of
from trunkline.quality.duplicates import Pair, Vectors, Words, groups, near_pairs
from trunkline.quality.suspects import Suspects, WordSuspects, number_suspects, suspects, word_suspects
from trunkline.types import Row, Rows

_LEAST = 20  # labelled rows that label errors are looked for among


class Material:
    """One call of `check`. Everything costly is computed when it is first asked for, and once."""

    def __init__(self, rows: Rows, against: Rows, vectors: Vectors | None, seed: int) -> None:
        self.rows, self.against, self.vectors, self.seed = rows, against, vectors, seed
        self.texts = [text_of(row) for row in rows]
        self.every = [*self.texts, *(text_of(row) for row in against)]

    @cached_property
    def pairs(self) -> list[Pair]:
        if self.vectors is None:
            return near_pairs(self.every)
        both = np.concatenate([self.vectors.rows, self.vectors.against]) if len(self.against) else self.vectors.rows
        return near_pairs(self.every, both, near=self.vectors.near, same=self.vectors.same)

    @cached_property
    def copies(self) -> np.ndarray:
        """(N,) the group of copies that each row belongs to: copies stay together when rows are held out, else each would vouch for the other."""
        found = np.arange(len(self.rows))
        for those in groups(len(self.rows), (pair for pair in self.pairs if pair.second < len(self.rows))):
            found[those] = those[0]
        return found

    @cached_property
    def labelled(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Places of the rows with one class for a label, the ids of these (of classes with two rows and more), and all names."""
        single = [at for at, row in enumerate(self.rows) if isinstance(row.get("label"), str)] if self.rows.task == "classify" else []
        names = sorted({self.rows[at]["label"] for at in single})
        ids = {name: at for at, name in enumerate(names)}
        return np.array(single, dtype=np.int64), np.array([ids[self.rows[at]["label"]] for at in single], dtype=np.int64), names

    @cached_property
    def suspects(self) -> Suspects | None:
        if self.vectors is None:
            return None
        if self.rows.task == "regress" and len(self.rows) >= _LEAST:
            return number_suspects(self.vectors.rows, [row["label"] for row in self.rows], seed=self.seed)
        places, labels, names = self.labelled
        if len(places) < _LEAST or len(names) < 2:
            return None
        return suspects(self.vectors.rows[places], labels, len(names), groups=self.copies[places], seed=self.seed)

    @cached_property
    def tagged(self) -> tuple[list[int], list[np.ndarray], list[str]]:
        """Places of the rows whose words have vectors, (W,) the ids of these words' labels, and all names: "O" and the types of entities."""
        words = self.vectors.words if self.vectors is not None and self.rows.task == "tag" else ()
        places = [at for at, one in enumerate(words) if one is not None and self.rows[at].get("label") is not None]
        names = ["O", *sorted({kind for at in places for _, _, kind in self.rows[at]["label"]} - {"O"})]
        ids = {name: at for at, name in enumerate(names)}
        found = []
        for at in places:
            spans = self.words(at).spans
            tags = tags_of(covered(self.rows[at]["label"], spans), len(spans), "bio")
            found.append(np.array([ids[tag.partition("-")[2] or "O"] for tag in tags], dtype=np.int64))
        return places, found, names

    def words(self, at: int) -> Words:
        """The words of a row that has them."""
        found = self.vectors.words[at] if self.vectors is not None else None
        if found is None:
            raise LookupError(f"row {at} has no words")
        return found

    @cached_property
    def word_suspects(self) -> WordSuspects | None:
        places, labels, names = self.tagged
        if len(places) < _LEAST or len(names) < 2:
            return None
        return word_suspects([self.words(at).vectors for at in places], labels, len(names), groups=self.copies[places], seed=self.seed)

    @property
    def is_judge(self) -> bool:
        """Whether what doubts the labels agrees with at least half of them."""
        return self.suspects is not None and float((self.suspects.doubt > 0).mean()) <= 0.5

    def told(self, at: int, **more: Any) -> dict[str, Any]:
        """A row of a section: `at` counts through the rows and then through those they are compared with."""
        inside = at < len(self.rows)
        row: Row = self.rows[at] if inside else self.against[at - len(self.rows)]
        part, number = ("rows", at + 1) if inside else ("against", at - len(self.rows) + 1)
        named = {"id": row["id"]} if "id" in row else {}
        return {"part": part, "row": number, **named, "text": self.every[at], "label": label_of(row), **more}

    def pair(self, pair: Pair, **more: Any) -> dict[str, Any]:
        other = self.told(pair.second)
        return self.told(
            pair.first, other_part=other["part"], other_row=other["row"], other=other["text"], other_label=other["label"],
            score=round(pair.score, 4), by=pair.by, **more,
        )  # fmt: skip


def text_of(row: Row) -> str:
    """The text as it is compared and shown, both of a pair."""
    return row["text"] if not row.get("text_b") else f"{row['text']} | {row['text_b']}"


def label_of(row: Row) -> str:
    """The label as it is compared and shown; empty without one."""
    label = row.get("label")
    if label is None:
        return ""
    return "|".join(label) if isinstance(label, list) and all(isinstance(one, str) for one in label) else str(label)

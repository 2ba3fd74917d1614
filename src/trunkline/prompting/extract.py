"""Entities without training: a model that writes lists them as JSON, held to a schema at each token; then they are looked for in the text.

A demonstration ends with `[{"text":"Ann","type":"person"}]`, and so does the answer: a local decoder cannot leave this form (llguidance), a
server is asked for it (`response_format`) and is read leniently. What is not in the text is dropped and counted.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trunkline.data.tagging import Span
from trunkline.errors import OptionError
from trunkline.model.backbone import Backbone
from trunkline.model.batches import by_length
from trunkline.model.writing.generation import Writer, WritingSpec, left_padded
from trunkline.model.writing.grammar import Grammar
from trunkline.model.writing.language import LanguageModel
from trunkline.progress import Bar
from trunkline.prompting.prompts import Prompt, Writing, notes_on, prompts
from trunkline.prompting.server import Server
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.types import Row

MOST_ENTITIES = 32
MOST_TOKENS = 256
"""Of an answer. One that has not ended by then keeps the entities that are whole."""
_LONGEST = 200  # characters of an entity
_TOKENS_AT_ONCE = 8192


def schema(template: Template) -> dict[str, Any]:
    """The JSON schema of an answer: a list of texts, each with the words of a type."""
    text = {"type": "string", "minLength": 1, "maxLength": _LONGEST}
    one = {"text": text, "type": {"enum": list(template.labels.values())}}
    entity = {"type": "object", "properties": one, "required": list(one), "additionalProperties": False}
    return {"type": "array", "items": entity, "maxItems": MOST_ENTITIES}


@dataclass
class Said:
    """How many answers had no end, and how many entities were not in their text."""

    endless: int = 0
    lost: int = 0

    def notes(self) -> list[str]:
        """Sentences on both, where there are any."""
        told = [f"{self.endless:,} answers were not whole JSON: what was whole of them counts"] if self.endless else []
        return told + ([f"{self.lost:,} entities that the model named are not in their text and were dropped"] if self.lost else [])


@dataclass
class ByExtraction:
    """Entities as a local decoder writes them. `tokens`: of prompts and answers together.

    Raises: OptionError for a model that is no decoder, or a schema that its tokens cannot follow.
    """

    backbone: Backbone
    template: Template
    settings: PromptSettings
    tokens: int = 0
    _made: list[Prompt] = field(default_factory=list)
    _said: Said = field(default_factory=Said)

    def __post_init__(self) -> None:
        backbone = self.backbone
        if backbone.family.kind != "decoder":
            raise OptionError(
                f"model {backbone.name!r}: entities are written as JSON, and only a decoder does that. Use smollm2, or a server."
            )
        self.writing = Writing(backbone.tokenizer, min(self.settings.max_tokens, backbone.max_tokens))
        self._writer = Writer(LanguageModel(backbone).around(backbone.stack), backbone.tokenizer, backbone.ends, None, backbone.max_tokens)
        self._grammar = Grammar.maker(backbone.tokenizer, backbone.ends, schema(self.template))

    @property
    def notes(self) -> list[str]:
        """What did not fit or was not found, in the calls since this was last asked for."""
        told = notes_on(self._made) + self._said.notes()
        self._made, self._said = [], Said()
        return told

    def entities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> list[list[Span]]:
        """(start, end, type) by characters, for each row."""
        room = min(MOST_TOKENS, self.writing.room // 2)
        made = prompts(self.writing, rows, shots, pool, self.template, room)
        self._made += made
        found: list[list[Span]] = [[]] * len(rows)
        done = 0
        with Bar("prompt", unit="rows") as bar:
            for batch in by_length([len(one.ids) + room for one in made], _TOKENS_AT_ONCE):
                for at, text in zip(batch, self._write([made[at].ids for at in batch], room)):
                    found[at] = read(text, rows[at]["text"], self.template.labels, self._said)
                done += len(batch)
                bar.to(done, len(rows))
        return found

    @torch.no_grad()
    def _write(self, asked: Sequence[Any], room: int) -> list[str]:
        given = left_padded(asked, self.backbone.tokenizer.pad_id, self.backbone.device)
        texts = self._writer.write(given, WritingSpec(max_new_tokens=room), grammar=self._grammar)
        self.tokens += sum(map(len, asked)) + sum(len(self.backbone.tokenizer.pieces(text)) for text in texts)
        return texts


@dataclass
class ByServerExtraction:
    """The same from a server, which is asked to hold to the schema. One that does not is read all the same, as far as it wrote JSON."""

    server: Server
    template: Template
    _said: Said = field(default_factory=Said)

    @property
    def tokens(self) -> int:
        return self.server.spent.tokens_in + self.server.spent.tokens_out

    @property
    def notes(self) -> list[str]:
        """What was asked and what could not be read, since this was last asked for."""
        said, self._said = self._said, Said()
        return [*self.server.notes(), *said.notes()]

    def entities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> list[list[Span]]:
        """(start, end, type) by characters, for each row."""
        form = {"type": "json_schema", "json_schema": {"name": "entities", "schema": schema(self.template)}}
        chats = [self.template.chat(row, [pool[i] for i in some]) for row, some in zip(rows, shots, strict=True)]
        texts = self.server.complete_all(chats, {"response_format": form, "max_tokens": MOST_TOKENS})
        return [read(text, row["text"], self.template.labels, self._said) for text, row in zip(texts, rows)]


def read(answer: str, text: str, words: Mapping[str, str], said: Said) -> list[Span]:
    """The entities that an answer names, as far as they are in the text; words: those of each type."""
    types = {word: kind for kind, word in words.items()}
    listed, whole = _listed(answer)
    said.endless += not whole
    named = [(one["text"], types[one["type"]]) for one in listed if isinstance(one.get("text"), str) and one.get("type") in types]
    said.lost += len(listed) - len(named)
    found, lost = placed(text, named)
    said.lost += lost
    return found


def _listed(answer: str) -> tuple[list[dict[str, Any]], bool]:
    """The objects of the first JSON list in an answer, and whether it came to its end: of one that was cut short, those before the cut."""
    found, read_json = [], json.JSONDecoder().raw_decode
    at = answer.find("[") + 1
    while at and (start := answer.find("{", at)) >= 0 and not answer[at:start].strip(" ,\r\n\t"):
        try:
            one, at = read_json(answer, start)
        except (ValueError, RecursionError):
            break
        found.append(one)
    return found[:MOST_ENTITIES], at > 0 and answer[at:].lstrip().startswith("]")


def placed(text: str, named: Sequence[tuple[str, str]]) -> tuple[list[Span], int]:
    """Where these texts stand, each at its first place that is free, from left to right; and how many stand nowhere.

    Whole words come first, and the same letters before others of another case. The same text named again is its next place.

    >>> placed("Ann met Ann in Annecy", [("Ann", "person"), ("annecy", "place"), ("Ann", "person"), ("Bob", "person")])
    ([(0, 3, 'person'), (8, 11, 'person'), (15, 21, 'place')], 1)
    """
    found: list[Span] = []
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    lost = 0
    for words, kind in named:
        sought = words.strip()
        places[sought] = places[sought] or _places(text, sought)
        lost += not places[sought]
        free = [(start, end) for start, end in places[sought] if all(end <= other[0] or other[1] <= start for other in found)]
        found += [(*free[0], kind)] if free else []
    return sorted(found), lost


def _places(text: str, sought: str) -> list[tuple[int, int]]:
    if not sought:
        return []
    whole = (r"(?<!\w)" if sought[0].isascii() else "") + re.escape(sought) + (r"(?!\w)" if sought[-1].isascii() else "")
    tries = (re.compile(whole), re.compile(whole, re.IGNORECASE), re.compile(re.escape(sought)))
    return next((found for one in tries if (found := [match.span() for match in one.finditer(text)])), [])

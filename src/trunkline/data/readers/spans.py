"""Rows with entities in the forms that people keep them in, brought to the one form: text, and a list of [start, end, type] by characters.

Between `formats` (a source as a table) and `read`. What is understood, in any column, told or found by its name:
    [[0, 3, "PER"], ...]                                          start, end (exclusive) and type, in any order
    [{"start": 0, "end": 3, "label": "PER"}, ...]                 and the other names of these fields (_START, _END, _TYPE, _SURFACE)
    {"PER": {"Ann": [[0, 2]]}, ...}                               by type and surface, ends inclusive (CLUENER)
    ["B-PER", "O", ...] or "B-PER O ..." or [1, 0, ...]           a tag for each word (ids where the source names them)
    the same as JSON in a cell of a CSV
Words are a list (`tokens`, `words`), or the text cut at its spaces. Where an entity comes with its surface, the text must say the same there.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trunkline.data.columns import TEXT, Columns
from trunkline.data.table import Records, Table, each, looked_into
from trunkline.data.tagging import Facts, Span, join_words, spans_of
from trunkline.errors import DataError, unknown
from trunkline.storage import from_json

_WORDS = ("tokens", "words", "token", "chars")
_LABEL = (
    "entities",
    "spans",
    "ner_tags",
    "ner",
    "tags",
    "label",
    "labels",
    "entity",
    "annotations",
    "slots",
    "mentions",
    "实体",
    "标注",
    "标签",
)
_START = ("start", "start_offset", "start_idx", "start_char", "begin", "startOffset", "from")
_END = ("end", "end_offset", "end_idx", "end_char", "endOffset", "to")
_TYPE = ("label", "type", "entity_type", "entity_group", "tag", "category", "entity")
_SURFACE = ("text", "word", "surface", "mention", "entity", "value", "name")
_KEPT = "\t\n\r\x85\x00"  # control characters that are left to `cells`, which keeps them or refuses the row


def as_entities(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with the columns `text`, `label` (a list of [start, end, type]) and, where words were given, `words`.

    What was found is said in the notes; a row whose entities do not fit its text comes as a Problem.
    Raises: OptionError for a told column that is not there; DataError where no column has texts or entities, or tags are of no scheme.
    """
    table, rows, there = looked_into(table)
    form = _form(table, there, rows, told, labelled)
    columns = tuple(dict.fromkeys([*(name for name in there if name not in (form.text, form.label)), "text", "label"]))
    made = Table(table.name, columns, _records(table, form), classes=table.classes, notes=table.notes)
    return made, replace(told, text="text", label="label" if form.label else None)


@dataclass
class _Form:
    """Which column is what, the scheme of its tags (None where there are none), and what was put right on the way."""

    text: str
    label: str | None
    scheme: str | None
    names: Sequence[str]
    repaired: int = 0
    inclusive: int = 0
    trimmed: int = 0

    def row(self, record: dict[str, Any]) -> dict[str, Any]:
        """Raises: ValueError for a text or for entities that cannot be used."""
        text, words = _text_and_words(record.get(self.text), wanted=self.scheme is not None)
        words = _offsets(record.get("words"), text) if words is None else words
        made = {name: value for name, value in record.items() if name not in (self.text, self.label, "words")} | {"text": text}
        if words is not None:
            made["words"] = [list(word) for word in words]
        value = plain(record.get(self.label)) if self.label else None
        if value is None:
            return made
        if self.scheme is None:
            spans = self._listed(text, value)
        else:
            spans = self._tagged(_tags(value, self.names), words or [])
        return made | {"label": checked(text, spans)}

    def _tagged(self, tags: list[str], words: Sequence[tuple[int, int]]) -> list[Span]:
        if len(tags) != len(words):
            raise ValueError(f"there are {len(tags)} tags for {len(words)} words")
        found, repairs = spans_of(tags, self.scheme or "")
        self.repaired += repairs
        return [(words[start][0], words[end - 1][1], kind) for start, end, kind in found]

    def _listed(self, text: str, value: Any) -> list[Span]:
        """Entities of the text, white space around them taken off, their surface compared with the text."""
        found = []
        for start, end, kind, surface, inclusive in entities(value):
            if surface is not None and not inclusive and text[start:end] != surface and text[start : end + 1] == surface:
                end, self.inclusive = end + 1, self.inclusive + 1
            if surface is not None and 0 <= start < end and text[start:end] != surface:
                raise ValueError(
                    f"{kind!r} from {start} to {end} should be {surface[:40]!r}, and the text has {text[start:end][:40]!r} there"
                )
            if 0 <= start < end <= len(text) and text[start:end] != (inner := text[start:end].strip()):
                start += len(text[start:end]) - len(text[start:end].lstrip())
                end, self.trimmed = start + len(inner), self.trimmed + 1
            found.append((start, end, kind))
        return found

    def notes(self) -> Iterator[str]:
        if self.repaired:
            yield f"{self.repaired:,} tags are not legal in {self.scheme} and were read as well as could be."
        if self.inclusive:
            yield f"{self.inclusive:,} entities count their last character in (their surface says so)."
        if self.trimmed:
            yield f"{self.trimmed:,} entities had white space around them, which was left out."


def checked(text: str, spans: Sequence[Span]) -> list[list[Any]]:
    """The entities in order, each once. Raises: ValueError for one that is not inside the text, is empty, or lies over another one."""
    last: Span | None = None
    made: list[list[Any]] = []
    for start, end, kind in sorted(set(spans)):
        if not 0 <= start < end <= len(text):
            raise ValueError(f"{kind!r} from {start} to {end} does not lie inside the text, which has {len(text)} characters")
        if last is not None and start < last[1]:
            raise ValueError(f"{kind!r} from {start} to {end} lies over {last[2]!r} from {last[0]} to {last[1]}")
        last = (start, end, kind)
        made.append([start, end, kind])
    return made


def entities(value: Any) -> Iterator[tuple[int, int, str, str | None, bool]]:
    """Start, end, type, surface (or None) and whether the end was inclusive, of a list or a dictionary of entities.

    The end that comes out is exclusive. Raises: ValueError for another form.

    >>> list(entities({"name": {"Ann": [[0, 2]]}}))
    [(0, 3, 'name', 'Ann', True)]
    >>> list(entities([[0, 3, "PER"], {"start_offset": 4, "end_offset": 6, "label": "LOC"}]))
    [(0, 3, 'PER', None, False), (4, 6, 'LOC', None, False)]
    """
    if isinstance(value, Mapping):
        for kind, surfaces in value.items():
            for surface, places in surfaces.items() if isinstance(surfaces, Mapping) else [(None, surfaces)]:
                for place in _list(places):
                    start, end = _ints(place)
                    yield start, end + 1, " ".join(str(kind).split()), surface, True
    else:
        for one in _list(value):
            yield _object(one) if isinstance(one, Mapping) else _triple(one)


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f'{str(value)[:60]!r} is no list of entities. Use [[start, end, type], ...] or [{{"start", "end", "label"}}, ...]')
    return value


def _ints(values: Any) -> tuple[int, int]:
    if not isinstance(values, list | tuple) or len(values) != 2 or not all(_is_int(number) for number in values):
        raise ValueError(f"{str(values)[:60]!r} is no [start, end]")
    return int(values[0]), int(values[1])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _triple(one: Any) -> tuple[int, int, str, str | None, bool]:
    numbers = [value for value in one if _is_int(value)] if isinstance(one, list | tuple) else []
    strings = [value for value in one if isinstance(value, str)] if isinstance(one, list | tuple) else []
    if len(numbers) != 2 or len(strings) != 1 or len(one) != 3 or not strings[0].strip():
        raise ValueError(f"{str(one)[:60]!r} is no [start, end, type]")
    return numbers[0], numbers[1], " ".join(strings[0].split()), None, False


def _object(one: Mapping[str, Any]) -> tuple[int, int, str, str | None, bool]:
    def first(names: Sequence[str], fits: Callable[[Any], bool], used: str | None = None) -> tuple[str | None, Any]:
        return next(((name, one[name]) for name in names if name != used and fits(one.get(name))), (None, None))

    (_, start), (_, end) = first(_START, _is_int), first(_END, _is_int)
    used, kind = first(_TYPE, lambda value: isinstance(value, str) and bool(value.strip()))
    _, surface = first(_SURFACE, lambda value: isinstance(value, str), used)
    if start is None or end is None or kind is None:
        raise ValueError(f"{str(dict(one))[:80]!r} has no start, end and label (whole numbers and a name)")
    return start, end, " ".join(kind.split()), surface, False


def plain(value: Any) -> Any:
    """A cell as a Python value: arrays as lists, JSON in a string as what it says. A blank cell is None.

    Raises: ValueError for a string that begins like JSON and is none.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and value != value:
        return None
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return from_json(value.encode("utf-8", "surrogatepass"), "the label")
        except json.JSONDecodeError as error:
            raise ValueError(f"{value[:60]!r} begins like JSON and is none ({error.msg})") from error
    return value if value.strip() else None


def clean(text: str) -> str:
    """The text with each control character as a space, so that offsets stay right; those that damage a row are left for it to be refused."""
    if text.isprintable():
        return text
    return "".join(" " if unicodedata.category(char) == "Cc" and char not in _KEPT else char for char in text)


def _text_and_words(value: Any, wanted: bool) -> tuple[str, list[tuple[int, int]] | None]:
    if not isinstance(value, str) or (wanted and value.lstrip().startswith("[")):
        value = _quiet(value) or value
    words = value if isinstance(value, list | tuple) else value.split() if wanted and isinstance(value, str) else None
    if words is None:
        if not isinstance(value, str):
            raise ValueError("text is missing" if value is None else f"text is a {type(value).__name__}, not a string or a list of words")
        return clean(value), None
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"the words {str(list(words))[:60]} are not strings with something in them" if words else "text is empty")
    return join_words([clean(word) for word in words])


def _offsets(value: Any, text: str) -> list[tuple[int, int]] | None:
    """Words that a row brings as [start, end] by characters; None for anything else. Raises: ValueError where they do not fit the text."""
    value = _quiet(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(word, list | tuple) and len(word) == 2 for word in value):
        return None
    words = [_ints(word) for word in value]
    for (start, end), (next_start, _) in zip(words, [*words[1:], (len(text), 0)]):
        if not 0 <= start < end <= next_start:
            raise ValueError(f"the word from {start} to {end} is empty, lies outside of the text, or over the next one")
    return words


def _tags(value: Any, names: Sequence[str]) -> list[str]:
    if isinstance(value, str):
        return value.split()
    tags = _list(value)
    if names and all(_is_int(tag) for tag in tags):
        if tags and not 0 <= min(tags) <= max(tags) < len(names):
            raise ValueError(f"the tags {min(tags)} to {max(tags)} are not all among the {len(names)} that the source names")
        return [names[tag] for tag in tags]
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"the tags {str(tags)[:60]} are not strings, and the source does not name its tags")
    return list(tags)


def _form(table: Table, there: Sequence[str], rows: Sequence[dict[str, Any]], told: Columns, labelled: bool) -> _Form:
    """Which columns, and in which of the forms. Raises: OptionError, DataError."""
    if not there:
        raise DataError(f"{table.name}: no rows. Give some with a text and its entities.")
    for name in (told.text, told.label):
        if name is not None and name not in there:
            raise unknown(f"{table.name}: column", name, there)
    lower = {name.casefold(): name for name in reversed(there)}
    label = told.label or (next((lower[name] for name in _LABEL if name in lower and lower[name] != told.text), None) if labelled else None)
    if labelled and label is None:
        raise DataError(f"{table.name}: no column looks like entities. Say which one: label=NAME. There are: {', '.join(there)[:400]}.")
    names = table.classes.get(label or "", ())
    tags = [found for row in rows if (found := _tags_or_none(row.get(label), names))] if label else []
    wanted = [*_WORDS, *TEXT] if tags else [*TEXT, *_WORDS]
    text = told.text or next((lower[name] for name in wanted if name in lower and lower[name] != label), None)
    if text is None:
        raise DataError(f"{table.name}: no column looks like the text. Say which one: text=NAME. There are: {', '.join(there)[:400]}.")
    guessed = [
        f"{what} = column {name!r}" for what, name, was in (("text", text, told.text), ("label", label, told.label)) if name and not was
    ]
    if guessed:
        table.notes.append(f"Guessed: {', '.join(guessed)}. To choose, give {' and '.join(g.split()[0] for g in guessed)} yourself.")
    return _Form(text, label, _scheme(table, tags), names)


def _scheme(table: Table, tags: Sequence[Sequence[str]]) -> str | None:
    if not tags:
        return None
    facts = Facts()
    for one in tags:
        facts.add(one)
    try:
        scheme = facts.scheme()
    except DataError as error:
        raise DataError(f"{table.name}: {error}") from error
    table.notes.append(f"Tags are read as {scheme}.")
    return scheme


def _quiet(value: Any) -> Any:
    try:
        return plain(value)
    except ValueError:
        return None


def _tags_or_none(value: Any, names: Sequence[str]) -> list[str] | None:
    """The tags of a cell, where it holds some; what is wrong with a cell is told when it is read."""
    value = _quiet(value)
    if not isinstance(value, str) and not (
        isinstance(value, list | tuple) and all(isinstance(one, str) or (names and _is_int(one)) for one in value)
    ):
        return None
    try:
        return _tags(value, names)
    except ValueError:
        return None


def _records(table: Table, form: _Form) -> Records:
    yield from each(table.name, table.records, lambda line, values: [form.row(values)], form.text)
    table.notes.extend(form.notes())

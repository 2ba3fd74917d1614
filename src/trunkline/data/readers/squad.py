"""Questions about a passage with the answers in it, in the forms that people keep them in, brought to one: text, text_b, and a list of
[start, answer].

Between `formats` (a source as a table) and `read`, like `spans`. What is understood:
    {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers", "is_impossible"}]}]}]}     SQuAD 1 and 2, DRCD, XQuAD
    [{"title", "context_text", "qas": [{"query_id", "query_text", "answers"}]}]                                     CMRC 2018
    one question a row, in columns told or found by their names (QUESTION, CONTEXT, ANSWERS)
Answers are a list of {"text", "answer_start"}, of [start, text] or of texts; {"text": [...], "answer_start": [...]}; or one of these alone.
An empty list, or `is_impossible`, says that the passage has no answer.

Where an answer does not stand at its place in the passage, it is looked for `NEAR` characters around it; one without a place is taken where
the passage has it first. Both are counted and said. One that is not found makes the row a Problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from trunkline.data.columns import Columns
from trunkline.data.readers.spans import clean, plain
from trunkline.data.table import Records, Table, each, looked_into
from trunkline.errors import DataError, OptionError, unknown
from trunkline.types import Problem

NEAR = 20  # characters
QUESTION = ("question", "query", "query_text", "text", "问题", "提问")
CONTEXT = ("context", "context_text", "passage", "paragraph", "document", "text_b", "article", "content", "文章", "段落", "正文", "背景")
ANSWERS = ("answers", "answer", "label", "labels", "答案", "回答")
_ID = ("id", "query_id", "qid", "question_id")


def as_questions(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with the columns `text` (question), `text_b` (passage) and `label` (a list of [start, answer]), one question a row.

    Articles with paragraphs give `id` and, from the article's title, `group` too; in flat rows a column `title` is the group.
    Raises: OptionError for a told column that is not there; DataError where no column has questions, passages or answers.
    """
    table, rows, there = looked_into(table)
    if not rows:
        raise DataError(f"{table.name}: no rows. Give some with a question, a passage and its answers.")
    taken = table.records
    if any(_is_nested(row) for row in rows):
        if told.text or told.text_b or told.label:
            raise OptionError(
                f"{table.name}: holds articles with questions, which name their own fields. Leave text=, text_b= and label= out."
            )
        has_id = all(isinstance(one, str) or one["id"] is not None for at, row in enumerate(rows) for one in _flat(row, at))
        columns = replace(told, id=told.id or ("id" if has_id else None), group=told.group or "group")
        form = _Form("question", "context", "answers" if labelled else None)
        names: tuple[str, ...] = ("id", "group")
        taken = _articles(table)
    else:
        form, columns = _choose(table, there, told, labelled)
        names = there
    used = (form.question, form.context, form.answers)
    made = tuple(dict.fromkeys(["text", "text_b", "label", *(name for name in names if name not in used)]))
    columns = replace(columns, text="text", text_b="text_b", label="label" if form.answers else None)
    return Table(table.name, made, _records(table, form, taken), classes=table.classes, notes=table.notes), columns


def place(answer: str, start: int | None, context: str) -> int | None:
    """Where an answer stands in its passage: at `start`, else at most NEAR characters from there (the nearest), else None.

    Without a start: the first place.

    >>> place("Paris", 3, "In Paris"), place("Paris", 1, "In Paris"), place("Paris", None, "In Paris, in Paris"), place("Rome", 3, "In Paris")
    (3, 3, 3, None)
    """
    if start is None:
        return at if (at := context.find(answer)) >= 0 else None
    if context.startswith(answer, start):
        return start
    low, high = max(0, start - NEAR), start + NEAR + len(answer)
    found = [at for at in range(low, high - len(answer) + 1) if context.startswith(answer, at)]
    return min(found, key=lambda at: abs(at - start), default=None)


@dataclass
class _Form:
    """Which column is what, and what was done to the answers on the way."""

    question: str
    context: str
    answers: str | None
    moved: int = 0
    found: int = 0
    none: int = 0

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: ValueError for a question, passage or answers that cannot be used."""
        made = {name: value for name, value in record.items() if name not in (self.question, self.context, self.answers)}
        made |= {"text": _text(record.get(self.question)), "text_b": _text(record.get(self.context))}
        if self.answers is None:
            return made
        given, impossible = plain(record.get(self.answers)), plain(record.get("is_impossible"))
        answers = None if given is None else list(_answers(given))
        if answers is None and impossible is not None and _is_true(impossible):
            answers = []
        if answers is None:
            raise ValueError("label is missing: a question without an answer has the empty list")
        if impossible is not None and bool(answers) == _is_true(impossible):
            raise ValueError(f"is_impossible is {impossible!r}, and there are {len(answers)} answers")
        self.none += not answers
        return made | {"label": self._placed(answers, made["text_b"])}

    def _placed(self, answers: Sequence[tuple[int | None, str]], context: Any) -> list[list[Any]]:
        found: dict[tuple[int, str], None] = {}
        for start, answer in answers:
            at = place(answer, start, context) if isinstance(context, str) else None
            if at is None and isinstance(context, str) and answer != answer.strip():
                before = len(answer) - len(answer.lstrip())
                answer = answer.strip()
                at = place(answer, None if start is None else start + before, context)
            if at is None:
                where = "in the passage" if start is None else f"at character {start} of the passage, nor within {NEAR} of it"
                raise ValueError(f"the answer {answer[:60]!r} does not stand {where}")
            self.found += start is None
            self.moved += start not in (None, at)
            found[at, answer] = None
        return [[at, answer] for at, answer in found]

    def notes(self) -> Iterator[str]:
        if self.moved:
            yield f"{self.moved:,} answers did not stand where the source says, and were found at most {NEAR} characters from there."
        if self.found:
            yield f"{self.found:,} answers came without their place: the first one in the passage was taken."
        if self.none:
            yield f"{self.none:,} questions have no answer in their passage."


def _text(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def _is_true(value: Any) -> bool:
    return str(value).casefold() in ("true", "1", "yes")


def _answers(value: Any) -> Iterator[tuple[int | None, str]]:
    """Start (None where it is not said) and text of each answer. Raises: ValueError for another form."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list | tuple):
        starts = value.get("answer_start") or [None] * len(value["text"])
        if len(starts) != len(value["text"]):
            raise ValueError(f"there are {len(value['text'])} answers and {len(starts)} places")
        value = [{"text": text, "answer_start": start} for text, start in zip(value["text"], starts)]
    for one in value if isinstance(value, list | tuple) else [value]:
        start: Any = None
        if isinstance(one, Mapping):
            start, one = next((one[name] for name in ("answer_start", "start") if name in one), None), one.get("text")
        elif isinstance(one, list | tuple) and len(one) == 2:
            start, one = one
        if not isinstance(one, str) or not one.strip():
            raise ValueError(
                f'{str(one)[:60]!r} is no answer. Use [{{"text", "answer_start"}}, ...], [[start, text], ...] or a list of texts'
            )
        yield _start(start), clean(one)


def _start(value: Any) -> int | None:
    """A place as a number; a negative one says that it is not known."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"the place {str(value)[:40]!r} of an answer is no whole number")
    return None if value is None or value < 0 else value


def _is_nested(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("paragraphs"), list) or isinstance(row.get("qas"), list)


def _articles(table: Table) -> Records:
    """Articles as one record a question."""
    with closing(table.records):
        for number, record in enumerate(table.records):
            if isinstance(record, Problem):
                yield record
                continue
            line, article = record
            for one in _flat(article, number):
                yield Problem(table.name, line, str(article.get("title") or "")[:80], one) if isinstance(one, str) else (line, one)


def _flat(article: Mapping[str, Any], number: int) -> Iterator[dict[str, Any] | str]:
    """The questions of an article; in place of what cannot be one, what is wrong with it."""
    paragraphs = article.get("paragraphs", [article])  # or a paragraph alone
    if not isinstance(paragraphs, list):
        yield f"'paragraphs' is a {type(paragraphs).__name__}, not a list"
        return
    group = article.get("title") or f"article {number + 1}"
    for at, paragraph in enumerate(paragraphs, 1):
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list):
            yield f"paragraph {at} has no list of questions ('qas')"
            continue
        for place_of, question in enumerate(questions, 1):
            if isinstance(question, Mapping):
                found = {
                    "question": _first(question, QUESTION),
                    "context": _first(paragraph, CONTEXT),
                    "answers": _first(question, ANSWERS),
                }
                yield {**found, "is_impossible": question.get("is_impossible"), "id": _first(question, _ID), "group": group}
            else:
                yield f"question {place_of} of paragraph {at} is a {type(question).__name__}, not an object"


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _choose(table: Table, there: Sequence[str], told: Columns, labelled: bool) -> tuple[_Form, Columns]:
    """The columns of flat rows, as told or by their names."""
    for name in told.told().values():
        if name not in there:
            raise unknown(f"{table.name}: column", name, there)
    lower = {name.casefold(): name for name in reversed(there) if name not in told.told().values()}
    chosen: dict[str, str] = {}
    for field, names in (("text_b", CONTEXT), ("text", QUESTION), ("label", ANSWERS)):
        column = getattr(told, field) or next((lower[n] for n in names if n in lower and lower[n] not in chosen.values()), None)
        if column is None and (labelled or field != "label"):
            what = {"text": "question", "text_b": "passage", "label": "answers"}[field]
            raise DataError(
                f"{table.name}: no column looks like the {what}. Say which one: {field}=NAME. There are: {', '.join(there)[:400]}."
            )
        if column is not None and (field != "label" or labelled or told.label):
            chosen[field] = column
    group = told.group or (lower.get("title") if lower.get("title") not in chosen.values() else None)
    guessed = {**chosen, **({"group": group} if group else {})}
    said = [f"{field} = column {column!r}" for field, column in sorted(guessed.items()) if not getattr(told, field)]
    if said:
        table.notes.append(f"Guessed: {', '.join(said)}. To choose, give {' and '.join(one.split()[0] for one in said)} yourself.")
    return _Form(chosen["text"], chosen["text_b"], chosen.get("label")), replace(told, group=group)


def _records(table: Table, form: _Form, records: Records) -> Records:
    def rows(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            yield form.row(values)
        except ValueError as error:
            named = f" (question {values['id']!r})" if isinstance(values.get("id"), str | int) else ""
            raise ValueError(f"{error}{named}") from error

    yield from each(table.name, records, rows, form.question)
    table.notes.extend(form.notes())

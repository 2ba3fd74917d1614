"""Queries with the passages that answer them, and histories with what came next: brought to the standard fields for `rank` and `recommend`.

Between `formats` (a source as a table) and `read`. What is understood for `rank`:
    a query and its right passage in two columns, told or found by their names (QUERY, PASSAGE); beside them, where they are there,
    a list of wrong passages (NEGATIVES) and a number that says how alike the two texts are (SCORE)
    the nested JSON of SQuAD and kin: each question, its paragraph, and the article as the group
For `recommend`: a list of texts (HISTORY) and the text that came next (NEXT). A log of events is read by `interactions`.

A ranking is measured among all passages of the measured rows. `among` adds others: those of a file, or a whole catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trunkline.data.columns import Columns
from trunkline.data.readers.squad import as_questions
from trunkline.data.table import Table, each, looked_into
from trunkline.errors import DataError, unknown
from trunkline.types import Rows

QUERY = ("query", "anchor", "question", "text", "sentence1", "text_a", "查询", "问题")
PASSAGE = ("positive", "passage", "document", "answer", "context", "text_b", "sentence2", "response", "正例", "段落", "文档")
NEGATIVES = ("negatives", "negative", "hard_negatives", "neg", "负例")
SCORE = ("score", "similarity", "label", "分数", "相似度")
HISTORY = ("history", "历史")
NEXT = ("next", "text_b", "target", "item", "下一个")


def as_pairs(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with the columns `text` (query), `text_b` (right passage), `negatives` where there are some, `label` where there is a score.

    Raises: OptionError for a told column that is not there; DataError where no column has queries or passages.
    """
    table, rows, _ = looked_into(table)
    if any(isinstance(row.get("paragraphs"), list) or isinstance(row.get("qas"), list) for row in rows):
        return as_questions(table, told, labelled=False)
    found = _found(table, rows, told, {"text": QUERY, "text_b": PASSAGE}, {"negatives": NEGATIVES, "label": SCORE if labelled else ()})
    return _renamed(table, found, told)


def as_histories(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with `history` (a list of texts), `text` (those, a line each) and `text_b`, what came next, where `labelled`.

    Raises: as `as_pairs`; a history that is no list of texts is a Problem.
    """
    table, rows, _ = looked_into(table)
    found = _found(table, rows, told, {"text": HISTORY, **({"text_b": NEXT} if labelled else {})}, {} if labelled else {"text_b": NEXT})
    found["history"] = found.pop("text")
    made, columns = _renamed(table, found, told)
    made.columns, made.records = (*made.columns, "text") if made.columns else (), each(made.name, made.records, _joined, "history")
    return made, replace(columns, text="text")


def among(rows: Rows, passages: Sequence[str]) -> Rows:
    """The rows, measured among `passages` too: dealt out evenly as the field `others`, each to one row. In training these are wrong answers.

    >>> among(Rows(({"text": "q", "text_b": "p"},), "rank"), ["p", "another"])[0]["others"]
    ['another']
    """
    if not rows:
        return rows
    lists = ("negatives", "history", "others")
    there = {text for row in rows for text in (row.get("text_b"), *(text for name in lists for text in row.get(name, ())))}
    new = [text for text in dict.fromkeys(passages) if text not in there]
    dealt = [
        {**row, "others": [*row.get("others", ()), *new[at :: len(rows)]]} if new[at :: len(rows)] else row for at, row in enumerate(rows)
    ]
    return replace(rows, rows=tuple(dealt), notes=(*rows.notes, f"Measured among {len(new):,} further passages."))


def _found(
    table: Table, rows: Sequence[Mapping[str, Any]], told: Columns, needed: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]]
) -> dict[str, str]:  # fmt: skip
    """The column of each field, as told or by its name; what was guessed is said."""
    there = tuple(table.columns) or tuple(dict.fromkeys(key for row in rows for key in row))
    for name in told.told().values():
        if name not in there:
            raise unknown(f"{table.name}: column", name, there)
    lower = {name.casefold(): name for name in reversed(there) if name not in told.told().values()}
    found: dict[str, str] = {}
    for field, names in (*needed.items(), *optional.items()):
        guess = next((lower[name] for name in names if name in lower and lower[name] not in found.values()), None)
        column = getattr(told, field, None) or guess
        if column is None and field in needed:
            raise DataError(
                f"{table.name}: no column looks like the {field} ({', '.join(names[:4])}, ...). Say which one: {field}=NAME. "
                f"There are: {', '.join(there)[:400]}."
            )
        if column is not None:
            found[field] = column
    said = [f"{field} = column {column!r}" for field, column in found.items() if not getattr(told, field, None) and field != column]
    if said:
        table.notes.append(f"Guessed: {', '.join(said)}. To choose, give {' and '.join(one.split()[0] for one in said)} yourself.")
    return found


def _renamed(table: Table, found: Mapping[str, str], told: Columns) -> tuple[Table, Columns]:
    """The table with its columns under the names of the fields; all other columns stay."""
    field_of = {column: field for field, column in found.items()}

    def rows(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield {field_of.get(name, name): value for name, value in values.items() if name in field_of or name not in found}

    columns = replace(told, **{field: field if field in found else getattr(told, field) for field in ("text", "text_b", "label")})
    names = tuple(field_of.get(name, name) for name in table.columns if name in field_of or name not in found)
    return Table(table.name, names, each(table.name, table.records, rows), table.header, table.classes, table.notes), columns


def _joined(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record with its history as one text too. Raises: ValueError."""
    history: Any = values.get("history")
    history = history.tolist() if hasattr(history, "tolist") else history  # Parquet gives arrays
    if not isinstance(history, list | tuple) or not history or not all(isinstance(text, str) for text in history):
        raise ValueError("history is not a list of texts, at least one")
    yield {**values, "history": list(history), "text": "\n".join(history)}

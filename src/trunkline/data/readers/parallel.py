"""A text and what it becomes (translations, summaries, corrections), in the forms that people keep them in, brought to `text` and `label`.

Between `formats` (a source as a table) and `read`, like `chat`. What is understood:
    two files with a text a line      "train.{en,de}.gz" (quoted, so that the shell leaves it alone), or a pair of paths; each may be .gz
    a table with two columns          told, or found by their names (PAIRS)
    {"translation": {"en", "de"}}     the first is the source; or text="translation.de", label="translation.en"
A cell with a list of texts, or columns such as summary1, summary2, ... are several targets that are all right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from trunkline.data.cells import is_missing
from trunkline.data.columns import Columns
from trunkline.data.decode import find_encoding, open_text
from trunkline.data.delimited import MAX_LINE
from trunkline.data.formats import Form
from trunkline.data.readers.spans import plain
from trunkline.data.table import Records, Table, each, looked_into
from trunkline.errors import DataError, unknown
from trunkline.types import Problem

PAIRS = (
    *(
        ("source", "target"),
        ("src", "tgt"),
        ("src", "trg"),
        ("input", "output"),
        ("text", "label"),
        ("text", "target"),
        ("text", "summary"),
    ),
    *(("dialogue", "summary"), ("document", "summary"), ("article", "highlights"), ("article", "summary"), ("content", "summary")),
    *(("abstract", "title"), ("en", "zh"), ("en", "de"), ("en", "fr"), ("english", "chinese"), ("incorrect", "correct")),
    *(("原文", "译文"), ("原文", "摘要"), ("正文", "摘要"), ("摘要", "标题"), ("英文", "中文")),
)
"""Names of two columns that belong together, as (source, target); the first pair that is there is taken."""
_BRACES = re.compile(r"(.*)\{([^{},]+),([^{},]+)\}(.*)", re.DOTALL)
_NUMBERED = 9  # summary1 to summary9


def open_parallel(source: Any, form: Form, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns] | None:
    """The table of two files that have a text a line, the target's beside the source's; None where the source is something else.

    Without labels wanted the first file alone may be given as any other source. An empty line on either side is a Problem of its row.
    Raises: DataError where one of the files is not there, or they differ in how many lines they have.
    """
    paths = _two_paths(source)
    if paths is None:
        return None
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Two files are read side by side, a text a line: {paths[0]} and {paths[1]}.")
    encodings = [find_encoding(path, form.encoding) for path in paths]
    notes = [f"Sources are the lines of {paths[0]}, targets those of {paths[1]}.", *(one.note for one in encodings if one.note)]
    name = f"{paths[0]} + {paths[1].name}"
    return Table(name, ("text", "label"), _side_by_side(name, paths, encodings), notes=notes), replace(told, text="text", label="label")


def as_parallel(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with the columns `text` and `label`; what was guessed is said in the notes.

    Raises: OptionError for a told column that is not there; DataError where none looks like a source or a target.
    """
    table, rows, there = looked_into(table)
    form = _choose(table, there, rows, told, labelled)
    others = tuple(name for name in there if name not in (form.text, *form.labels, "text", "label"))
    columns = replace(told, text="text", label="label" if form.labels else None)
    return Table(table.name, ("text", "label", *others), _records(table, form, others), notes=table.notes), columns


@dataclass(frozen=True)
class _Form:
    """The column of the source, and those of the target: none, one, or several of which each is right. "a.b" is the value b within a."""

    text: str
    labels: tuple[str, ...]

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = [value for value in (_within(record, name) for name in self.labels) if not is_missing(value)]
        label = found[0] if len(found) == 1 and len(self.labels) == 1 else found
        return {"text": _within(record, self.text), "label": label if found else None}


def _two_paths(source: Any) -> tuple[Path, Path] | None:
    if isinstance(source, list | tuple) and len(source) == 2 and all(isinstance(one, str | os.PathLike) for one in source):
        return Path(source[0]), Path(source[1])
    if not isinstance(source, str | os.PathLike) or Path(source).exists():
        return None
    found = _BRACES.fullmatch(os.fspath(source))
    return (Path(found[1] + found[2] + found[4]), Path(found[1] + found[3] + found[4])) if found else None


def _side_by_side(name: str, paths: Sequence[Path], encodings: Sequence[Any]) -> Records:
    """Raises: DataError behind the last pair where one file has more lines: a shift anywhere makes every pair behind it wrong."""
    with ExitStack() as stack:
        streams = [stack.enter_context(open_text(path, encoding)) for path, encoding in zip(paths, encodings)]
        lines = [iter(lambda stream=stream: stream.readline(MAX_LINE), "") for stream in streams]  # type: ignore[misc]
        for number, pair in enumerate(zip_longest(*lines), 1):
            if None in pair:
                counts = [number - 1 + (one is not None) + sum(1 for _ in rest) for one, rest in zip(pair, lines)]
                raise DataError(
                    f"{paths[0]} has {counts[0]:,} lines and {paths[1]} has {counts[1]:,}, so they do not belong together line by line. "
                    "Give two files of one length."
                )
            source, target = (one.strip("\r\n") for one in pair)
            if source.strip() and target.strip():
                yield number, {"text": source, "label": target}
            else:
                which = "source" if not source.strip() else "target"
                yield Problem(name, number, (source or target)[:80], f"the {which} is an empty line")


def _choose(table: Table, there: Sequence[str], rows: Sequence[Mapping[str, Any]], told: Columns, labelled: bool) -> _Form:
    """Raises: OptionError, DataError."""
    if not rows:
        raise DataError(f"{table.name}: no rows. Give some with a source and a target text.")
    names = [*there, *_inner(rows)]
    for name in told.told().values():
        if name not in names:
            raise unknown(f"{table.name}: column", name, names)
    text = told.text
    labels: tuple[str, ...] = (told.label,) if told.label else ()
    lower = {name.casefold(): name for name in reversed(names)}
    for one, other in PAIRS:
        targets = _targets(lower, other)
        if one in lower and targets and text in (None, lower[one]) and (not labels or labels[0] in targets):
            text, labels = lower[one], labels or targets
    if text is None and not labels and len(inner := list(_inner(rows))) == 2:
        text, labels = inner[0], (inner[1],)
    if text is None and not labelled:
        text = next((lower[one] for one, _ in PAIRS if one in lower), None)
    if text is None or (labelled and not labels):
        header = " If the first line is a row and no header: header=False (--no-header)." if table.header else ""
        raise DataError(
            f"{table.name}: no two columns look like a source and its target. Say which ones: text=NAME and label=NAME. "
            f"There are: {', '.join(names)[:400]}.{header}"
        )
    labels = labels if labelled or told.label else ()
    guessed = [("text", text, told.text)] + ([("label", ", ".join(labels), told.label)] if labels else [])
    said = [f"{what} = column {name!r}" for what, name, was in guessed if not was and name != what]
    if said:
        table.notes.append(f"Guessed: {', '.join(said)}. To choose, give {' and '.join(one.split()[0] for one in said)} yourself.")
    return _Form(text, labels)


def _targets(lower: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The column of that name, or the numbered ones: summary1, summary2, ..."""
    numbered = [lower[f"{name}{n}"] for n in range(1, _NUMBERED + 1) if f"{name}{n}" in lower]
    return (lower[name],) if name in lower else tuple(numbered)


def _inner(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The values within an object, as "translation.en"."""
    first = rows[0]
    yield from (f"{name}.{key}" for name, value in first.items() if isinstance(value, Mapping) for key in value)


def _within(record: Mapping[str, Any], name: str) -> Any:
    if name in record:
        return _listed(record[name])
    outer, _, inner = name.partition(".")
    found = record.get(outer)
    return found.get(inner) if isinstance(found, Mapping) else None


def _listed(value: Any) -> Any:
    """A list of texts that stands as JSON in a cell; anything else as it is, for a text may well begin so."""
    if not isinstance(value, str) or value.lstrip()[:2] != '["':
        return value
    try:
        found = plain(value)
    except ValueError:
        return value
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else value


def _records(table: Table, form: _Form, others: Sequence[str]) -> Records:
    def rows(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield {**{name: values.get(name) for name in others}, **form.row(values)}

    return each(table.name, table.records, rows, form.text)

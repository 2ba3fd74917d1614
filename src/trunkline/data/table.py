"""`Table`: the one shape to which every source of rows is brought, and how Python objects are brought to it.

File formats make theirs in `formats` and `delimited`; `columns` picks from it; `read` walks over it once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

Record = tuple[int, dict[str, Any]]
"""Where a row starts (line of the file, or row number where there are no lines, from 1) and its values by column."""

Records = Generator[Record | Problem, None, None]

_SAMPLE = 500  # records that the form of a table is found by
_SHOWN = 80  # characters of a cell


@dataclass
class Table:
    """Columns and records, read as they are asked for. A record that could not even be parsed comes as a Problem.

    columns: in the order of the source; empty when only the records can tell (JSON)
    header: the column names came from the first line of a file, so they may be data by mistake
    classes: names of the class ids of a column (a ClassLabel of Hugging Face `datasets`)
    notes: filled while the records are read too
    """

    name: str
    columns: tuple[str, ...]
    records: Records
    header: bool = False
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def looked_into(table: Table) -> tuple[Table, list[dict[str, Any]], tuple[str, ...]]:
    """The table, to be read from its start; its first rows, by which its form is found; and its columns, of these rows where it names none."""
    sample = list(islice(table.records, _SAMPLE))
    rows = [record[1] for record in sample if not isinstance(record, Problem)]
    there = tuple(table.columns) or tuple(dict.fromkeys(key for row in rows for key in row))
    return replace(table, records=_again(sample, table.records)), rows, there


def _again(sample: Sequence[Record | Problem], rest: Records) -> Records:
    with closing(rest):
        yield from sample
        yield from rest


def each(name: str, records: Records, make: Callable[[int, dict[str, Any]], Iterable[dict[str, Any]]], shown: str = "text") -> Records:
    """The rows that `make(line, values)` gives for each record: all of them, or where it raises a ValueError one Problem, which shows `shown`.

    shown: a column; Problems of the source are passed on

    >>> list(each("memory", from_dicts([{"text": "2"}, {"text": "two"}], "memory"), lambda line, values: [{"number": int(values["text"])}]))
    [(1, {'number': 2}), Problem(file='memory', line=2, text='two', reason="invalid literal for int() with base 10: 'two'")]
    """
    with closing(records):
        for record in records:
            if isinstance(record, Problem):
                yield record
                continue
            line, values = record
            try:
                made = list(make(line, values))
            except ValueError as error:
                cell = values.get(shown)
                yield Problem(name, line, "" if cell is None else str(cell)[:_SHOWN], str(error))
            else:
                yield from ((line, row) for row in made)


def from_objects(source: Any) -> Table:
    """A table of a list of dicts, a pandas DataFrame or a `datasets.Dataset` (known by what they can do, not imported).

    Raises: OptionError for anything else; DataError for a dictionary of data sets, or a frame with a column twice.
    """
    if isinstance(source, Mapping):
        splits = ", ".join(map(str, source))
        raise DataError(f"source is a dict ({splits[:200]}). Give one data set of it, or a list with one dict per row.")
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return _from_frame(source)
    if hasattr(source, "features") and hasattr(source, "column_names"):
        return from_dataset(source, "dataset")
    if isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray):
        columns = dict.fromkeys(key for row in source if isinstance(row, Mapping) for key in row if isinstance(key, str))
        return Table("memory", tuple(columns), from_dicts(source, "memory"))
    raise OptionError(f"source is a {type(source).__name__}: give a path, a list of dicts, a pandas DataFrame or a datasets.Dataset.")


def from_dicts(rows: Iterable[Any], name: str) -> Records:
    """Records of dicts, numbered from 1; whatever is no dict becomes a Problem."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, Mapping):
            yield number, dict(row)
        else:
            yield Problem(name, number, str(row)[:200], f"is a {type(row).__name__}, not an object with named values")


def from_dataset(dataset: Any, name: str) -> Table:
    """A table of a `datasets.Dataset`; a ClassLabel's ids will be given their names."""
    features = dataset.features or {}
    return Table(name, tuple(dataset.column_names or features), from_dicts(dataset, name), classes=class_names(features))


def class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names of each column that is a ClassLabel or a list of them."""
    found = {}
    for column, feature in features.items():
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names:
            found[column] = tuple(map(str, names))
    return found


def _from_frame(frame: Any) -> Table:
    columns = tuple(map(str, frame.columns))
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"DataFrame: column {twice!r} stands there twice. Rename one.")
    values = [frame[name].tolist() for name in frame.columns]
    return Table("DataFrame", columns, from_dicts((dict(zip(columns, row)) for row in zip(*values)), "DataFrame"))

"""`read`: rows from a file or a Python object, every one checked. The first stage: file -> Rows.

Around it: `formats` opens the source as a table, `columns` chooses, `cells` turns a record into a row. This file counts:
what is kept and what is bad is the total, always.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from trunkline.data.cells import LABELS, BadCellError, RowMaker
from trunkline.data.columns import Columns, choose
from trunkline.data.formats import Form, open_table
from trunkline.data.readers.chat import as_dialogues
from trunkline.data.readers.conll import open_tagged
from trunkline.data.readers.documents import open_documents
from trunkline.data.readers.parallel import as_parallel, open_parallel
from trunkline.data.readers.passages import as_histories, as_pairs
from trunkline.data.readers.preferences import as_preferences
from trunkline.data.readers.spans import as_entities
from trunkline.data.readers.squad import as_questions
from trunkline.data.table import Record, Table
from trunkline.errors import DataError, OptionError, unknown
from trunkline.storage import write_file
from trunkline.types import Problem, Row, Rows

MAX_BAD = 100
MAX_BAD_SHARE = 0.01
MAX_BAD_READ = 100_000  # more bad rows than this, and more than good ones: the file is not such a table at all
_SAMPLE = 500  # records that columns are guessed by
_SHOWN = 10
_OPENERS: dict[str, Callable[..., tuple[Table, Columns] | None]] = {
    "tag": open_tagged,
    "seq2seq": open_parallel,
    "generate": open_documents,
}
"""For tasks with files that are no tables: what opens such a file, or gives None where it is one of the usual forms."""
_SHAPES: dict[str, Callable[..., tuple[Table, Columns]]] = {
    "tag": as_entities,
    "span": as_questions,
    "rank": as_pairs,
    "recommend": as_histories,
    "seq2seq": as_parallel,
    "generate": as_dialogues,
    "reward": as_preferences,
}
"""For tasks whose files have forms of their own: what brings a table, and the columns that were told, to the standard fields."""


def read(
    source: Any,
    task: str = "classify",
    *,
    text: str | None = None,
    label: str | None = None,
    text_b: str | None = None,
    id: str | None = None,  # noqa: A002  the name of the field
    group: str | None = None,
    time: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    separator: str | None = None,
    multi_label_separator: str | None = None,
    labelled: bool = True,
    skip_bad: str | os.PathLike[str] | None = None,
) -> Rows:
    """Rows of a path, a list of dicts, a pandas DataFrame or a `datasets.Dataset`, checked for `task`.

    More than six parameters, for once: each is a flag of the command line, and beneath they are two values, Columns and Form.

    text, label, text_b, id, group, time: column names; text, text_b and label are guessed where they are not told, and said in `notes`
    encoding, header, separator: how a file is written; encoding and separator are found where not told
    multi_label_separator: splits a label cell into several labels, as in "billing|refund" (a JSON list needs none)
    labelled: False reads texts alone, for prediction; a label is then taken only from the column that `label` names
    skip_bad: a file for the bad rows (JSON Lines); without it, more than 100 of them or more than 1% stop the reading

    A label of `classify` is a string, or a list of strings where any row has a list; one of `regress` a float.
    A repeated id with the same content is dropped, and is one of `problems`: kept + bad = total.

    Raises: DataError for a file that cannot be read, too many bad rows or one id with two contents; OptionError for a wrong argument.

    >>> rows = read([{"text": "My card is lost", "label": "card"}, {"text": "我的卡丢了", "label": "card"}])
    >>> len(rows), rows[1]["text"]
    (2, '我的卡丢了')
    """
    if task not in LABELS:
        raise unknown("task", task, LABELS)
    told = Columns(text, label, text_b, id, group, time)
    kept = _Kept(_quarantine_path(skip_bad, source))
    form = Form(encoding, header, separator, alone=not labelled)
    opened = _OPENERS[task](source, form, told, labelled=labelled) if task in _OPENERS else None
    table, told = opened or (open_table(source, form), told)
    if task in _SHAPES:
        table, told = _SHAPES[task](table, told, labelled=labelled)
        labelled = labelled and told.label is not None
    with closing(table.records) as records:
        sample = list(islice(records, _SAMPLE))
        columns = choose(table, sample, told, number=task == "regress", labelled=labelled)
        maker = RowMaker(task, columns, table.classes, multi_label_separator, labelled)
        for record in chain(sample, records):
            kept.add(record, maker, table.name)
    return _finish(kept, maker, table)


@dataclass
class _Kept:
    """The rows kept so far and the bad ones. Of these, all are held only where a quarantine file wants them."""

    quarantine: Path | None
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    bad: int = 0

    def add(self, record: Record | Problem, maker: RowMaker, name: str) -> None:
        if isinstance(record, Problem):
            self._add_bad(record, {})
            return
        line, values = record
        try:
            row = maker.make(line, values)
        except BadCellError as error:
            shown = "" if "empty" in str(error) else str(values.get(maker.columns.text or "") or "")[:80]
            self._add_bad(Problem(name, line, shown, str(error)), values)
        else:
            self.rows.append(row)
            self.lines.append(line)

    def _add_bad(self, problem: Problem, values: dict[str, Any]) -> None:
        self.bad += 1
        if self.bad > max(MAX_BAD_READ, len(self.rows)):
            self._stop(problem.file, "so far, and reading was stopped")
        if self.quarantine is not None or self.bad <= MAX_BAD:
            self.problems.append(problem)
        if self.quarantine is not None:
            self.records.append(values)

    def check_share(self, name: str) -> None:
        """Raises: DataError where too many rows are bad and no quarantine file was given."""
        if self.quarantine is None and (self.bad > MAX_BAD or self.bad > MAX_BAD_SHARE * (self.bad + len(self.rows))):
            self._stop(name, f"at most {MAX_BAD_SHARE:.0%} and {MAX_BAD} may be bad")

    def _stop(self, name: str, why: str) -> NoReturn:
        listed = "\n  ".join(map(str, self.problems[:_SHOWN]))
        more = f"\n  and {self.bad - _SHOWN:,} more" if self.bad > _SHOWN else ""
        raise DataError(
            f"{name}: {self.bad:,} of {self.bad + len(self.rows):,} rows cannot be used ({why}):\n  {listed}{more}\n"
            "Repair them, or give skip_bad='bad.jsonl' (--skip-bad bad.jsonl) to put them there and go on."
        )

    def write_quarantine(self) -> None:
        if self.quarantine is None:
            return
        text = "".join(
            json.dumps({"file": p.file, "line": p.line, "reason": p.reason, "text": p.text, "row": _plain(row)}, ensure_ascii=False) + "\n"
            for p, row in zip(self.problems, self.records)
        )
        write_file(self.quarantine, text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its JSON escape


def _finish(kept: _Kept, maker: RowMaker, table: Table) -> Rows:
    kept.write_quarantine()
    kept.check_share(table.name)
    if not kept.rows:
        raise DataError(
            f"{table.name}: no rows that can be used"
            + (f" ({kept.bad:,} are bad)" if kept.bad else "")
            + ". Give at least two rows per class."
        )
    if {"Time is a number", "Time is a date"} <= set(maker.seen):
        raise DataError(
            f"{table.name}: the column {maker.columns.time!r} holds dates in some rows and bare numbers in others. Write one form."
        )
    notes = [*table.notes, *(note for note in maker.notes() if not note.startswith("Time is"))]
    if kept.bad:
        where = f" and put into {kept.quarantine}" if kept.quarantine else ""
        notes.append(f"{kept.bad:,} of {kept.bad + len(kept.rows):,} rows were left out{where}; the first: {kept.problems[0]}.")
    rows, repeated = _unique(kept, table.name) if maker.columns.id is not None else (kept.rows, [])
    if repeated:
        notes.append(f"{len(repeated):,} rows repeat an id with the same content and were dropped.")
    if any(isinstance(row.get("label"), list) for row in rows):
        rows = [row if isinstance(row.get("label"), list) else {**row, "label": [row["label"]]} if "label" in row else row for row in rows]
    return Rows(tuple(rows), maker.task, table.name, maker.columns.told(), tuple(notes), (*kept.problems, *repeated))


def _unique(kept: _Kept, name: str) -> tuple[list[Row], list[Problem]]:
    """The rows without those that repeat an id and its content. Raises: DataError where an id has two contents."""
    first: dict[str, int] = {}
    rows, repeated, clashes = [], [], []
    for place, row in enumerate(kept.rows):
        before = first.setdefault(row["id"], place)
        if before == place:
            rows.append(row)
        elif _content(kept.rows[before]) == _content(row):
            repeated.append(Problem(name, kept.lines[place], row["text"][:80], f"repeats id {row['id']!r} of line {kept.lines[before]}"))
        else:
            what = "another label" if kept.rows[before].get("label") != row.get("label") else "another text"
            clashes.append(f"{name}:{kept.lines[place]}: id {row['id']!r} was used on line {kept.lines[before]} with {what}")
    if clashes:
        more = f"\n  and {len(clashes) - _SHOWN:,} more" if len(clashes) > _SHOWN else ""
        listed = "\n  ".join(clashes[:_SHOWN])
        raise DataError(
            f"{name}: {len(clashes):,} rows repeat an id with other content:\n  {listed}{more}\nCorrect them, or leave id= out."
        )
    return rows, repeated


def _content(row: Row) -> tuple[Any, ...]:
    return row["text"], row.get("text_b"), row.get("label")


def _quarantine_path(skip_bad: str | os.PathLike[str] | None, source: Any) -> Path | None:
    if skip_bad is None:
        return None
    path = Path(skip_bad)
    if isinstance(source, str | os.PathLike) and path.exists() and Path(source).exists() and path.samefile(source):
        raise OptionError(f"skip_bad={str(path)!r}: is the file that is read. Give another name.")
    return path


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A record for the quarantine file: strings cut at 10,000 characters, other values as JSON or as their text."""
    return {str(k): v if isinstance(v, bool | int) or v is None else str(v)[:10_000] for k, v in row.items()}

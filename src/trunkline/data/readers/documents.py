"""Plain text files as a table: a text for each line, paragraph or document. For tasks that go on from a text; `chat` reads what comes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trunkline.data.columns import Columns
from trunkline.data.decode import Encoding, find_encoding, open_text
from trunkline.data.delimited import MAX_CELL, MAX_LINE
from trunkline.data.formats import Form
from trunkline.data.table import Records, Table
from trunkline.errors import DataError, unknown
from trunkline.types import Problem

BY = ("line", "paragraph", "document")
ENDINGS = (".txt",)


def open_documents(source: Any, form: Form, told: Columns, *, labelled: bool = True, by: str = "line") -> tuple[Table, Columns] | None:
    """The table of a .txt file (also .txt.gz): a record for each line, each paragraph (parted by blank lines) or the whole document.

    None for anything else, and where columns are told: then the file is a table. `labelled` is not read: plain text has no labels.
    Raises: OptionError for an unknown `by`; DataError for an empty file, or one whose encoding is not found.
    """
    if by not in BY:
        raise unknown("by", by, BY)
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is None or not path.is_file() or _ending(path) not in ENDINGS or told.told():
        return None
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty. Give one with some text.")
    encoding = find_encoding(path, form.encoding)
    return Table(str(path), ("text",), _documents(path, encoding, by), notes=[encoding.note] if encoding.note else []), told


def _ending(path: Path) -> str:
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "")


def _documents(path: Path, encoding: Encoding, by: str) -> Records:
    with open_text(path, encoding) as stream:
        lines = enumerate(iter(lambda: stream.readline(MAX_LINE), ""), 1)
        for number, pieces in _pieces(lines, by):
            text = "".join(pieces).strip("\r\n")
            if len(text) > MAX_CELL:
                reason = f"is a {by} of over {MAX_CELL:,} characters; use by='paragraph' or by='line'"
                yield Problem(str(path), number, text[:80], reason)
            elif text.strip():
                yield number, {"text": text}


def _pieces(lines: Iterable[tuple[int, str]], by: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of each text, with the number of its first line. Of a text far too long the rest is not kept."""
    held: list[str] = []
    start, size, blank = 1, 0, True
    for number, line in lines:
        if blank:
            held, start, size = [], number, 0
        size, blank = size + len(line), blank and not line.strip()
        if size <= 2 * MAX_CELL or not held:
            held.append(line)
        if by == "line" or (by == "paragraph" and not line.strip()):
            yield start, held
            held, blank = [], True
    if held:
        yield start, held

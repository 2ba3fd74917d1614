"""CSV, TSV and kin: which separator, where a record starts, what to do when quotes are broken.

Sits between `decode` (text) and `formats` (which form a file has). Source: RFC 4180 for quoting, read by the `csv` module in
strict mode. A record that it refuses costs one physical line: reading goes on at the next one, so one stray quote
cannot swallow the rest of a file. Tab-separated files seldom quote at all, so there (and with any separator but comma and
semicolon) a line whose quotes make no sense is read as it stands.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trunkline.data.columns import TEXT
from trunkline.data.decode import Encoding, open_text
from trunkline.data.table import Records, Table
from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

MAX_CELL = 1 << 20  # characters
MAX_LINE = 4 << 20
_SAMPLE = 30  # lines that a separator is guessed by
_SAMPLE_LINE = 1 << 16  # characters
_MAX_READ_AGAIN = 32 << 20  # characters given back after broken quotes, over a whole file, and
_PER_LINE = 16  # so many more for each line, which is what a line costs in time
_NONE = "\x1f"  # what no text has: nothing is split
_SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;|@"}


def read_delimited(path: Path, suffix: str, encoding: Encoding, *, header: bool, separator: str | None, alone: bool = False) -> Table:
    """The table of a separated text file. Without a header the columns are "0", "1", ...

    Raises: DataError for an empty file or one with no separator; OptionError for a separator that is not one character.
    """
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise OptionError(f"separator={separator!r}: use one character, such as ',' ';' '@' or a tab.")
    separator = separator or _sniff(path, encoding, _SEPARATORS[suffix], alone)
    notes = [] if separator in (_SEPARATORS[suffix][0], _NONE) else [f"Columns are separated by {separator!r}."]
    if csv.field_size_limit() < MAX_CELL:
        csv.field_size_limit(MAX_CELL)  # the module's own limit is one for the whole process, so it is only ever raised
    cells = _Cells(path, encoding, separator)
    names = cells.first()
    if header and separator == _NONE and not _is_name(names[0]):
        header = False
        notes.append("The first line names no column, and is a text like the others.")
    columns = _names(names) if header else tuple(map(str, range(len(names))))
    return Table(str(path), columns, _records(cells, columns, header, notes), header, notes=notes)


@dataclass
class _Cells:
    """The records of one file as lists of cells; opens the file anew each time it is walked over."""

    path: Path
    encoding: Encoding
    separator: str
    literal: int = 0
    blank: int = 0

    def first(self) -> list[str]:
        """The cells of the first record. Raises: DataError when there is none, or none that can be read."""
        number, cells = next(self.walk(0), (1, "the file is empty. Give one with a line of column names and at least two rows per class"))
        if isinstance(cells, str):
            raise DataError(f"{self.path}:{number}: {cells}.")
        return cells

    def walk(self, width: int) -> Iterator[tuple[int, list[str] | str]]:
        """Line number and cells of each record; or line number and reason, where the quotes or the size are wrong."""
        with open_text(self.path, self.encoding) as stream:
            lines = _Lines(stream, str(self.path))
            reader = csv.reader(lines, delimiter=self.separator, strict=True)
            while True:
                number = lines.begin()
                try:
                    cells: list[str] | str = next(reader)
                except StopIteration:
                    return
                except (csv.Error, _LongLineError) as error:
                    cells = self._repaired(lines, width) or _reason(error, lines)
                else:
                    if (len(lines.taken) > 1 or len(cells) != width) and self._all_whole(lines.taken, width):
                        cells = self._repaired(lines, width) or cells
                if any(map(str.strip, cells)):
                    yield number, cells
                elif len(cells) > 1:  # separators and nothing else, as spreadsheets write below the last row
                    self.blank += 1

    def _all_whole(self, taken: Sequence[str], width: int) -> bool:
        """Whether a quoted cell over several lines or columns is an accident: each line is a full row when quotes mean nothing."""
        return self.separator not in ",;" and width > 1 and all(line.count(self.separator) == width - 1 for line in taken)

    def _repaired(self, lines: _Lines, width: int) -> list[str] | None:
        """The first line of what was taken, split without regard to quotes, when that gives a full row."""
        lines.keep_first()
        if not self._all_whole(lines.taken, width) or isinstance(lines.taken[0], _LongLine):
            return None
        self.literal += 1
        return lines.taken[0].rstrip("\r\n").split(self.separator)


def _records(cells: _Cells, columns: tuple[str, ...], header: bool, notes: list[str]) -> Records:
    name, width = str(cells.path), len(columns)
    for index, (number, found) in enumerate(cells.walk(width)):
        if index == 0 and header:
            continue
        if isinstance(found, str):
            yield Problem(name, number, "", found)
        elif len(found) != width:
            shown = cells.separator.join(found)[:200]
            yield Problem(name, number, shown, f"has {len(found)} fields, and {width} are expected")
        else:
            yield number, dict(zip(columns, found))
    if cells.blank:
        notes.append(f"{cells.blank:,} lines without any content were passed over.")
    if cells.literal:
        notes.append(f"{cells.literal:,} lines hold quotation marks that do not enclose a cell; they were read as they stand.")


def _names(cells: list[str]) -> tuple[str, ...]:
    return tuple(name.strip() or f"column {place}" for place, name in enumerate(cells, 1))


def _is_name(line: str) -> bool:
    """Whether the first line of a file of one column names it: with a usual name, or one word of ASCII. Else a text would be lost."""
    return line.strip().casefold() in TEXT or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", line.strip()) is not None


def _sniff(path: Path, encoding: Encoding, candidates: str, alone: bool) -> str:
    """The separator that gives most of the first rows the width of the first one; the usual one on a tie.

    alone: where the first row has none, each line is one text, whatever marks are in it
    """
    with open_text(path, encoding) as stream:
        lines = [line for _, line in zip(range(_SAMPLE), iter(lambda: stream.readline(_SAMPLE_LINE), ""))]
    best, score = None, 0.0
    for separator in candidates:
        widths = [len(cells) for cells in _loose(lines, separator) if cells]
        share = widths.count(widths[0]) / len(widths) if widths and widths[0] > 1 else 0.0
        if share > score:
            best, score = separator, share
    if best is None:
        best = next((separator for separator in candidates if separator in "".join(lines[:1])), None)  # broken quotes, told of later
    if best is None and alone:
        return _NONE
    if best is None and any(line.strip() for line in lines):
        raise DataError(
            f"{path}: the first line {lines[0].strip()[:80]!r} has no column separator ({', '.join(map(repr, candidates))} were tried). "
            "Rows need a text and a label column; give separator= (--separator) for another character."
        )
    return best or candidates[0]


def _loose(lines: list[str], separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error:  # a cell over the limit: good enough for a guess
        return [line.split(separator) for line in lines]


def _reason(error: Exception, lines: _Lines) -> str:
    if isinstance(error, _LongLineError):
        return f"the line is longer than {MAX_LINE:,} characters"
    if "field larger" in str(error):
        return f"a cell is longer than {MAX_CELL:,} characters (or a quotation mark is never closed)"
    if "unexpected end" in str(error):
        return f"a quotation mark is opened and never closed: {lines.taken[0].strip()[:80]!r}"
    return f"quotation marks are not as in RFC 4180 ({error}): {lines.taken[0].strip()[:80]!r}"


class _LongLine(str):
    """The beginning of a line that was too long to be kept."""


class _LongLineError(Exception):
    """Tells the loop above that the line at hand is too long; never leaves this file."""


class _Lines:
    """Physical lines of a stream; those taken since `begin` can be given back, but for the first."""

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        self._stream = stream
        self._name = name
        self._back: deque[str] = deque()
        self._number = 0
        self._again = 0
        self.taken: list[str] = []

    def begin(self) -> int:
        """Start a record; the number of its first line."""
        self.taken = []
        return self._number + 1

    def keep_first(self) -> None:
        """Give all lines of this record back, but for the first."""
        extra = self.taken[1:]
        self._back.extendleft(reversed(extra))
        self._number -= len(extra)
        self._again += sum(map(len, extra)) + _PER_LINE * len(extra)
        del self.taken[1:]
        if self._again > _MAX_READ_AGAIN:
            raise DataError(f"{self._name}:{self._number}: quotation marks are broken all over. Write the file as RFC 4180 CSV.")

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else self._read()
        if not line:
            raise StopIteration
        self._number += 1
        self.taken.append(line)
        if isinstance(line, _LongLine):
            raise _LongLineError
        return line

    def _read(self) -> str:
        line = self._stream.readline(MAX_LINE)
        if len(line) < MAX_LINE or line[-1] in "\r\n":
            return line
        rest = line
        while len(rest) == MAX_LINE and rest[-1] not in "\r\n":
            rest = self._stream.readline(MAX_LINE)
        return _LongLine(line[:200])

"""From the cells of a record to a Row: what a text, a label and a time may be, and what is done with odd characters.

Policy for text. Unicode is kept as it stands (no normalising, no trimming), with three exceptions:
- NUL and lone surrogates mean damage: the row is bad;
- other control characters (C0 but for tab and line ends, DEL, C1 but for U+0085) are taken out, those that are white space
  (U+000B, U+000C, U+001C to U+001F) become a space; how many rows had them is noted;
- a text over `MAX_CELL` characters, or of nothing but white space and invisible characters: the row is bad.
Labels: the same, and trimmed; a repeated label of one row counts once. A U+FFFD that is already in the data stays and is noted.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from trunkline.data.columns import SPLITS, Columns
from trunkline.data.delimited import MAX_CELL
from trunkline.types import Row

_DAMAGE = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DAY = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?(.*)", re.ASCII | re.DOTALL)


class BadCellError(ValueError):
    """Why a row cannot be used; caught where the row's place is known."""


def fold(text: str) -> str:
    """The text by which two rows count as the same: NFKC, casefold, white space collapsed.

    >>> fold("  Ｗhere is\\tMY card？")
    'where is my card?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass
class RowMaker:
    """Makes rows of records; counts what it had to change, for the notes. Raises BadCellError for a row that cannot be used.

    classes: names of class ids by column; separator: splits a label cell into several; labelled: a label must be there
    """

    task: str
    columns: Columns
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    separator: str | None = None
    labelled: bool = True
    seen: dict[str, list[int]] = field(default_factory=dict)

    def make(self, line: int, record: Mapping[str, Any]) -> Row:
        at = self.columns
        row: Row = {"text": self._text(line, record.get(at.text or ""), "text")}
        if at.text_b is not None:
            row["text_b"] = self._text(line, record.get(at.text_b), "text_b")
        if at.label is not None:
            value = record.get(at.label)
            if self.labelled or not is_missing(value):
                row["label"] = LABELS[self.task](self, line, value)
        for name, made in FIELDS.get(self.task, {}).items():
            if not is_missing(record.get(name)):
                row[name] = made(self, line, record[name])
        for name in ("id", "group"):
            column = getattr(at, name)
            if column is not None:
                row[name] = self._name(line, record.get(column), name)
        if at.time is not None:
            row["time"] = self._time(line, record.get(at.time))
        if at.split is not None:
            row["split"] = _split_name(record.get(at.split))
        return row

    def notes(self) -> list[str]:
        """A sentence for each thing that was changed or odd: how often, and where first."""
        return [f"{what}: {lines[0]:,} (the first at {lines[1]})." for what, lines in self.seen.items()]

    def _count(self, what: str, line: int) -> None:
        self.seen.setdefault(what, [0, line])[0] += 1

    def _text(self, line: int, value: Any, what: str) -> str:
        if not isinstance(value, str):
            raise BadCellError(f"{what} is missing" if is_missing(value) else f"{what} is a {type(value).__name__}, not a string")
        if len(value) > MAX_CELL:
            raise BadCellError(f"{what} has {len(value):,} characters; at most {MAX_CELL:,} are taken")
        value = self._clean(line, value, what)
        if not value.strip() or not value.strip(_INVISIBLE).strip():
            raise BadCellError(f"{what} is empty")
        return value

    def _clean(self, line: int, value: str, what: str) -> str:
        if value.isprintable() and "\ufffd" not in value:  # the usual case, in one pass of C
            return value
        if damage := _DAMAGE.search(value):
            raise BadCellError(f"{what} holds U+{ord(damage[0]):04X} at character {damage.start() + 1:,}: it was damaged on the way")
        if "\ufffd" in value:
            self._count("Rows with U+FFFD, left by a wrong decoding before this file was written", line)
        if _CONTROL.search(value):
            self._count("Rows with control characters, which were taken out", line)
            value = _CONTROL.sub(lambda found: " " if found[0].isspace() else "", value)
        return value

    def _name(self, line: int, value: Any, what: str) -> str:
        """A string of a value that names something: 1 and 1.0 are "1", true is "true"."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if is_missing(value):
            raise BadCellError(f"{what} is missing")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int | float | date):
            raise BadCellError(f"{what} is a {type(value).__name__}, not a string or a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadCellError(f"{what} is {value}")
        text = self._clean(line, str(value), what)
        if text != (text := text.strip()):
            self._count(f"Rows with white space around the {what}, which was taken off", line)
        if not text.strip(_INVISIBLE):
            raise BadCellError(f"{what} is missing")
        if len(text) > 1000:
            raise BadCellError(f"{what} has {len(text):,} characters; at most 1,000 are taken")
        return text

    def _class(self, line: int, value: Any) -> str | list[str]:
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, str) and self.separator and value.strip():
            value = [part for part in value.split(self.separator) if part.strip()]
        if isinstance(value, list | tuple):
            return list(dict.fromkeys(self._one_class(line, part) for part in value))
        return self._one_class(line, value)

    def _one_class(self, line: int, value: Any) -> str:
        names = self.classes.get(self.columns.label or "")
        if names and isinstance(value, int) and not isinstance(value, bool):
            if not -1 <= value < len(names):
                raise BadCellError(f"label is class {value}, and there are {len(names)}")
            value = None if value == -1 else names[value]  # -1 is how `datasets` says that there is none
        return sys.intern(self._name(line, value, "label"))  # one string for all rows that have it

    def _texts(self, line: int, value: Any) -> list[str]:
        value = value.tolist() if hasattr(value, "tolist") else value
        return [self._text(line, one, "a text of the list") for one in (value if isinstance(value, list | tuple) else [value])]

    def _targets(self, line: int, value: Any) -> list[str]:
        if not isinstance(value, list | tuple) or not value:
            raise BadCellError("label is missing" if is_missing(value) or not value else f"label is a {type(value).__name__}, not a text")
        return self._texts(line, value)

    def _number(self, line: int, value: Any) -> float:
        value = value.item() if hasattr(value, "item") else value
        if is_missing(value):
            raise BadCellError("label is missing")
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            raise BadCellError(f"label {value[:80]!r} is not a number")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadCellError(f"label is a {type(value).__name__}, not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadCellError("label is not a finite number")
        return number

    def _spans(self, line: int, value: Any) -> list[list[Any]]:
        if not isinstance(value, list):  # what is there, spans.py has compared with the text
            raise BadCellError("label is missing")
        return value

    def _time(self, line: int, value: Any) -> float:
        """Seconds since 1970 for a date (UTC where it says no zone); a number stays what it is."""
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and not is_missing(value):
            self.seen.setdefault("Time is a number", [0, line])[0] += 1
            return float(value)
        return self._date(line, value)

    def _date(self, line: int, value: Any) -> float:
        if is_missing(value):
            raise BadCellError("time is missing")
        try:
            moment = datetime.fromisoformat(_iso(value) if isinstance(value, str) else value.isoformat())
        except (ValueError, AttributeError, TypeError) as error:
            raise BadCellError(
                f"time {str(value)[:80]!r} is no date: use 2026-01-31, 2026-01-31 14:05:00, 2026/1/31 or a number"
            ) from error
        self.seen.setdefault("Time is a date", [0, line])[0] += 1
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


LABELS: dict[str, Callable[[RowMaker, int, Any], Any]] = {
    "classify": RowMaker._class,
    "regress": RowMaker._number,
    "tag": RowMaker._spans,
    "span": lambda maker, line, value: value,  # squad.py has compared it with its passage
    "rank": RowMaker._number,  # how alike the two texts are, where that is known
    "recommend": RowMaker._number,  # no row has one: what came next is the second text
    "reward": RowMaker._number,  # nor here: the better answer is the second text
    "seq2seq": lambda maker, line, value: maker._text(line, value, "label") if isinstance(value, str) else maker._targets(line, value),
    "generate": lambda maker, line, value: maker._text(line, value, "label"),
}
"""How each task reads its label."""
FIELDS: dict[str, dict[str, Callable[[RowMaker, int, Any], Any]]] = {
    "rank": {"negatives": RowMaker._texts},
    "recommend": {"history": RowMaker._texts},
    "generate": dict.fromkeys(("messages", "tools", "rejected", "liked"), lambda maker, line, value: value),  # chat.py has checked them
    "reward": dict.fromkeys(
        ("messages", "rejected", "margin", "annotator"), lambda maker, line, value: value
    ),  # preferences.py has checked them
    "tag": {"words": RowMaker._spans},
}
"""What rows of a task may have beside the standard fields, under these names, and how each is read."""


def is_missing(value: Any) -> bool:
    """None, NaN, NaT, pandas' NA, or a blank string."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def _iso(text: str) -> str:
    day = _DAY.fullmatch(text.strip())
    return f"{day[1]}-{int(day[2]):02d}-{int(day[3]):02d}{day[4]}" if day else text.strip()


def _split_name(value: Any) -> str:
    if not isinstance(value, str) or value.casefold() not in SPLITS:
        raise BadCellError(f"split is {str(value)[:80]!r}; allowed: {', '.join(SPLITS)}")
    return SPLITS[value.casefold()]

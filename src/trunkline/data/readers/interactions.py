"""A log of who took what when, and the items' texts, as rows for `recommend`: what a user had, and what came next.

Log: one event a row, with user, item and time. Items: one a row, with its id and its text. Both in any form that `read` takes.
For each user in order of time, every event but the first becomes a row:
    history   the texts of the user's last `history` items before it, the latest last;  text   the same, a line each
    text_b    the text of the item;  group   the user;  time   the event's;  split   with leave="last"

An item counts for a user once, the first time. Items are known by their texts, for that is all a branch will see of them: two ids with
one text are one item. Events of items without a text are left out and counted, and users of whom fewer than two events are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from trunkline.choices import between, one_of
from trunkline.data.cells import BadCellError, RowMaker
from trunkline.data.columns import Columns
from trunkline.data.formats import Form, open_table
from trunkline.data.read import MAX_BAD, MAX_BAD_SHARE, read
from trunkline.data.table import Table
from trunkline.errors import DataError, unknown
from trunkline.types import Problem, Row, Rows

USER = ("user", "user_id", "userid", "uid", "customer", "customer_id", "session", "用户", "客户")
ITEM = ("item", "item_id", "itemid", "product", "product_id", "id", "商品", "物品")
TIME = ("time", "timestamp", "date", "datetime", "时间", "日期")
LEAVES = ("last", "none")
_SAMPLE = 500  # records that column names are found by
_SHOWN = 10


@dataclass(frozen=True)
class Interactions:
    """rows: one for each event but a user's first; catalogue: the text of every item, also of those that nobody took."""

    rows: Rows
    catalogue: tuple[str, ...]


def read_interactions(
    log: Any, items: Any, *, user: str | None = None, item: str | None = None, time: str | None = None, text: str | None = None,
    history: int = 10, leave: str = "last",
) -> Interactions:  # fmt: skip
    """Rows for `recommend` of a log and its items. Columns that are not told are found by their names, and said.

    item: the column of both; text: of the items alone
    history: so many of a user's last items make a row's history
    leave: "last": of a user's three or more events the last is for testing, of four or more the one before for validation
        (`split(rows, by="given")`); "none": for `split(rows, by="time")`, where a border lies at one moment for all users, as it does in use

    Raises: DataError for a file that cannot be read, too many bad rows, or nothing to learn from; OptionError for a wrong argument.

    >>> log = [{"user": "u", "item": n, "time": n} for n in (1, 2, 3)]
    >>> items = [{"item": n, "text": f"book {n}"} for n in (1, 2, 3)]
    >>> [(row["history"], row["text_b"], row["split"]) for row in read_interactions(log, items).rows]
    [(['book 1'], 'book 2', 'train'), (['book 1', 'book 2'], 'book 3', 'test')]
    """
    between("history", history, 1, 1000)
    one_of("leave", leave, LEAVES)
    texts, notes = _texts(items, item, text)
    events, problems, more = _events(log, {"user": user, "item": item, "time": time})
    name = events.name
    counts: Counter[str] = Counter()
    rows = [row for one in _by_user(events.kept, texts, counts) for row in _rows(one, history, leave)]
    notes += [*more, *(f"{what}: {count:,}." for what, count in counts.items() if count)]
    if not rows:
        raise DataError(f"{name}: no user has two events of items with a text. {' '.join(notes)}".rstrip())
    told = {"group": "user", "text_b": "item", "time": "time"}
    return Interactions(Rows(tuple(rows), "recommend", name, told, tuple(notes), tuple(problems)), tuple(dict.fromkeys(texts.values())))


Event = tuple[str, float, str]
"""User, time, item."""


@dataclass(frozen=True)
class _Log:
    name: str
    kept: list[Event]


class _EventMaker(RowMaker):
    """Makes events of records, with the checks and counts of cells. Raises BadCellError."""

    def event(self, line: int, record: Mapping[str, Any], columns: Mapping[str, str]) -> Event:
        return (
            self._name(line, record.get(columns["user"]), "user"),
            self._time(line, record.get(columns["time"])),
            self._name(line, record.get(columns["item"]), "item"),
        )


def _texts(items: Any, item: str | None, text: str | None) -> tuple[dict[str, str], list[str]]:
    """The text of each item by its id, and what was noticed."""
    table = open_table(items, Form())
    with closing(table.records):
        sample = [record[1] for record in islice(table.records, _SAMPLE) if not isinstance(record, Problem)]
    column = _column(table, sample, "item", item, ITEM)
    rows = read(items, "classify", text=text, id=column, labelled=False)
    notes = [f"Items: {note}" for note in (*table.notes, *rows.notes)]
    found = {row["id"]: row["text"] for row in rows}
    if twice := len(found) - len(set(found.values())):
        notes.append(f"Items whose text another item has too, so that they count as one: {twice:,}.")
    return found, notes


def _events(log: Any, told: Mapping[str, str | None]) -> tuple[_Log, list[Problem], list[str]]:
    """The events of a log, its bad rows, and what was noticed."""
    table = open_table(log, Form())
    kept: list[Event] = []
    problems: list[Problem] = []
    maker = _EventMaker("recommend", Columns())
    columns: dict[str, str] = {}
    with closing(table.records):
        sample = list(islice(table.records, _SAMPLE))
        there = [record[1] for record in sample if not isinstance(record, Problem)]
        for field, names in (("user", USER), ("item", ITEM), ("time", TIME)):
            columns[field] = _column(table, there, field, told[field], names)
        for record in chain(sample, table.records):
            if isinstance(record, Problem):
                problems.append(record)
                continue
            try:
                kept.append(maker.event(*record, columns))
            except BadCellError as error:
                problems.append(Problem(table.name, record[0], str(record[1])[:80], str(error)))
    _check(table.name, len(kept), problems, maker)
    notes = [*table.notes, *(note for note in maker.notes() if not note.startswith("Time is"))]
    if problems:
        notes.append(f"{len(problems):,} of {len(problems) + len(kept):,} events were left out; the first: {problems[0]}.")
    return _Log(table.name, kept), problems, notes


def _column(table: Table, sample: Sequence[Mapping[str, Any]], field: str, told: str | None, names: Sequence[str]) -> str:
    """The column of a field, as told or by its name."""
    there = tuple(table.columns) or tuple(dict.fromkeys(key for row in sample for key in row))
    if told is not None:
        if told not in there:
            raise unknown(f"{table.name}: column", told, there)
        return told
    lower = {name.casefold(): name for name in reversed(there)}
    found = next((lower[name] for name in names if name in lower), None)
    if found is None:
        raise DataError(
            f"{table.name}: no column looks like the {field}. Say which one: {field}=NAME. There are: {', '.join(there)[:400]}."
        )
    if found != field:
        table.notes.append(f"Guessed: {field} = column {found!r}. To choose, give {field} yourself.")
    return found


def _check(name: str, kept: int, problems: Sequence[Problem], maker: RowMaker) -> None:
    """Raises: DataError where too many events are bad, or times are written in two forms."""
    if len(problems) > MAX_BAD or len(problems) > MAX_BAD_SHARE * (len(problems) + kept):
        listed = "\n  ".join(map(str, problems[:_SHOWN]))
        raise DataError(
            f"{name}: {len(problems):,} of {len(problems) + kept:,} events cannot be used (at most {MAX_BAD_SHARE:.0%} and {MAX_BAD} may be "
            f"bad):\n  {listed}\nRepair them."
        )
    if {"Time is a number", "Time is a date"} <= set(maker.seen):
        raise DataError(f"{name}: the time is a date in some rows and a bare number in others. Write one form.")


def _by_user(events: Sequence[Event], texts: Mapping[str, str], counts: Counter[str]) -> Iterator[list[Event]]:
    """The events of each user with two or more, in order of time, items by their text and each once; the others are counted."""
    of_user: dict[str, dict[str, Event]] = {}
    for user, time, item in sorted(events, key=lambda event: event[1]):  # stable: of one moment, in the order of the file
        if item not in texts:
            counts["Events of items that the items file does not have"] += 1
        elif texts[item] in of_user.setdefault(user, {}):
            counts["Events in which a user took an item again, which count once"] += 1
        else:
            of_user[user][texts[item]] = (user, time, texts[item])
    for user in dict.fromkeys(event[0] for event in events):
        taken = list(of_user.get(user, {}).values())
        if len(taken) >= 2:
            yield taken
        else:
            counts["Users with fewer than two such events, who teach nothing"] += 1


def _rows(events: Sequence[Event], history: int, leave: str) -> Iterator[Row]:
    """A row for each event but the first."""
    for at in range(1, len(events)):
        user, time, text = events[at]
        before = [event[2] for event in events[max(0, at - history) : at]]
        row: Row = {"text": "\n".join(before), "history": before, "text_b": text, "group": user, "time": time}
        if leave == "last":
            last = len(events) - 1
            row["split"] = "test" if at == last > 1 else "validation" if at == last - 1 > 1 else "train"
        yield row

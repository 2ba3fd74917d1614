"""What people said, as the next training data: rows for `tune`, pairs or liked answers for `align`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from trunkline.data.read import read
from trunkline.errors import DataError, OptionError, unknown
from trunkline.feedback.entry import Record
from trunkline.feedback.store import FeedbackStore
from trunkline.types import Row, Rows


@dataclass(frozen=True)
class Export:
    """Rows of a store. id: SHA-256 of their bytes, so that the same id is the same rows; last: the number of the last entry that was looked at
    (with `upto` the same export can be made again, as long as nobody in it was forgotten); branches: whose answers they are about.
    """

    rows: tuple[Row, ...]
    id: str
    last: int
    branches: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """JSON Lines, one row a line."""
        return _lines(self.rows)


def export(store: FeedbackStore, form: str = "rows", *, branch: str | None = None, upto: int | None = None) -> Export:
    """What the entries of a branch, or of all, teach.

    form: "rows": the row with the label that is right, which is the one that somebody gave, or the answer where somebody liked it;
    "pairs": the row with `chosen` and `rejected`, as somebody gave them, or the right text and the answer; "liked": the row as messages with the
    answer that was liked or not (`kto_tag`).
    Of several entries about the same row (for pairs: and the same texts) the last one counts. upto: no entry of a higher number.

    Each row has an `id` (its entry's number), a `time`, and as `group` a name for the person that says nothing of who it is, so that one person's
    rows can be kept on one side of a split.
    Raises: OptionError for another form, or rows of several branches, whose answers mean different things; FeedbackDamagedError.
    """
    if form not in _FORMS:
        raise unknown("form", form, _FORMS)
    made: dict[str, tuple[str, Row]] = {}
    last = 0
    for record in store.records(branch=branch, upto=upto):
        last = record.number
        if record.entry is None or (found := _FORMS[form](record.entry)) is None:
            continue
        same = json.dumps([record.branch, record.entry["row"], found if form == "pairs" else None], sort_keys=True)
        made.pop(same, None)
        made[same] = record.branch, {**found, **_about(store, record)}
    branches = tuple(sorted({name for name, _ in made.values()}))
    if len(branches) > 1:
        raise OptionError(f"{store}: is about the branches {', '.join(branches)}, whose answers mean different things. Name one of them.")
    rows = tuple(row for _, row in made.values())
    return Export(rows, hashlib.sha256(_lines(rows)).hexdigest(), last, branches)


def rows(store: FeedbackStore, task: str = "classify", *, branch: str | None = None, upto: int | None = None) -> Rows:
    """The rows that `tune` takes, checked; their source names the export's id, which then stands in the report of what is tuned on them.

    Raises: DataError where there are none, or one is not as the task needs it.
    """
    made = export(store, branch=branch, upto=upto)
    if not made.rows:
        raise DataError(f"{store}: nobody gave a label yet{f' for branch {branch!r}' if branch else ''}, so there is nothing to learn.")
    found = read([dict(row) for row in made.rows], task, id="id", group="group", time="time")
    return replace(found, source=f"feedback {made.id}")


def _right(entry: dict[str, Any]) -> Row | None:
    label = entry.get("label", entry.get("answer") if entry.get("rating") == 1 else None)
    return None if label is None else {**entry["row"], "label": label}


def _pair(entry: dict[str, Any]) -> Row | None:
    chosen, rejected = entry.get("chosen", entry.get("label")), entry.get("rejected", entry.get("answer"))
    if not isinstance(chosen, str) or not isinstance(rejected, str) or chosen == rejected:
        return None
    return {"messages": _messages(entry["row"]), "chosen": chosen, "rejected": rejected}


def _liked(entry: dict[str, Any]) -> Row | None:
    if not isinstance(entry.get("answer"), str) or entry.get("rating") not in (-1, 1):
        return None
    answer = {"role": "assistant", "content": entry["answer"]}
    return {"messages": [*_messages(entry["row"]), answer], "kto_tag": entry["rating"] == 1}


def _messages(row: Row) -> list[dict[str, str]]:
    return list(row.get("messages") or [{"role": "user", "content": row["text"]}])


def _about(store: FeedbackStore, record: Record) -> Row:
    person = (record.entry or {}).get("subject") or f"entry {record.number}"  # a person who was not named is nobody else
    return {"id": f"feedback-{record.number}", "time": record.at, "group": store.pseudonym(person)}


def _lines(made: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in made).encode()


_FORMS: dict[str, Callable[[dict[str, Any]], Row | None]] = {"rows": _right, "pairs": _pair, "liked": _liked}

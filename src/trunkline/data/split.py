"""`split`: Rows into train, validation and test, the same way each time, also when rows are added later.

A row's side is decided by a number u in [0, 1) made from its own text (SHA-256 of seed and folded text, `cells.fold`):
test where u < test, validation where u < test + validation, train otherwise. So

- a row keeps its side when other rows come or go, in whatever order they stand;
- one text is always on one side, however often it occurs and however it is written (case, width, white space);
- the shares hold within each label too, up to chance: a label with n texts gets n x share, give or take sqrt(n x share).

Where that is given up: a label that chance would leave out of a part gets its one nearest text (the nearest u) moved there:
into train always, into test and validation when the label has five texts or more. Such a text may go back when rows are added.
`by="group"` (taken by itself where every row has a group) decides by the group in place of the text; `by="time"` puts the latest rows into test and those before into
validation, so rows added later do move the borders; `by="given"` follows the column `split` of the file.
Sits after `read` and before `quality`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from trunkline.data.cells import fold
from trunkline.errors import DataError, OptionError, unknown
from trunkline.types import Row, Rows

PARTS = ("train", "validation", "test")
AUTO = "auto"
_TEXTS_FOR_ALL_PARTS = 5


@dataclass(frozen=True)
class Split:
    """Three sets of rows, how they were made (a sentence), which of them the caller gave, and which he wants to be empty (share 0)."""

    train: Rows
    validation: Rows
    test: Rows
    how: str = ""
    given: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def parts(self) -> dict[str, Rows]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


class Shares(Protocol):
    """Settings that say how rows are divided: those of `tune`, `prompt`, `augment`."""

    @property
    def validation(self) -> float: ...
    @property
    def test(self) -> float: ...
    @property
    def split(self) -> str: ...
    @property
    def seed(self) -> int: ...


def text_key(row: Row) -> str:
    """What makes two rows the same: the folded text, and the second text of a pair."""
    return fold(row["text"]) if "text_b" not in row else f"{fold(row['text'])}\x1f{fold(row['text_b'])}"


def row_id(row: Row) -> str:
    """What a row is called by those that were made of it: its id, or else 12 hexadecimal digits of the sum of its text."""
    return str(row["id"]) if "id" in row else hashlib.sha256(text_key(row).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def split(rows: Rows, *, validation: float | Rows = 0.1, test: float | Rows = 0.2, by: str = "auto", seed: int = 0) -> Split:
    """Rows in three parts. `validation` and `test` are each a share of `rows`, or rows of their own that the caller has.

    by: "label" (by the text, each label in its share), "group", "time", "given" (the column `split` of the rows), or "auto": by group where
        every row has one, else by label; for `recommend` as given, where the rows say it, for there a group is a user whose past is known
    Raises: OptionError for shares out of range or an unknown `by`; DataError where rows lack the field that `by` needs.

    >>> rows = Rows(tuple({"text": f"message {n}", "label": "ab"[n % 2]} for n in range(100)), "classify")
    >>> [len(part) for part in split(rows).parts().values()]
    [71, 12, 17]
    """
    if by not in (AUTO, *_HOW):
        raise unknown("by", by, (AUTO, *_HOW))
    by = _suited(rows) if by == AUTO else by
    if any("source" in row for row in rows):
        plain = replace(rows, rows=tuple(row for row in rows if "source" not in row))
        return with_made(split(plain, validation=validation, test=test, by=by, seed=seed), [row for row in rows if "source" in row])
    shares = {name: part for name, part in (("test", test), ("validation", validation)) if not isinstance(part, Rows)}
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise OptionError(
            f"validation={validation}, test={test}: use shares from 0 up to, but not including, 1 in sum. For example 0.1 and 0.2."
        )
    given = {name: part for name, part in (("validation", validation), ("test", test)) if isinstance(part, Rows)}
    sides = _HOW[by](rows, {name: share for name, share in shares.items() if share > 0}, seed)
    chosen = {name: tuple(row for row, side in zip(rows, sides) if side == name) for name in PARTS}
    parts = {name: given[name] if name in given else replace(rows, rows=chosen[name]) for name in PARTS}
    for name in given:
        if chosen[name]:
            raise DataError(f"{rows.source}: {len(chosen[name]):,} rows say split={name!r}, and {name} rows were given too. Leave one out.")
    unwanted = tuple(name for name, share in shares.items() if share == 0)
    wanted = ", ".join(f"{name} {share:g}" for name, share in shares.items())
    how = f"by {by}, seed {seed}" + (f", {wanted}" if wanted and by != "given" else "") + "".join(f", {name} given" for name in given)
    return Split(parts["train"], parts["validation"], parts["test"], how, tuple(given), unwanted, rows.notes)


def in_parts(rows: Rows | Split, told: Shares) -> Split:
    """Rows in three parts as the settings say; what is in parts already stays as it is. Raises: as `split`."""
    return rows if isinstance(rows, Split) else split(rows, validation=told.validation, test=told.test, by=told.split, seed=told.seed)


def with_made(data: Split, made: Iterable[Row]) -> Split:
    """The split with rows that were made of others (`source` names of which) in train: those of validation and test rows are left out."""
    made = list(made)
    later = {row_id(row) for part in (data.validation, data.test) for row in part}
    kept = tuple(row for row in made if row["source"] not in later)
    notes = [f"{len(made) - len(kept):,} made rows were left out: they were made of rows to measure on."] if len(kept) < len(made) else []
    return replace(data, train=replace(data.train, rows=(*data.train.rows, *kept)), notes=(*data.notes, *notes))


def _suited(rows: Rows) -> str:
    field, by = ("split", "given") if rows.task == "recommend" else ("group", "group")
    return by if rows and all(field in row for row in rows) else "label"


def _by_text(rows: Rows, shares: dict[str, float], seed: int) -> list[str]:
    return _by_hash(rows, [text_key(row) for row in rows], shares, seed)


def _by_group(rows: Rows, shares: dict[str, float], seed: int) -> list[str]:
    _need(rows, "group")
    return _by_hash(rows, [str(row["group"]) for row in rows], shares, seed)


def _by_hash(rows: Rows, keys: list[str], shares: dict[str, float], seed: int) -> list[str]:
    numbers = {key: _number(key, seed) for key in dict.fromkeys(keys)}
    sides = {key: _side(number, shares) for key, number in numbers.items()}
    keys_of: dict[str, dict[str, None]] = defaultdict(dict)
    for row, key in zip(rows, keys):
        for label in labels_of(row, rows.task):
            keys_of[label][key] = None
    if keys_of:
        _leave_none_out(keys_of, numbers, sides, shares)
    return [sides[key] for key in keys]


def _number(key: str, seed: int) -> float:
    """u: the same key and seed, the same number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def _side(number: float, shares: dict[str, float]) -> str:
    edge = 0.0
    for name in ("test", "validation"):
        edge += shares.get(name, 0.0)
        if number < edge:
            return name
    return "train"


def _leave_none_out(
    keys_of: dict[str, dict[str, None]], numbers: dict[str, float], sides: dict[str, str], shares: dict[str, float]
) -> None:
    """Move the nearest text (or group) of a label into a part that chance left without that label. Train comes last: it must not lack any."""
    for name in ("test", "validation"):
        for label in sorted(keys_of) if name in shares else ():
            keys = keys_of[label]
            if len(keys) >= _TEXTS_FOR_ALL_PARTS and not any(sides[key] == name for key in keys):
                free = [key for key in keys if sides[key] == "train"]
                if len(free) > 1:
                    sides[min(free, key=lambda key: (numbers[key], key))] = name
    for label in sorted(keys_of):
        if not any(sides[key] == "train" for key in keys_of[label]):
            sides[max(keys_of[label], key=lambda key: (numbers[key], key))] = "train"


def _by_time(rows: Rows, shares: dict[str, float], seed: int) -> list[str]:
    """Rows of one moment stay together, on the later side of a border."""
    _need(rows, "time")
    if not rows:
        return []
    times = sorted(row["time"] for row in rows)
    edges, later = [], 0.0
    for name in ("test", "validation"):
        later += shares.get(name, 0.0)
        if name in shares:
            edges.append((times[min(len(times) - 1, round(len(times) * (1 - later)))], name))
    return [next((name for edge, name in edges if row["time"] >= edge), "train") for row in rows]


def _by_column(rows: Rows, shares: dict[str, float], seed: int) -> list[str]:
    """The column `split`; where it has no validation rows, a share of its train rows by the hash of the text."""
    _need(rows, "split")
    sides = [row["split"] for row in rows]
    if "validation" not in sides and "validation" in shares:
        inner = replace(rows, rows=tuple(row for row in rows if row["split"] == "train"))
        taken = iter(_by_text(inner, {"validation": shares["validation"]}, seed))
        sides = [next(taken) if side == "train" else side for side in sides]
    return sides


_HOW: dict[str, Callable[[Rows, dict[str, float], int], list[str]]] = {
    "label": _by_text,
    "group": _by_group,
    "time": _by_time,
    "given": _by_column,
}


def labels_of(row: Row, task: str) -> Iterable[str]:
    """The classes of a row: those of its label, or the types of its spans; none in a task without classes."""
    label = row.get("label")
    if task == "tag":
        return dict.fromkeys(kind for _, _, kind in label or ())
    if task != "classify" or label is None:
        return ()
    return label if isinstance(label, list) else (label,)


def _need(rows: Rows, name: str) -> None:
    lacking = sum(name not in row for row in rows)
    if lacking:
        column = "a column named 'split' (train, validation, test)" if name == "split" else f"{name}=COLUMN when reading"
        by = "given" if name == "split" else name
        raise DataError(f"{rows.source}: by={by!r}: {lacking:,} of {len(rows):,} rows have no {name}. Give {column}.")

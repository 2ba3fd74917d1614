"""One piece of feedback as it is kept: its fields, the checks on them, and the bytes that its hash is of."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.errors import DataError, unknown

MAX_BYTES = 1 << 20
"""Of one entry as JSON."""
_MAX_NAME = 512
_MAX_DEPTH = 50
_ROLES = ("system", "user", "assistant", "tool")
_SAYS = ("answer", "label", "rating", "comment", "chosen")


@dataclass(frozen=True)
class Record:
    """An entry that is kept. `entry` is None where it was forgotten: then only that there was one, and when, is left.

    id: its number and the beginning of its place in the chain: whoever keeps an id can show later that the history was not changed;
    at: UTC, as 2026-01-31T14:05:00.123456Z; who: who said it (the name of an API key, an annotator)
    """

    number: int
    id: str
    at: str
    branch: str
    version: str
    who: str | None
    entry: dict[str, Any] | None


def checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its known fields, absent ones left out.

    branch, version: which branch answered; row: its texts ("text", perhaps "text_b", or "messages"); answer: what it said; label: what would
    be right, as the task writes it; rating: -1, 0 or 1; comment; chosen, rejected: two texts of which the first is liked better;
    subject: whom the texts are about or from, for forgetting; request: the id of the request that was answered.

    Raises: DataError that says which field is wrong.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"an entry is a {type(entry).__name__}: give an object with the fields {', '.join(_FIELDS)}.")
    for name in entry:
        if name not in _FIELDS:
            raise unknown("feedback field", name, _FIELDS, DataError)
    kept = {name: value for name, value in entry.items() if value is not None}
    for name in ("branch", "row"):
        if name not in kept:
            raise DataError(f"{name} is missing: feedback is about what a branch answered for a row.")
    for name, value in kept.items():
        if wrong := _FIELDS[name](value):
            raise DataError(f"{name}={str(value)[:80]!r}: {wrong}.")
    if ("chosen" in kept) != ("rejected" in kept):
        raise DataError("a preference has two texts: give chosen and rejected, or none of them.")
    if not any(name in kept for name in _SAYS):
        raise DataError(f"the entry says nothing: give one of {', '.join(_SAYS)}.")
    return kept


def to_bytes(value: Any) -> bytes:
    """JSON bytes, the same for the same value. Raises: DataError where there is none, or it is too large."""
    try:
        data = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise DataError(f"the entry cannot be written as JSON: {str(error)[:200]}.") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"the entry has {len(data):,} bytes as JSON; at most {MAX_BYTES:,} are kept.")
    return data


def content_hash(salt: str, body: str) -> str:
    """SHA-256 of what was said. The salt goes when the body is forgotten, so that nobody finds the body by trying."""
    return hashlib.sha256(f"{salt}:{body}".encode()).hexdigest()


def chain_hash(before: str, number: int, at: str, kind: str, branch: str, version: str, key: str | None, content: str) -> str:
    """SHA-256 over the one before and all that stays of an entry.

    Source: Haber and Stornetta 1991, "How to time-stamp a digital document", section 4.1 (linking).
    """
    return hashlib.sha256(to_bytes([before, number, at, kind, branch, version, key, content])).hexdigest()


def _name(value: Any) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or any(unicodedata.category(letter) == "Cc" for letter in value):
        return f"use a text of 1 to {_MAX_NAME} characters without control characters"
    return None


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and "\x00" not in value else "use a text without NUL characters"


def _row(value: Any) -> str | None:
    if not isinstance(value, Mapping) or not ({"text", "messages"} & set(value)):
        return "use an object with 'text' or 'messages'"
    if bad := [name for name in ("text", "text_b") if name in value and _text(value[name])]:
        return f"its {bad[0]} has to be a text"
    messages = value.get("messages", [])
    if not isinstance(messages, list | tuple) or not all(
        isinstance(one, Mapping) and one.get("role") in _ROLES and isinstance(one.get("content"), str) for one in messages
    ):
        return f"its messages have to be a list of {{'role', 'content'}}, with a role of {', '.join(_ROLES)}"
    return _plain(value)


def _rating(value: Any) -> str | None:
    return None if type(value) is int and value in (-1, 0, 1) else "use -1, 0 or 1"


def _plain(value: Any, depth: int = 0) -> str | None:
    """Whether JSON can hold it, and the database: no NaN, no NUL, not nested without end."""
    if depth > _MAX_DEPTH:
        return f"it is nested deeper than {_MAX_DEPTH}"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return None if math.isfinite(value) else "use a finite number"
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, Mapping):
        keys = None if all(isinstance(key, str) and not _text(key) for key in value) else "names have to be texts"
        return keys or next((wrong for one in value.values() if (wrong := _plain(one, depth + 1))), None)
    if isinstance(value, list | tuple):
        return next((wrong for one in value if (wrong := _plain(one, depth + 1))), None)
    return "use what JSON can hold"


_FIELDS: dict[str, Callable[[Any], str | None]] = {
    "branch": _name,
    "version": _name,
    "row": _row,
    "answer": _plain,
    "label": _plain,
    "rating": _rating,
    "comment": _text,
    "chosen": _text,
    "rejected": _text,
    "subject": _name,
    "request": _name,
}
"""Each field, and what is wrong with a value of it."""

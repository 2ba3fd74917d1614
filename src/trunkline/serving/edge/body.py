"""A JSON body: of the right kind, within the limit of bytes, strict, and as the model of the route says."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from trunkline import storage
from trunkline.serving.refused import Refused

M = TypeVar("M", bound=BaseModel)
MAX_DEPTH = 32
_LONG = 64 << 10
"""Longer bodies are parsed in a thread, so that they do not hold up the event loop."""


async def read_json(request: Request, model: type[M], max_bytes: int) -> M:
    """The body as an instance of a model. Raises: Refused, 400, 413, 415 or 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "not_json", "Send JSON, with the header Content-Type: application/json.", closes=True)
    data = await read_bytes(request, max_bytes)
    given = await asyncio.to_thread(parsed, data) if len(data) > _LONG else parsed(data)
    return valid(model, given)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body, cut off at the limit. Raises: Refused, 413 or 415."""
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Refused(415, "compressed", "Send the body as it is, not compressed.", closes=True)
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > max_bytes:
        raise Refused(413, "body_too_large", f"The body may have {max_bytes:,} bytes.", closes=True)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise Refused(413, "body_too_large", f"The body may have {max_bytes:,} bytes.", closes=True)
            parts.append(part)
    except ClientDisconnect:
        raise Refused(499, "client_left", "The client left.") from None
    return b"".join(parts)


def parsed(data: bytes) -> Any:
    """Strict JSON: UTF-8, no duplicate key, no NaN, not deep, no NUL in a string. Raises: Refused, 400."""
    try:
        if _too_deep(data):
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        found = storage.from_json(data, "body")
        if b"\\u0000" in data and _has_nul(found):
            raise ValueError("a string holds the character NUL")
        return found
    except UnicodeDecodeError as error:
        raise Refused(400, "invalid_json", f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise Refused(400, "invalid_json", f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid_json", f"The body is not JSON that is taken here: {str(error)[:200]}.") from None


def valid(model: type[M], given: Any) -> M:
    """An instance of a model. Raises: Refused, 422, which says where, and never what stood there."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise Refused(422, "invalid_request", _told(error, model)[:1000]) from None


def _told(error: ValidationError, model: type[BaseModel]) -> str:
    """Where it is wrong and what; where a field is missing or unknown, which there are.

    Of a value of several kinds the library says what each kind lacks, under its own names: here the deepest place.
    """
    found: dict[str, list[str]] = {}
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    for one in errors:
        parts = [str(part) for part in one["loc"] if isinstance(part, int) or (_FIELD.fullmatch(part) and part not in _KINDS)]
        found.setdefault(".".join(parts) or "body", []).append(_FIELDS.get(one["type"], one["msg"]))
    deepest = [place for place in found if not any(other.startswith(f"{place}.") for other in found)]
    told = "; ".join(f"{place}: {', or: '.join(dict.fromkeys(found[place]))}" for place in deepest[:5])
    if not any(len(one["loc"]) == 1 and one["type"] in _FIELDS for one in errors):
        return told
    names = [f"{name} (needed)" if field.is_required() else name for name, field in model.model_fields.items()]
    return f"{told}. The fields are {', '.join(names)}."


_FIELDS = {"missing": "is missing", "extra_forbidden": "is no field here"}
_FIELD = re.compile(r"[a-z_][a-z0-9_]*")
_KINDS = {"str", "int", "float", "bool", "none", "dict"}
_QUOTED = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _too_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    deepest = depth = 0
    for char in re.findall(rb"[\[\]{}]", _QUOTED.sub(b"", data)):
        depth += 1 if char in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


def _has_nul(found: Any) -> bool:
    if isinstance(found, str):
        return "\0" in found
    if isinstance(found, dict):
        return any(map(_has_nul, found)) or any(map(_has_nul, found.values()))
    return isinstance(found, list) and any(map(_has_nul, found))

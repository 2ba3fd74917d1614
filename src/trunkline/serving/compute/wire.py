"""Messages between the server and its workers: JSON with its length before it, over a socket pair that nobody else has. No pickle."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct(">I")
MOST_BYTES = 256 << 20


def packed(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    data = json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()  # a lone surrogate survives as an escape
    return _LENGTH.pack(len(data)) + data


def receive(end: socket.socket) -> dict[str, Any] | None:
    """The next message, or None when the other end is closed."""
    head = _exactly(end, _LENGTH.size)
    body = _exactly(end, _LENGTH.unpack(head)[0]) if head else None
    return None if body is None else json.loads(body)


async def receive_from(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The same for asyncio."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        return json.loads(await reader.readexactly(_LENGTH.unpack(head)[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _exactly(end: socket.socket, count: int) -> bytes | None:
    if count > MOST_BYTES:
        return None
    parts = []
    while count:
        try:
            part = end.recv(min(count, 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)

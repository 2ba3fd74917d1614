"""Messages between the server and its workers: JSON with its length before it, over a socket pair that nobody else has. No pickle."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
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


class Messages(asyncio.Protocol):
    """The end of the event loop: `take` is called with each message at once, and `ended` when no more can come."""

    def __init__(self, take: Callable[[dict[str, Any]], None], ended: Callable[[], None]) -> None:
        self._take, self._ended, self._came = take, ended, bytearray()

    def data_received(self, data: bytes) -> None:
        self._came += data
        while len(self._came) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._came)[0]
            if len(self._came) < end:
                break
            body = self._came[_LENGTH.size : end]
            del self._came[:end]
            self._take(json.loads(body))

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()


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

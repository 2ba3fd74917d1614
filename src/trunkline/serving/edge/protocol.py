"""uvicorn's HTTP protocol with deadlines: it waits for good for the rest of a request, and for a client that does not read.

Source: Slowloris (CVE-2007-6750); one huge header (CVE-2025-48956); request smuggling by two ways to say how long a body is (RFC 9112, 6.3).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trunkline.serving.edge.guard import new_id, write_line
from trunkline.serving.edge.metrics import Metrics
from trunkline.serving.refused import Refused
from trunkline.serving.settings import ServeSettings

MOST_HEAD_BYTES = 32 << 10
MOST_HEADERS = 100
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def protocol(settings: ServeSettings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """The protocol class with these limits and counters: uvicorn makes its instances itself, and can hand them nothing."""
    return type("Limited", (Limited,), {"settings": settings, "metrics": metrics})


class Limited(HttpToolsProtocol):
    """Head in `header_seconds`, body in `body_seconds`, and what is sent has to be taken in as much."""

    settings: ServeSettings
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._head_bytes, self._in_head, self._ended, self._is_cut = 0, True, False, False
        if len(self.connections) > self.settings.max_connections:
            self._cut(503, "too_many_connections", "Too many connections.")
            return
        self._wait(self.settings.header_seconds, "The head of the request did not arrive in time.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if self._writing is not None:
            self._writing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_cut or self.transport.is_closing():
            return
        self._ended = False
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head and not self._ended else 0
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES:
            self._cut(431, "head_too_large", f"The head of a request may have {MOST_HEAD_BYTES:,} bytes.")

    def send_400_response(self, msg: str) -> None:
        self._cut(400, "bad_http", "This is not HTTP that is taken here.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self._timer is None:
            self._wait(self.settings.header_seconds, "The head of the request did not arrive in time.")

    def on_headers_complete(self) -> None:
        self._stop()
        self._in_head, self._head_bytes = False, 0
        if (refused := _wrong(self.headers)) is not None:
            self._cut(refused.status, refused.code, refused.message)
        if not self._is_cut:
            self._wait(self.settings.body_seconds, "The body did not arrive in time.")
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_cut:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop()
        self._in_head = self._ended = True
        if not self._is_cut:
            super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        self._stop()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.settings.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _wait(self, seconds: float, message: str) -> None:
        self._timer = self.loop.call_later(seconds, self._cut, 408, "too_slow", message)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self, status: int, code: str, message: str) -> None:
        """Answer, unless an answer has begun, and close. No route and no guard sees this: it is counted and written down here."""
        self._stop()
        self._is_cut = True
        if self.transport.is_closing():
            return
        request_id = self._request_id()
        self.metrics.refused.labels(code).inc()
        write_line({"event": "cut", "id": request_id, "status": status, "code": code})
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_response(Refused(status, code, message), request_id))
        self.transport.close()

    def _request_id(self) -> str:
        """Of the request whose body is awaited the one that the guard gave it; where none was made of the bytes, a new one."""
        begun = not self._in_head and self.cycle is not None and not self.cycle.response_complete
        return str((self.cycle.scope.get("state") or {}).get("request_id") or new_id()) if begun else new_id()


def _wrong(headers: list[tuple[bytes, bytes]]) -> Refused | None:
    """What is wrong with the head of a request."""
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEAD_BYTES:
        return Refused(431, "head_too_large", f"A request may have {MOST_HEADERS} headers and {MOST_HEAD_BYTES:,} bytes of them.")
    lengths = [value for name, value in headers if name == b"content-length"]
    coded = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or (lengths and coded) or len(coded) > 1 or (coded and coded[0] != b"chunked"):
        return Refused(400, "bad_length", "Say once how long the body is: by Content-Length, or by Transfer-Encoding: chunked.")
    return None


def _response(refused: Refused, request_id: str) -> bytes:
    body: Any = json.dumps(refused.body(request_id)).encode()
    head = f"HTTP/1.1 {refused.status} {_REASONS[refused.status]}\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body

"""The labelling page over HTTP, for this machine alone: it listens on 127.0.0.1 and answers only who knows the key in its address.

Requests of other sites are refused: the Host header must be this server's own, acts are JSON with the key in a header, which no form of another site can send.
"""

from __future__ import annotations

import hmac
import importlib.resources
import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trunkline.errors import OptionError, TrunklineError
from trunkline.labelling.session import Session

_MOST = 1 << 20
_CSP = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_ASSETS = {"/label.js": "text/javascript", "/label.css": "text/css"}


class Server:
    """A page for a session. port 0 takes a free one; `url` is what to open."""

    def __init__(self, session: Session, *, port: int = 0) -> None:
        self.key = secrets.token_urlsafe(18)
        try:
            self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"session": session, "key": self.key}))
        except OSError as error:
            raise OptionError(f"port={port}: {error.strerror or error}. Give another one, or 0 for a free one.") from error
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/?key={self.key}"

    def serve(self) -> None:
        """Answer until `stop`."""
        self._http.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `serve`, from another thread."""
        threading.Thread(target=self._http.shutdown, daemon=True).start()

    def close(self) -> None:
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    session: Session  # both are set on a subclass by `Server`
    key: str
    server_version, sys_version = "trunkline", ""
    timeout = 30

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if not self._own_host():
            self._refuse(HTTPStatus.FORBIDDEN, "ask under the address that was printed")
        elif parts.path in _ASSETS:
            self._send(_asset(parts.path[1:]), f"{_ASSETS[parts.path]}; charset=utf-8")
        elif parts.path == "/" and hmac.compare_digest(asked.get("key", "").encode(), self.key.encode()):
            self._send(_asset("label.html"), "text/html; charset=utf-8")
        elif not self._knows_key():
            self._refuse(HTTPStatus.FORBIDDEN, "open the whole address that was printed, with its key")
        elif parts.path == "/next":
            self._json(self.session.next(asked.get("by", "")) or {"row": None})
        elif parts.path == "/state":
            self._json(self.session.state())
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self._own_host() or not self._knows_key():
            self._refuse(HTTPStatus.FORBIDDEN, "open the whole address that was printed, with its key")
            return
        try:
            size = int(self.headers.get("Content-Length", ""))
            if not 0 < size <= _MOST or self.headers.get_content_type() != "application/json":
                raise ValueError("a JSON body of at most 1 MiB is needed")
            body = json.loads(self.rfile.read(size))
            told = {name: str(body.get(name, "")) for name in ("row", "by", "label")}
            self._act(urlsplit(self.path).path, told)
        except (ValueError, AttributeError, TrunklineError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    def _act(self, path: str, told: dict[str, str]) -> None:
        if path == "/label":
            self.session.label(told["row"], told["by"], told["label"])
        elif path == "/undo":
            self.session.undo(told["by"])
        elif path == "/decide":
            self.session.decide(told["row"], told["by"], told["label"])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such act")
            return
        self._json({"done": True})

    def _own_host(self) -> bool:
        """Against DNS rebinding: a page of another name that resolves to 127.0.0.1."""
        return self.headers.get("Host", "").rpartition(":")[0] in ("127.0.0.1", "localhost")

    def _knows_key(self) -> bool:
        return hmac.compare_digest(self.headers.get("X-Key", "").encode(), self.key.encode())

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value, ensure_ascii=True).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(json.dumps({"error": why}).encode(), "application/json", status)

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Content-Security-Policy": _CSP,
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name of the library)
        """Nothing: requests hold texts of users."""


def _asset(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath(name).read_bytes()

"""What stands around every route: host, origin, key and scope, limits of one key, draining, a request id, metrics, one log line.

A route cannot be forgotten: what is not named in `scope_of` needs a key with the scope "infer", and there is no other way in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from trunkline.serving.edge.keys import Key, Keys, told
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service
from trunkline.serving.settings import LOOPBACK

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("trunkline.serving.access")
OPEN = frozenset({"/livez"})
"""What needs no key."""
PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""What is answered while draining too."""
WATCHING = frozenset({*PROBES, "/", "/openapi.json"})
"""What any key may see."""
_EVERY = ("infer", "feedback", "admin")
_SAFE = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request at hand."""
key_name: ContextVar[str] = ContextVar("key_name", default="")
"""The name of its key; empty where none is asked for."""


def scope_of(method: str, path: str) -> str | None:
    """The scope that a request needs; None: any key will do."""
    if path in WATCHING:
        return None
    if path == "/v1/feedback" or path.startswith("/v1/feedback/"):
        return "feedback"
    changes = method not in ("GET", "HEAD") and (path == "/v1/branches" or path.startswith("/v1/branches/"))
    return "admin" if changes else "infer"


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, service: Service, keys: Keys | None) -> None:
        settings = service.settings
        self.app, self._service, self._keys = app, service, keys
        self._metrics, self._quotas = service.metrics, service.quotas
        named = {one.strip().lower() for one in settings.hosts.split(",") if one.strip()}
        self._hosts = named | {*LOOPBACK, "[::1]"} | ({settings.host.lower()} - {"0.0.0.0", "::"})
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Exchange(scope, receive, send)
        request_id.set(request.id)
        let_in = 0  # who is refused does not keep a server that is going away
        try:
            key = self._let_in(request)
            let_in = 1
            self.in_flight += let_in
            key_name.set(key.name if key else "")
            request.key = key.name if key else ""
            scope["state"] = {**scope.get("state", {}), "key": request.key, "request_id": request.id}
            await self.app(scope, request.receive, request.send)
        except Refused as refused:
            self._metrics.refused.labels(refused.code).inc()
            await request.refuse(refused)
        except Exception as error:  # the last place: the client learns nothing of it, the log its kind and no text
            logging.getLogger("trunkline.serving").error("request %s failed: %s", request.id, type(error).__name__)
            await request.refuse(Refused(500, "internal", "Something went wrong here. The request id finds it in the log."))
        finally:
            self.in_flight -= let_in
            asyncio.get_running_loop().call_soon(self._account, request)  # after the answer is on its way

    def _let_in(self, request: _Exchange) -> Key | None:
        """The key of a request, or None where none is asked for. Raises: Refused."""
        path, method = request.scope["path"], request.scope["method"]
        self._check_origin(request)
        if self._service.draining and path not in PROBES:
            raise Refused(503, "draining", "This server is going away.", after=1.0, closes=True)
        if not self._service.started and path not in PROBES:
            raise Refused(503, "starting", "The branches are being loaded.", after=1.0)
        if self._keys is None or path in OPEN:
            return None
        key = self._key(request)
        wanted = scope_of(method, path)
        if wanted is not None and wanted not in key.scopes:
            raise Refused(403, "scope_missing", f"This key does not have the scope {wanted!r}.")
        request.headers |= {name.encode(): value.encode() for name, value in self._quotas.request(key.name).items()}
        return key

    def _key(self, request: _Exchange) -> Key:
        address = (request.scope.get("client") or ("?", 0))[0]
        self._quotas.check_address(address)
        secret = told(request.header(b"authorization"))
        key = self._keys.find(secret) if secret and self._keys else None
        if key is not None:
            return key
        if secret:
            self._quotas.bad_key(address)
        request.headers[b"www-authenticate"] = b'Basic realm="trunkline"' if request.scope["path"] == "/" else b"Bearer"
        raise Refused(401, "key_missing" if not secret else "key_wrong", "Send a valid API key: Authorization: Bearer KEY.")

    def _check_origin(self, request: _Exchange) -> None:
        """A page of another site must not reach this server through a browser, by another name (DNS rebinding) or by a form."""
        host = _name(request.header(b"host") or "")
        if host not in self._hosts:
            raise Refused(421, "unknown_host", "This server is not called by that name. --hosts says by which it is.", closes=True)
        origin = request.header(b"origin")
        if origin is not None and _name(urlsplit(origin).netloc) != host:
            raise Refused(403, "foreign_origin", "Pages of other sites may not use this server.")

    def _account(self, request: _Exchange) -> None:
        route = getattr(request.scope.get("route"), "path", "other")
        seconds = time.monotonic() - request.began
        self._metrics.requests.labels(route, str(request.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        write_line(
            {
                "event": "request",
                "id": request.id,
                "method": request.scope["method"] if request.scope["method"] in _METHODS else "other",
                "route": route,
                "status": request.status,
                "seconds": round(seconds, 5),
                "key": request.key,
            }
        )


def new_id() -> str:
    """The id of a request."""
    return secrets.token_hex(8)


def write_line(about: dict[str, Any]) -> None:
    """One line of the log, JSON with the time. ASCII only: nothing in it can break the line or colour a screen."""
    if log.isEnabledFor(logging.INFO):
        log.info(json.dumps({"time": round(time.time(), 3), **about}))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Exchange:
    """One request and what was sent back."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.id, self.key, self.began = new_id(), "", time.monotonic()
        self.status = 0
        self.headers: dict[bytes, bytes] = {b"x-request-id": self.id.encode(), **_SAFE}

    def header(self, name: bytes) -> str | None:
        """The value of a header that may stand there once. Raises: Refused where it stands twice."""
        values = [value for key, value in self.scope["headers"] if key == name]
        if len(values) > 1:
            raise Refused(400, "header_twice", f"The header {name.decode()} stands there twice.", closes=True)
        return values[0].decode("latin-1") if values else None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {key.lower() for key, _ in message["headers"]}
            added = [(key, value) for key, value in self.headers.items() if key not in own]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answers with a refusal, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps(refused.body(self.id)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
        named = [(key.encode(), value.encode()) for key, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": named})
        await self.send({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    """A host without its port."""
    name = host.strip().lower()
    return name.rpartition(":")[0] if ":" in name and not name.endswith("]") else name

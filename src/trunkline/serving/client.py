"""A client of a Trunkline server, of the standard library alone: one connection that is kept, refusals as errors, busy servers tried again."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from trunkline.errors import OptionError, TrunklineError

_ANSWERS = ("/v1/predict", "/v1/batch")
"""What only asks, though it is a POST."""


class ServerError(TrunklineError):
    """The server refused. status: of HTTP; code: what it says is wrong."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code


class Client:
    """Not for several threads at once. key: an API key; seconds: how long an answer is waited for; tries: how often a busy server is asked.

    with Client("http://127.0.0.1:8000") as client:
        client.predict("My card has not arrived yet")["intent"]["label"]
    """

    def __init__(self, address: str, *, key: str | None = None, seconds: float = 30.0, tries: int = 4) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise OptionError(f"address={address!r}: write http://HOST:PORT or https://HOST.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=seconds)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tries = tries

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def predict(self, inputs: Any, branches: Sequence[str] | None = None, *, threshold: float | None = None, top: int = 5) -> Any:
        """For one text (or row) its answers by branch, for a list of them a list. Raises: ServerError, OSError."""
        several = isinstance(inputs, list | tuple)
        asked: dict[str, Any] = {"inputs": list(inputs) if several else [inputs], "top": top}
        asked |= {"branches": list(branches)} if branches else {}
        asked |= {"threshold": threshold} if threshold is not None else {}
        answers = self.call("POST", "/v1/predict", asked)["answers"]
        return answers if several else answers[0]

    def branches(self) -> list[dict[str, Any]]:
        """What is served."""
        return self.call("GET", "/v1/branches")["branches"]

    def feedback(self, branch: str, row: dict[str, Any], *, key: str, **said: Any) -> str:
        """Send what is said of an answer (label, rating, comment, ...), and give its id. key: makes it safe to send again."""
        return self.call("POST", "/v1/feedback", {"branch": branch, "row": row, **said}, {"Idempotency-Key": key})["id"]

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON of a reply. A server that is busy or going away is asked again after the pause that it names.

        So is one whose connection was lost, unless that could do a thing twice: promote, roll back, remove, or keep feedback without a key.

        Raises: ServerError; OSError where no reply came. Of what is not asked again it may have been done: `branches` shows it.
        """
        data = None if body is None else json.dumps(body).encode()
        repeats = method in ("GET", "PUT") or path.partition("?")[0] in _ANSWERS or "Idempotency-Key" in (headers or {})
        if not repeats:
            self._connection.close()  # a kept one may have ended meanwhile, and that would be no reason to give up
        for left in reversed(range(self._tries)):
            try:
                self._connection.request(method, path, data, self._headers | (headers or {}))
                reply = self._connection.getresponse()
                found = json.loads(reply.read())
            except (http.client.HTTPException, OSError):
                self._connection.close()  # a kept connection may have ended meanwhile: once more, on a new one
                if not left or not repeats:
                    raise
                continue
            if reply.status < 400:
                return found
            if reply.status not in (429, 503) or not left:
                raise ServerError(reply.status, found["error"]["code"], found["error"]["message"])
            time.sleep(min(5.0, float(reply.headers.get("retry-after", 1))))
        raise ServerError(503, "not_tried", "tries must be 1 or more.")

"""Every answer that is a refusal has one form: {"error": {"code", "message", "type", "request_id"}}, as OpenAI's clients read it."""

from __future__ import annotations

import math
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that is not answered. after: seconds after which it may be tried again; closes: the connection is closed behind it."""

    def __init__(self, status: int, code: str, message: str, *, after: float | None = None, closes: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.after, self.closes = status, code, message, after, closes

    @property
    def headers(self) -> dict[str, str]:
        found = {"retry-after": str(max(1, math.ceil(self.after)))} if self.after is not None else {}
        return found | ({"connection": "close"} if self.closes else {})

    def body(self, request_id: str) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"code": self.code, "message": self.message, "type": kind, "request_id": request_id}}

"""What waits to be computed: by tenant, taken in turns, so that one who sends much does not keep the others waiting."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trunkline.types import Item, Row

GATHER_SECONDS = 0.002
"""How long at most a batch that could be larger is waited for; when nothing is going on, not at all."""


@dataclass(eq=False)
class Ask:
    """One request: every row goes through every branch version.

    until: time.monotonic() after which nobody waits for the answer; done: called once, from a thread of the engine, with
    {"answers": [{version: answer} for each row], ...} or {"error": code, "message": text}
    """

    rows: list[Row]
    versions: list[str]
    done: Callable[[dict[str, Any]], None]
    tenant: str = ""
    until: float = float("inf")
    top: int = 5
    truncate: bool = False
    max_cost: int = 1 << 30
    items: dict[str, list[Item]] = field(default_factory=dict)
    tokens: int = 0
    asked: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    @classmethod
    def of(cls, told: dict[str, Any], done: Callable[[dict[str, Any]], None]) -> Ask:
        """The request that the server hands to what computes (api/predict.py); from now on it has told["seconds"]."""
        given = {name: told[name] for name in ("rows", "versions", "tenant", "top", "truncate", "max_cost")}
        return cls(**given, done=done, until=time.monotonic() + told["seconds"])

    def is_late(self) -> bool:
        return self.cancelled or time.monotonic() >= self.until


class FairQueue:
    """`put` from any thread; `take` from one: as many asks as fit a budget of tokens (one at the least), tenants in turns."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Ask]] = OrderedDict()
        self._changed = threading.Condition()
        self._tokens, self._count, self._closed = 0, 0, False

    def put(self, ask: Ask) -> None:
        with self._changed:
            self._waiting.setdefault(ask.tenant, deque()).append(ask)
            self._tokens, self._count = self._tokens + ask.tokens, self._count + 1
            self._changed.notify()

    def close(self) -> None:
        """`take` gives what is left, and then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, max_tokens: int, like: int = 1) -> list[Ask]:
        """Waits until there is something; then up to 2 ms more while there are fewer asks than `like`, how many the last batch had."""
        with self._changed:
            idle = not self._count
            self._changed.wait_for(lambda: self._count or self._closed)
            end = time.monotonic() + GATHER_SECONDS
            while (not idle or like > 1) and not self._closed and self._count < like and self._tokens < max_tokens:
                if (left := end - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return self._taken(max_tokens)

    def _taken(self, max_tokens: int) -> list[Ask]:
        taken: list[Ask] = []
        tokens = 0
        while self._waiting:
            tenant, asks = next(iter(self._waiting.items()))
            if taken and tokens + asks[0].tokens > max_tokens:
                break
            ask = asks.popleft()
            self._waiting.move_to_end(tenant)
            if not asks:
                del self._waiting[tenant]
            self._tokens, self._count = self._tokens - ask.tokens, self._count - 1
            tokens += ask.tokens
            taken.append(ask)
        return taken

"""Who is let in: bounded by requests, by tokens and by how long a request would have to wait; and by what one key may send a minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trunkline.serving.refused import Refused
from trunkline.serving.settings import ServeSettings

_MINUTE = 60.0
_SLICE = 1.0
_OFTEN = 16
"""So many requests at once are always let in: the estimate of a wait means nothing for few."""
_MOST_ADDRESSES = 4096
BAD_KEYS_A_MINUTE = 10


class Gate:
    """What is in the house, and what it takes to be let in. Used in the event loop only.

    rate: tokens a second that were answered while there was always work, an average over the last seconds
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.requests = self.tokens = 0
        self.rate = 0.0
        self._busy_since = self._done = 0.0

    @contextmanager
    def admit(self, tokens: int) -> Iterator[None]:
        """Counts a request in for as long as the block lasts. Raises: Refused, 429 where there are too many, 503 where it would wait too long."""
        told = self.settings
        wait = self.tokens / self.rate if self.rate and self.requests >= _OFTEN else 0.0
        if self.requests >= told.max_queue:
            raise Refused(429, "queue_full", f"{told.max_queue} requests are waiting.", after=max(1.0, wait))
        if self.requests and self.tokens + tokens > told.max_queue_tokens:
            raise Refused(429, "queue_full", f"{told.max_queue_tokens:,} tokens are waiting.", after=max(1.0, wait))
        if wait > told.max_wait:
            raise Refused(503, "overloaded", "The request would have to wait too long.", after=wait)
        if not self.requests:
            self._busy_since, self._done = time.monotonic(), 0.0
        self.requests, self.tokens = self.requests + 1, self.tokens + tokens
        try:
            yield
        finally:
            self.requests, self.tokens = self.requests - 1, self.tokens - tokens

    def answered(self, tokens: int) -> None:
        """Measures how fast the house is."""
        self._done += tokens
        passed = time.monotonic() - self._busy_since
        if passed > 0.25:
            now = self._done / passed
            self.rate = now if not self.rate else 0.7 * self.rate + 0.3 * now
            self._busy_since, self._done = time.monotonic(), 0.0


class Minute:
    """How much there was in the last minute, in slices of a second: at most 2% off."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._slices: deque[tuple[float, int]] = deque()
        self._clock, self.total = clock, 0

    def add(self, count: int) -> None:
        now = self._clock()
        if self._slices and now - self._slices[-1][0] < _SLICE:
            at, before = self._slices.pop()
            self._slices.append((at, before + count))
        else:
            self._slices.append((now, count))
        self.total += count

    def count(self) -> int:
        now = self._clock()
        while self._slices and now - self._slices[0][0] >= _MINUTE:
            self.total -= self._slices.popleft()[1]
        return self.total

    def seconds_left(self) -> float:
        """Until the oldest slice is a minute old."""
        return max(0.0, _MINUTE - (self._clock() - self._slices[0][0])) if self._slices else 0.0


class Quotas:
    """Requests and tokens a minute of each key, and bad keys of each address."""

    def __init__(self, per_minute: int, tokens_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.tokens_per_minute, self._clock = per_minute, tokens_per_minute, clock
        self._requests: dict[str, Minute] = {}
        self._tokens: dict[str, Minute] = {}
        self._bad: dict[str, Minute] = {}

    def request(self, name: str) -> dict[str, str]:
        """Counts a request of a key; the headers that say what is left. Raises: Refused, 429."""
        if not self.per_minute:
            return {}
        minute = self._requests.setdefault(name, Minute(self._clock))
        left = self.per_minute - minute.count()
        if left <= 0:
            raise Refused(429, "rate_limited", f"This key may send {self.per_minute} requests a minute.", after=minute.seconds_left())
        minute.add(1)
        return {"x-ratelimit-limit-requests": str(self.per_minute), "x-ratelimit-remaining-requests": str(left - 1)}

    def tokens(self, name: str, count: int) -> None:
        """Counts tokens of a key. Raises: Refused, 429."""
        if not self.tokens_per_minute:
            return
        minute = self._tokens.setdefault(name, Minute(self._clock))
        if minute.count() + count > self.tokens_per_minute:
            raise Refused(429, "rate_limited", f"This key may send {self.tokens_per_minute} tokens a minute.", after=minute.seconds_left())
        minute.add(count)

    def check_address(self, address: str) -> None:
        """Raises: Refused, 429, for an address that sent too many bad keys in the last minute."""
        minute = self._bad.get(address)
        if minute is not None and minute.count() >= BAD_KEYS_A_MINUTE:
            raise Refused(429, "too_many_bad_keys", "Too many wrong API keys from this address.", after=minute.seconds_left())

    def bad_key(self, address: str) -> None:
        """Counts a bad key of an address. The oldest addresses are forgotten, so that they do not fill the memory."""
        if len(self._bad) >= _MOST_ADDRESSES:
            self._bad.pop(next(iter(self._bad)))
        self._bad.setdefault(address, Minute(self._clock)).add(1)

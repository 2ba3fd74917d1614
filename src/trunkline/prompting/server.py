"""Any server that speaks the OpenAI form over HTTP: answers written by a model elsewhere, and read back as labels.

Chat turns: the instruction, each demonstration as a question and its answer, the row. The key comes from the environment, is sent to that
address only (no redirect is followed, and no plain HTTP but to this machine), and stands in no file, message or answer kept.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from trunkline import storage
from trunkline.errors import ModelError, OptionError
from trunkline.progress import Bar
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.types import Row

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""States of HTTP after which the same request may succeed."""
_LONGEST_WAIT = 60.0
_MOST_BYTES = 8 << 20
_NEW_TOKENS = 32
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass
class Spent:
    """What a server was asked and what it said that it read and wrote. `kept`: answers that were on disk already."""

    requests: int = 0
    again: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


@dataclass
class Server:
    """An address and a model there. `complete(messages)` gives the text of the answer.

    clock and sleep are passed in by tests. Raises: OptionError for an address that is not http or https, or where a key would travel openly.
    """

    address: str
    model: str
    settings: PromptSettings = field(default_factory=PromptSettings)
    folder: Path | None = None
    sleep: Callable[[float], None] = time.sleep
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"server={self.address!r}: give the address as http://host:port/v1 or https://host/v1.")
        if parts.username or parts.password or parts.query:
            raise OptionError(
                f"server: an address with a name, a password or a query. Put the key in the environment variable {self.settings.key_from}."
            )
        self._key = os.environ.get(self.settings.key_from, "").strip()
        if self._key and parts.scheme == "http" and parts.hostname not in _HERE:
            raise OptionError(
                f"server={self.address!r}: over http everybody on the way can read the key in {self.settings.key_from}. Use https, or unset it."
            )
        self.address = self.address.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock, self._next, self._chance = threading.Lock(), 0.0, random.Random(self.settings.seed)

    def __repr__(self) -> str:
        return f"Server({self.address!r}, {self.model!r})"

    def complete(self, messages: Sequence[dict[str, str]], told: Mapping[str, Any] | None = None) -> str:
        """The answer to a chat: from disk where the same was asked before, else from the server. `told`: more fields of the request.

        Raises: ModelError that says what it said.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": _NEW_TOKENS, "seed": self.settings.seed}
        body |= told or {}
        name = storage.sha256(json.dumps([self.address, body], sort_keys=True, ensure_ascii=False).encode())
        path = self.folder / name[:2] / f"{name}.json" if self.folder else None
        kept = _kept(path) if path and not self.settings.fresh else None
        if kept is not None:
            with self._lock:
                self.spent.kept += 1
            return kept
        text, used = self._read(self._post(json.dumps(body, ensure_ascii=False).encode()))
        with self._lock:
            self.spent.tokens_in += used[0]
            self.spent.tokens_out += used[1]
        if self.folder and path:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True)
            storage.write_file(path, storage.to_json({"text": text, "tokens_in": used[0], "tokens_out": used[1]}))
        return text

    def complete_all(self, chats: Sequence[Sequence[dict[str, str]]], told: Mapping[str, Any] | None = None) -> list[str]:
        """The answers to several chats, `settings.parallel` asked at a time. After an error nothing more is asked, and paid."""
        threads, found = ThreadPoolExecutor(self.settings.parallel), []
        try:
            with Bar("ask", unit="rows") as bar:
                for text in threads.map(lambda chat: self.complete(chat, told), chats):
                    found.append(text)
                    bar.to(len(found), len(chats))
        finally:
            threads.shutdown(cancel_futures=True)
        return found

    def notes(self) -> list[str]:
        """What was asked, and what it cost."""
        spent, prices = self.spent, self.settings
        found = [
            f"{spent.requests:,} requests to the server ({spent.again:,} sent again), {spent.kept:,} answers from disk, "
            f"{spent.tokens_in:,} tokens read and {spent.tokens_out:,} written"
        ]
        if prices.price_in is not None and prices.price_out is not None:
            found.append(f"cost {(spent.tokens_in * prices.price_in + spent.tokens_out * prices.price_out) / 1e6:.4f}")
        return found

    def _post(self, body: bytes) -> bytes:
        """The answer's bytes, after as many tries as are allowed, each later than the one before."""
        for turn in range(self.settings.retries + 1):
            self._wait_for_turn()
            said, wait = self._once(body)
            if said is not None:
                return said
            problem, asked_for = wait
            if turn == self.settings.retries:
                raise ModelError(f"{self.address}: {problem}, after {turn + 1} tries. Is the server up, and is the limit per_minute right?")
            with self._lock:
                self.spent.again += 1
                spread = self._chance.uniform(0.5, 1.0)  # so that parallel requests do not come back together
            self.sleep(min(_LONGEST_WAIT, max(asked_for, 2.0**turn * spread)))
        raise AssertionError("unreachable")

    def _once(self, body: bytes) -> tuple[bytes | None, tuple[str, float]]:
        """The answer, or what went wrong for a while and how long the server wants us to wait. Raises: ModelError for what will not pass."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(f"{self.address}/chat/completions", data=body, headers=headers, method="POST")
        with self._lock:
            self.spent.requests += 1
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as answer:
                return answer.read(_MOST_BYTES), ("", 0.0)
        except urllib.error.HTTPError as error:
            with error:
                said = self._clean(error.read(_MOST_BYTES).decode("utf-8", "replace"))
            if error.code not in _AGAIN:
                raise ModelError(f"{self.address}: refused with status {error.code}: {said}{self._hint(error.code)}") from None
            return None, (f"status {error.code}: {said}", _seconds(error.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            return None, (f"no answer ({self._clean(str(error))})", 0.0)

    def _hint(self, code: int) -> str:
        if code in (401, 403):
            return f". Put the right key in the environment variable {self.settings.key_from}."
        if 300 <= code < 400:
            return ". Redirects are not followed: give the address that it leads to."
        return f". Look at the address and at the model's name {self.model!r}."

    def _clean(self, text: str) -> str:
        """What a server said, short, on one line, and without the key should it repeat it."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200]

    def _wait_for_turn(self) -> None:
        """Requests begin at least 60 / per_minute seconds apart, whichever thread sends them."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60.0 / self.settings.per_minute
        if turn > now:
            self.sleep(turn - now)

    def _read(self, data: bytes) -> tuple[str, tuple[int, int]]:
        try:
            values = json.loads(data)
            text = values["choices"][0]["message"]["content"] or ""
            used = values.get("usage") or {}
            return str(text), (int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.address}: its answer has another form than chat completions have: {self._clean(data[:200].decode('utf-8', 'replace'))}"
            ) from error


class ByServer:
    """Labels out of what a server's model writes. A text that names no label, or several, is no answer: `silent` counts them."""

    def __init__(self, server: Server, template: Template, calibrate: str) -> None:
        if calibrate != "none":
            raise OptionError(f"calibrate={calibrate!r}: a server gives a text and no likelihood of labels. Use 'none', or a local model.")
        self.server, self.template, self.silent = server, template, 0

    @property
    def tokens(self) -> int:
        return self.server.spent.tokens_in + self.server.spent.tokens_out

    @property
    def notes(self) -> list[str]:
        """What was asked, and what it cost."""
        return self.server.notes()

    def probabilities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> np.ndarray:
        """(N, K): 1 for the label that was named; the same for all where none was."""
        words = list(self.template.labels.values())
        chats = [self.template.chat(row, [pool[i] for i in some]) for row, some in zip(rows, shots, strict=True)]
        found = np.full((len(rows), len(words)), 1 / len(words))
        for at, text in enumerate(self.server.complete_all(chats)):
            named = label_in(text, words)
            self.silent += named is None
            if named is not None:
                found[at] = np.eye(len(words))[named]
        return found


def label_in(text: str, words: Sequence[str]) -> int | None:
    """The place of the label that a text names: it alone, or the only one within it (a longer label hides one that is part of it).

    >>> label_in("Label: Card arrival.", ["card", "card arrival"]), label_in("positive or negative", ["positive", "negative"])
    (1, None)
    """
    said = " ".join(text.casefold().split())
    found = {}
    for at, word in enumerate(words):
        sought = " ".join(word.casefold().split())
        if said.strip(" .,:;!?\"'`*。，：；！？“”") == sought:
            return at
        edge = (r"(?<!\w)" if sought[:1].isascii() else "", r"(?!\w)" if sought[-1:].isascii() else "")
        found[at] = {(m.start(), m.end()) for m in re.finditer(f"{edge[0]}{re.escape(sought)}{edge[1]}", said)}
    every = [span for spans in found.values() for span in spans]
    whole = [at for at, spans in found.items() if any(not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in every) for s in spans)]
    return whole[0] if len(whole) == 1 else None


def _kept(path: Path) -> str | None:
    """The answer in a file; None where there is none, or not a whole one."""
    try:
        return str(storage.from_json(path.read_bytes(), str(path))["text"]) if path.is_file() else None
    except (ValueError, KeyError, TypeError):
        return None


def _seconds(told: str | None) -> float:
    try:
        return max(0.0, float(told or 0))
    except ValueError:  # a date: rare, and our own back-off will do
        return 0.0

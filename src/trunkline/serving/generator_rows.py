"""One text that is being written: what was asked, what is there, and how the next token is chosen. Nothing here knows of other rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
import torch

from trunkline.model.tokenizer import Tokenizer
from trunkline.model.writing.generation import Stream

MOST_LOGPROBS = 5
"""Of one token: more would give the model away (RELIABILITY bar on extraction), and nobody reads them."""


@dataclass(frozen=True)
class Chosen:
    """A token that was written. logprob: of it, before temperature; likeliest: the likeliest ones, with theirs."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that is certain, and the tokens that it came with (where log-probabilities are asked for). reason: set with the last piece.

    "stop": an end, or one of the stops; "length": as long as was allowed; "time": as much time as was allowed; "cancelled"; "failed".
    count: with the last piece, how many tokens were written.
    """

    text: str
    tokens: tuple[Chosen, ...] = ()
    reason: str | None = None
    count: int = 0


@dataclass
class Ask:
    """What is asked for. ids: (T,) the prompt; logprobs: None for none, else how many of the likeliest; tenant: whose prompt it is.

    on_piece: called in the generator's thread with each piece, and must return at once; grammar: what the text has to be (JSON of a
    schema), as an object with `mask(logits)` and `take(id)`, or None; cancelled: set it, and the writing ends with the next token.
    """

    ids: np.ndarray
    on_piece: Callable[[Piece], None]
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    tenant: str = ""
    grammar: Any = None
    seconds: float = 60.0
    cancelled: Event = field(default_factory=Event)


class Row:
    """An `Ask` on its way."""

    def __init__(self, ask: Ask, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self.ask, self._tokenizer, self._ends = ask, tokenizer, frozenset(ends)
        self.ids: list[int] = []
        self.reason: str | None = None
        self._random = torch.Generator().manual_seed(ask.seed)  # its own, so that no other row changes what is drawn
        self._until = time.monotonic() + ask.seconds
        self._pieces: list[str] = []
        self._stream = Stream(self._pieces.append)
        self._held: list[Chosen] = []

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from logits (V) float32, which may be changed. Says on what is certain, and ends the row where it has come to its end."""
        raw = torch.log_softmax(logits, -1) if self.ask.logprobs is not None else None
        if self.ask.grammar is not None:
            self.ask.grammar.mask(logits)
        chosen = int(logits.argmax()) if self.ask.temperature <= 0 else self._drawn(logits)
        if chosen not in self._ends:
            self.ids.append(chosen)
            if raw is not None:
                self._held.append(_with_logprobs(raw, chosen, self.ask.logprobs or 0))
            if self.ask.grammar is not None:
                self.ask.grammar.take(chosen)
        self._go_on(chosen)
        return chosen

    def break_off(self, reason: str) -> None:
        """End the row without another word."""
        if self.reason is None:
            self.reason = reason
            with suppress(Exception):  # who cannot be told does not keep the others from being told
                self.ask.on_piece(Piece("", (), reason, len(self.ids)))

    def end(self, reason: str) -> None:
        """End the row here, and hand on what is left."""
        if self.reason is None:
            self.reason = reason
            try:
                self._say(ended=True)
            except Exception:
                self.reason = None  # nobody was told that it ended: that is left to `break_off`
                raise

    def check(self) -> None:
        """End the row where nobody waits for it any more, or its time is over."""
        if self.ask.cancelled.is_set():
            self.end("cancelled")
        elif time.monotonic() > self._until:
            self.end("time")

    def _drawn(self, logits: torch.Tensor) -> int:
        """A token drawn from the likeliest ones that have top_p of the probability together.

        Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
        """
        shares = torch.softmax(logits / self.ask.temperature, -1)
        if self.ask.top_p < 1:
            ordered, places = shares.sort(descending=True)
            shares = torch.zeros_like(shares).scatter(0, places, ordered * (ordered.cumsum(0) - ordered < self.ask.top_p))
        return int(torch.multinomial(shares, 1, generator=self._random))

    def _go_on(self, chosen: int) -> None:
        text = self._tokenizer.text(self.ids)
        stopped = any(stop in text for stop in self.ask.stops)
        if chosen in self._ends or stopped:
            self.end("stop")
        elif len(self.ids) >= self.ask.max_new_tokens:
            self.end("length")
        else:
            self._say(ended=False)

    def _say(self, *, ended: bool) -> None:
        text = self._tokenizer.text(self.ids)
        text = text[: min((at for at in map(text.find, self.ask.stops) if at >= 0), default=len(text))]
        self._stream.advance(text, self.ask.stops, ended=ended)
        said, self._pieces[:] = "".join(self._pieces), []
        if said or ended:
            held, self._held = tuple(self._held), []
            self.ask.on_piece(Piece(said, held, self.reason, len(self.ids) if ended else 0))


def _with_logprobs(raw: torch.Tensor, chosen: int, count: int) -> Chosen:
    values, places = raw.topk(min(count, MOST_LOGPROBS))
    return Chosen(chosen, float(raw[chosen]), tuple(zip(places.tolist(), values.tolist())))

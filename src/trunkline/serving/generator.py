"""`Generator`: texts of several requests written together, token by token. A request joins the running batch between two steps, and leaves it.

One thread computes. Each turn it reads a piece of one new prompt, then takes one step with each branch that has rows. What a row says does not
depend on the others: it has its own mask, positions, random numbers and limits.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache

from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.serving.generator_cache import Prompts, content, fresh, joined, without
from trunkline.serving.generator_rows import Ask, Row
from trunkline.serving.refused import Refused

log = logging.getLogger("trunkline.serving")


@dataclass(frozen=True)
class Limits:
    """rows: texts that are written at once; waiting: that wait for it; piece: tokens of a prompt that are read in one turn;
    prompts_bytes: memory for prompts that may come again; seconds: of one text, from when it was asked for.
    """

    rows: int = 16
    waiting: int = 64
    piece: int = 256
    prompts_bytes: int = 256 << 20
    seconds: float = 60.0


@dataclass
class _Reading:
    """A prompt that is being read. done: so many of its tokens are in the cache."""

    row: Row
    cache: Cache
    done: int


@dataclass
class _Batch:
    """The rows of one branch. lengths: tokens of each in the cache; last: the token of each that comes next."""

    model: Any
    takes_positions: bool
    rows: list[Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    cache: Cache | None = None


class Generator:
    """Writers by name. Closed with `close`; then whoever waits is told that it was cancelled.

    Raises: OptionError for a branch that does not write, or goes on from no prompt (an encoder-decoder).
    """

    def __init__(self, branches: Mapping[str, Branch], limits: Limits | None = None) -> None:
        self.limits, self.branches = limits or Limits(), dict(branches)
        self._writers = {name: _writer(name, branch) for name, branch in branches.items()}
        self._batches = {name: _Batch(one.model, _takes_positions(one.model)) for name, one in self._writers.items()}
        self._prompts = {name: Prompts(self.limits.prompts_bytes // max(1, len(branches))) for name in branches}
        self._waiting: deque[tuple[str, Row]] = deque()
        self._reading: tuple[str, _Reading] | None = None
        self._closed = False
        self._bell = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self.reused = 0  # tokens of prompts that were not read again
        self.steps = 0

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def ask(self, name: str, *asks: Ask) -> None:
        """Queue texts to write with a branch, all or none; what they say comes through each ask's `on_piece`.

        Raises: Refused, 400 for a prompt that does not fit, 429 where too many wait.
        """
        writer = self._writers[name]
        for ask in asks:
            ask.seconds = min(ask.seconds, self.limits.seconds)
            if not 0 < len(ask.ids) < writer.room:
                raise Refused(
                    400,
                    "context_length_exceeded",
                    f"The prompt has {len(ask.ids):,} tokens; this model holds {writer.room:,} with the answer.",
                )
        rows = [Row(ask, writer.tokenizer, writer.ends) for ask in asks]
        with self._bell:
            if self._closed:
                raise Refused(503, "draining", "This server is going away.", after=1.0)
            if len(self._waiting) + len(rows) > self.limits.waiting:
                raise Refused(429, "queue_full", f"{len(self._waiting)} texts are waiting to be written.", after=2.0)
            self._waiting.extend((name, row) for row in rows)
            self._bell.notify()

    def room(self, name: str) -> int:
        """How many tokens prompt and answer may have together."""
        return int(self._writers[name].room)

    @property
    def busy(self) -> tuple[int, int]:
        """How many texts are written now, and how many wait."""
        return sum(len(batch.rows) for batch in self._batches.values()) + (self._reading is not None), len(self._waiting)

    def close(self) -> None:
        """End all that is written, and the thread."""
        with self._bell:
            self._closed = True
            self._bell.notify()
        if self._thread.is_alive():
            self._thread.join(self.limits.seconds)

    # In the thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        finally:
            with self._bell:
                self._closed = True  # also where the thread itself dies: who asks later is refused, and does not wait
            self._end_all("cancelled", waiting=True)

    def _turn(self) -> bool:
        """What is done between two waits. False when it is over."""
        taken = False
        try:
            if not self._take():
                return False
            taken = True
            self._read_some()
            for name, batch in self._batches.items():
                if batch.rows:
                    self._step(name, batch)
        except Exception as error:  # nobody waits for ever: the rows of this turn end, the next ones are served
            log.error("writing failed: %s", type(error).__name__)
            self._end_all("failed", waiting=not taken)  # a queue that nothing can be taken from would fail again and again
        return True

    def _take(self) -> bool:
        """Wait for work, and take the next prompt where there is room. False when it is over."""
        with self._bell:
            while not self._closed and not self._waiting and self._reading is None and not any(one.rows for one in self._batches.values()):
                self._bell.wait()
            if self._closed:
                return False
            while self._reading is None and self._waiting and self.busy[0] < self.limits.rows:
                name, row = self._waiting[0]  # taken out when it is somewhere else: a row that is nowhere is waited for for ever
                with _alone(row):
                    row.check()
                    if row.reason is None:
                        self._reading = name, self._begun(name, row)
                self._waiting.popleft()
            for _, row in self._waiting:
                with _alone(row):
                    row.check()
            self._waiting = deque(one for one in self._waiting if one[1].reason is None)
        return True

    def _begun(self, name: str, row: Row) -> _Reading:
        kept = self._prompts[name].find(row.ask.tenant, row.ask.ids)
        done = kept[0][0].shape[-2] if kept else 0
        self.reused += done
        return _Reading(row, fresh(kept), done)

    def _read_some(self) -> None:
        """The next piece of the prompt that is being read; behind the last one its row joins the batch with its first token."""
        if self._reading is None:
            return
        name, reading = self._reading
        batch, ids = self._batches[name], reading.row.ask.ids
        reading.row.check()
        if reading.row.reason is None:
            end = min(len(ids), reading.done + self.limits.piece)
            positions = torch.arange(reading.done, end)[None]
            logits = self._forward(batch, torch.from_numpy(ids[None, reading.done : end].astype("int64")), positions, reading.cache, None)
            reading.done = end
            if end < len(ids):
                return
            self._prompts[name].keep(reading.row.ask.tenant, ids, content(reading.cache))
            token = 0
            with _alone(reading.row):
                token = reading.row.choose(logits[0])
            if reading.row.reason is None:
                self._join(batch, reading, token)
        self._reading = None

    def _join(self, batch: _Batch, reading: _Reading, token: int) -> None:
        old = content(batch.cache) if batch.cache is not None and batch.rows else None
        lengths = [*batch.lengths, reading.done]
        rows = joined(old, max(batch.lengths, default=0), content(reading.cache), lengths)
        batch.cache, batch.lengths = fresh(rows), lengths
        batch.rows.append(reading.row)
        batch.last.append(token)

    def _step(self, name: str, batch: _Batch) -> None:
        """One token more for each row of a branch."""
        for row in batch.rows:
            with _alone(row):
                row.check()
        self._leave(batch)
        if not batch.rows:
            return
        self.steps += 1
        lengths = torch.tensor(batch.lengths)
        size = max(batch.lengths)
        mask = (torch.arange(size + 1)[None] >= size - lengths[:, None]).long()
        logits = self._forward(batch, torch.tensor(batch.last)[:, None], lengths[:, None], batch.cache, None if bool(mask.all()) else mask)
        batch.lengths = [length + 1 for length in batch.lengths]
        room = self.room(name)
        for at, row in enumerate(batch.rows):
            with _alone(row):
                batch.last[at] = row.choose(logits[at])
                if batch.lengths[at] + 1 >= room:
                    row.end("length")
        self._leave(batch)

    def _forward(self, batch: _Batch, ids: torch.Tensor, positions: torch.Tensor, cache: Any, mask: torch.Tensor | None) -> torch.Tensor:
        """Logits (B, V) float32 behind the last of these tokens (B, T)."""
        device = batch.model.device
        given = {"position_ids": positions.to(device)} if batch.takes_positions else {}
        mask = None if mask is None else mask.to(device)
        out = batch.model(input_ids=ids.to(device), attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **given)
        return out.logits[:, -1].float().cpu()

    def _leave(self, batch: _Batch) -> None:
        stay = [at for at, row in enumerate(batch.rows) if row.reason is None]
        if len(stay) == len(batch.rows):
            return
        batch.rows, batch.last = [batch.rows[at] for at in stay], [batch.last[at] for at in stay]
        batch.lengths = [batch.lengths[at] for at in stay]
        batch.cache = fresh(without(content(batch.cache), stay, batch.lengths)) if stay and batch.cache is not None else None

    def _end_all(self, reason: str, *, waiting: bool) -> None:
        """End every row that is on its way, and those that wait too where it is so said."""
        going = [row for batch in self._batches.values() for row in batch.rows]
        going += [self._reading[1].row] if self._reading else []
        with self._bell:
            if waiting:
                going += [row for _, row in self._waiting]
                self._waiting.clear()
        self._reading = None
        for batch in self._batches.values():
            batch.rows, batch.lengths, batch.last, batch.cache = [], [], [], None
        for row in going:
            row.break_off(reason)


@contextmanager
def _alone(row: Row) -> Iterator[None]:
    """What goes wrong with one row ends that one."""
    try:
        yield
    except Exception as error:
        log.error("a text failed: %s", type(error).__name__)
        row.break_off("failed")


def _writer(name: str, branch: Branch) -> Any:
    if not hasattr(branch.spec, "max_new_tokens"):
        raise OptionError(f"{name}: is a branch for {branch.task!r}, which does not write.")
    if branch.backbone.family.kind != "decoder":
        raise OptionError(f"{name}: stands on an encoder-decoder. Only decoders can be served as writers; use `trunkline predict` for it.")
    branch.network.eval()
    return branch.network.writer()


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters

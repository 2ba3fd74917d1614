"""The engine: branches in memory, and a thread that computes batch after batch. Texts become tokens in the thread that asks.

Requests that come while a batch is computed are the next batch, sorted by length, up to a budget of tokens. When nothing is going on a
request is computed at once. Torch and ONNX Runtime let the interpreter go while they compute, so both get on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import ArtefactError, TrunklineError
from trunkline.quality import bounds
from trunkline.quality.bounds import Bounds
from trunkline.serving.compute import said
from trunkline.serving.compute.batch import Loaded, Unanswerable, Work, answer, probe_logits
from trunkline.serving.compute.cache import StatesCache
from trunkline.serving.compute.lanes import Lanes
from trunkline.serving.compute.load import Shelf, pick
from trunkline.serving.compute.pool import version_of
from trunkline.serving.compute.queue import Ask, FairQueue
from trunkline.serving.compute.taps import Taps
from trunkline.serving.compute.upper import Stack, stackable

log = logging.getLogger("trunkline.serving")
TOKENS_PER_GATHER = 1024
"""How much is taken from the queue at once. More would be hardly faster and let a short request wait for long ones."""


class Engine:
    """`add` and `remove` branches at any time, `ask` from any thread but an event loop's. runtime: "auto", "torch" or "onnx"."""

    def __init__(self, *, threads: int = 1, runtime: str = "auto", cache_bytes: int = 64 << 20) -> None:
        self.shelf, self.cache = Shelf(), StatesCache(cache_bytes)
        self.runtime, self.threads, self.lanes = runtime, threads, Lanes(threads)
        self.loaded: dict[str, Loaded] = {}
        self.taps: dict[str, Taps] = {}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._queue, self._began = FairQueue(), 0.0
        self._thread = threading.Thread(target=self._compute, daemon=True, name="compute")
        self._thread.start()

    def load(self, version: str, folder: Path, model: str | None = None) -> dict[str, Any]:
        """Serve the branch in a folder. Raises: as `add`; ArtefactError, ModelError where it cannot be loaded, or is not that version any more."""
        branch, within = self.shelf.load(folder, model), bounds.of(folder)
        if version_of(folder) != version:  # a worker that is started again would serve other answers under the same version
            raise ArtefactError(f"{folder}: was changed since version {version} of it was added. Put its files back, or add it again.")
        return self.add(version, branch, within)

    def add(self, version: str, branch: Branch, within: Bounds | None = None) -> dict[str, Any]:
        """Serve a branch under the name of its version; what is said of it. Requests in the meantime are answered by the others.

        Raises: OptionError for a task without a form in JSON; ArtefactError where the engine does not answer its probes as the branch does.
        """
        said.check(branch.spec)
        loaded = Loaded.of(version, branch, within)
        with self._lock:
            taps = self.taps.get(loaded.group) or Taps(branch.backbone)
            same = [one.upper for one in self.loaded.values() if (one.group, one.cut) == (loaded.group, loaded.cut)]
            if twin := next((upper for upper in same if upper.same and upper.same == loaded.upper.same), None):
                loaded.upper.join(twin)
            cuts = {one.cut for one in self.loaded.values() if one.group == loaded.group and one.cut is not None}
            fresh = pick(taps, loaded, cuts, self.runtime, self.threads)
            _check(loaded, fresh)
            self.loaded = {**self.loaded, version: loaded}  # a new dict each time: whoever reads one is never half way
            self.taps = {**self.taps, loaded.group: fresh}
            self._stack()
        return self.about(version)

    def remove(self, version: str) -> None:
        """Forget a branch. Requests that ask for it and were not computed yet are answered with an error: ask for no more before."""
        with self._lock:
            self.loaded = {name: one for name, one in self.loaded.items() if name != version}
            groups = {one.group for one in self.loaded.values()}
            self.taps = {name: one for name, one in self.taps.items() if name in groups}
            self.shelf.keep_only({one.branch.backbone.id for one in self.loaded.values()})
            self._stack()

    def about(self, version: str) -> dict[str, Any]:
        """What there is to know of a branch that is served."""
        loaded = self.loaded[version]
        branch, taps = loaded.branch, self.taps[loaded.group]
        return {
            "version": version,
            "task": branch.task,
            "method": branch.method,
            "depth": branch.depth,
            "model": Path(branch.backbone.name).name,  # of a folder the name alone: where it lies is nobody's business
            "precision": branch.backbone.trunk_precision,
            "labels": list(getattr(branch.spec, "labels", ())),
            "max_tokens": branch.spec.max_tokens,
            "scope": loaded.bounds is not None,
            "runtime": {"trunk": taps.runtime, "branch": loaded.upper.runtime},
        }

    def ask(self, ask: Ask) -> None:
        """Take a request, whose texts become tokens here and now; its `done` is called once, later or before this returns."""
        if ask.is_late():
            _finish(ask, _error("too_late", "The deadline passed, or the client left, before the request was computed."))
            return
        try:
            with self._asking:  # a tokenizer holds how long its texts may be
                self._items(ask)
        except TrunklineError as error:
            _finish(ask, _error("unusable_input", str(error)))
        except Exception as error:  # a row that a task or a tokenizer cannot take ends its own request, never the thread
            log.error("prepare failed: %s", type(error).__name__)
            _finish(ask, _error("unusable_input", "A branch cannot read an input: perhaps it lacks a field, such as text_b."))

    def busy_seconds(self) -> float:
        """For how long the batch at hand has been computed; 0 between batches."""
        return time.monotonic() - self._began if self._began else 0.0

    @property
    def passes(self) -> int:
        """How often a trunk has run."""
        return sum(taps.passes for taps in self.taps.values())

    def close(self) -> None:
        """Answer what was asked, and end the thread."""
        self._queue.close()
        self._thread.join()
        self.lanes.close()

    def _stack(self) -> None:
        """Heads right on one trunk, with one pooling, become one product."""
        groups = defaultdict[tuple[str, str], dict[str, Branch]](dict)
        for version, loaded in self.loaded.items():
            head = stackable(loaded.branch)
            if head is not None:
                groups[loaded.group, head.pooling.kind][version] = loaded.branch
        for together in groups.values():
            stack = Stack(together) if len(together) > 1 else None
            for version in together:
                self.loaded[version].stack = stack

    def _items(self, ask: Ask) -> None:
        """Puts the ask into the queue with its items, or answers it where it is too large."""
        loaded = self.loaded
        if unknown := [version for version in ask.versions if version not in loaded]:
            _finish(ask, _error("gone", f"{unknown[0]}: this version is not served any more."))
            return
        memories: dict[int, _Memory] = {}
        cost = 0
        for version in dict.fromkeys(ask.versions):
            branch = loaded[version].branch
            memory = memories.setdefault(id(branch.backbone.tokenizer), _Memory(branch.backbone.tokenizer))
            items = ask.items[version] = [names.task(branch.task).prepare(row, memory, branch.spec) for row in ask.rows]
            cost += sum(len(tokens) for item in items for tokens in item.tokens)
            cut = next((at for at, item in enumerate(items) if item.was_cut), None)
            if cut is not None and not ask.truncate:
                text = (
                    f"inputs[{cut}] has more than the {branch.spec.max_tokens} tokens that this branch reads. Send less, or truncate=true."
                )
                _finish(ask, _error("too_many_tokens", text))
                return
            if cost > ask.max_cost:
                text = f"The request costs more than {ask.max_cost:,} tokens, counted for every branch. Send fewer texts."
                _finish(ask, _error("too_expensive", text))
                return
        each = {
            id(t): t for items in ask.items.values() for i in items for t in i.tokens
        }  # branches that read a text alike share its tokens
        ask.tokens = sum(map(len, {t.key: t for t in each.values()}.values()))
        self._queue.put(ask)

    def _compute(self) -> None:
        torch.set_num_threads(self.threads)
        like = 1
        while asks := self._queue.take(TOKENS_PER_GATHER, like):
            like = len(asks)
            late = [ask for ask in asks if ask.is_late()]
            for ask in late:
                _finish(ask, _error("too_late", "The deadline passed, or the client left, before the request was computed."))
            self._began = time.monotonic()
            self._run([ask for ask in asks if ask not in late])
            self._began = 0.0

    def _run(self, asks: Sequence[Ask]) -> None:
        """One batch. Where it fails each request is computed alone, so that one text harms its own request only."""
        if not asks:
            return
        began = time.monotonic()
        try:
            answers = self._answers(asks)
        except Exception as error:  # whatever it is, the other requests and the thread go on
            if len(asks) > 1:
                for ask in asks:
                    self._run([ask])
                return
            _finish(asks[0], _failed(error))
            return
        seconds = time.monotonic() - began
        for ask, found in zip(asks, answers):
            _finish(ask, {"answers": found, "tokens": ask.tokens, "waited": began - ask.asked, "computed": seconds, "batch": len(asks)})

    def _answers(self, asks: Sequence[Ask]) -> list[list[dict[str, Any]]]:
        loaded = self.loaded
        works = [
            Work(loaded[version], item, ask.tenant, (number, row, version))
            for number, ask in enumerate(asks)
            for version, items in ask.items.items()
            for row, item in enumerate(items)
        ]
        found: list[list[dict[str, Any]]] = [[{} for _ in ask.rows] for ask in asks]
        for work, (one, distance) in zip(works, answer(works, self.taps, self.cache, self.lanes), strict=True):
            number, row, version = work.row
            shown = said.said(one, work.loaded.branch.spec, asks[number].top) | said.scope(distance)
            if not said.is_finite(shown):
                raise Unanswerable(version)
            found[number][row][version] = shown | ({"truncated": True} if work.item.was_cut else {})
        return found


class _Memory:
    """A tokenizer that encodes each text of a request once, however many branches read it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._known = tokenizer, {}  # type: ignore[var-annotated]

    def encode(self, text: str, text_b: str | None = None, *, max_tokens: int) -> Any:
        key = text, text_b, max_tokens
        if key not in self._known:
            self._known[key] = self._tokenizer.encode(text, text_b, max_tokens=max_tokens)
        return self._known[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def _check(loaded: Loaded, taps: Taps) -> None:
    """Raises: ArtefactError where the engine answers the probes of a branch otherwise than the branch itself, which gave its stored answers."""
    found, real = probe_logits(loaded, taps)
    wanted = loaded.branch.probe().reshape(found.shape)
    difference = float(np.abs(found - wanted)[real].max())
    allowed = loaded.branch.tolerance
    if not difference <= allowed:
        raise ArtefactError(
            f"{loaded.version}: answers its probes otherwise when served than when tuned (largest difference {difference:.3g}, allowed "
            f"{allowed}). It is not served. Try --runtime torch."
        )


def _failed(error: Exception) -> dict[str, Any]:
    """What is said of a request that could not be computed."""
    if isinstance(error, Unanswerable):
        log.error("version %s gave NaN or infinity", error.version)
        return _error("not_finite", "This branch gives NaN or infinity for an input.") | {"version": error.version}
    log.error("compute failed: %s", type(error).__name__)
    return _error("internal", "The request could not be computed.")


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": code, "message": message}


def _finish(ask: Ask, reply: dict[str, Any]) -> None:
    try:
        ask.done(reply)
    except Exception as error:  # whoever asked is gone
        log.error("a reply was not taken: %s", type(error).__name__)

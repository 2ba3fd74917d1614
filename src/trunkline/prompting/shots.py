"""Which rows stand as demonstrations before a row: fixed, random, nearest by the trunk's states, or near and unlike each other.

The order is part of the choice: of nearest ones the nearest stands last, next to the row; labels of fixed and random ones take turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from trunkline.choices import between, one_of
from trunkline.data.split import text_key
from trunkline.errors import OptionError
from trunkline.model.backbone import Backbone
from trunkline.prompting.settings import MOST_SHOTS, PICKS
from trunkline.states.live import LiveStates
from trunkline.states.search import Index, Pooled, Whitening, vectors_of
from trunkline.types import Row, Tokens

RELEVANCE = 0.5
"""Of MMR: how much nearness counts against being unlike what is already chosen. Source: Carbonell and Goldstein 1998, where it is lambda."""
_CANDIDATES = 50
"""So many of the nearest rows are what `diverse` chooses from."""
_MAX_TOKENS = 256
_WHITEN_FROM = 256


class Neighbours:
    """Vectors of texts: the pooled states of a trunk, from a store where it has them. Each text goes through the trunk once.

    Of a decoder the states half way up: those of the last layers speak of the next token. Whitened where there are enough rows to learn it.
    """

    def __init__(self, backbone: Backbone, store: Callable[[str, int], Pooled] | None = None) -> None:
        depth = backbone.layers // 2 if backbone.family.kind == "decoder" else 0
        trunk = backbone.trunk(0 if backbone.family.whole_only else depth)
        self.tokenizer, self.max_tokens, self.width = backbone.tokenizer, min(_MAX_TOKENS, backbone.max_tokens), trunk.width
        self._live: Pooled = LiveStates(trunk)
        self._stored: Pooled = store(trunk.id, trunk.width) if store else self._live
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """(N, D) float32."""
        tokens = [self.tokenizer.encode(row["text"], row.get("text_b"), max_tokens=self.max_tokens)[0] for row in rows]
        new: dict[bytes, Tokens] = {one.key: one for one in tokens if one.key not in self._known}
        if new:
            vectors = (
                self._live.pooled(list(new.values()))
                if self._stored is self._live
                else vectors_of(list(new.values()), self._stored, self._live)
            )
            self._known |= dict(zip(new, vectors, strict=True))
        return np.stack([self._known[one.key] for one in tokens])


class Shots:
    """k demonstrations out of a pool for any row. `choose(rows)` gives places in the pool, in the order in which they stand in the prompt.

    balance: the same number of each label as far as k allows; None: yes for fixed and random
    Raises: OptionError for more demonstrations than there are rows, or a way to pick that needs vectors and has none.
    """

    def __init__(
        self, pool: Sequence[Row], count: int, pick: str = "nearest", *, balance: bool | None = None, seed: int = 0, vectors: Neighbours | None = None
    ) -> None:  # fmt: skip
        between("shots", count, 0, MOST_SHOTS)
        one_of("pick", pick, PICKS)
        if count > len(pool):
            raise OptionError(f"shots={count}: there are {len(pool)} training rows to show. Ask for fewer, or give more rows.")
        if count and pick in ("nearest", "diverse") and vectors is None:
            raise OptionError(f"pick={pick!r}: needs a model whose states say which texts are near. Name one with neighbours.")
        self.pool, self.count, self.pick, self._given = pool, count, pick, vectors
        self.balance = pick in ("fixed", "random") if balance is None else balance
        self._seed = seed
        self._whitening: Whitening | None = None
        self._of_key: dict[str, set[int]] = defaultdict(set)
        for at, row in enumerate(pool):
            self._of_key[text_key(row)].add(at)

    def choose(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """For each row, places in the pool. A row whose own text is in the pool does not get it as a demonstration."""
        if not self.count:
            return [()] * len(rows)
        if self.pick in ("fixed", "random"):
            order = np.arange(len(self.pool)) if self.pick == "fixed" else np.random.default_rng(self._seed).permutation(len(self.pool))
            return [self._first(order.tolist(), self._of_key.get(text_key(row), set())) for row in rows]
        return self._near(rows)

    def _first(self, order: Sequence[int], without: set[int]) -> tuple[int, ...]:
        """The first rows of an order; balanced, the labels take turns."""
        allowed = [at for at in order if at not in without]
        return tuple(self._in_turns(allowed)[: self.count] if self.balance else allowed[: self.count])

    def _in_turns(self, order: Sequence[int]) -> list[int]:
        """The same places, each label's first, then each label's second, and so on; labels in the order of their first."""
        queues: dict[str, list[int]] = defaultdict(list)
        for at in order:
            queues[self.pool[at]["label"]].append(at)
        longest = max(map(len, queues.values()), default=0)
        return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]

    def _vectors(self, rows: Sequence[Row]) -> np.ndarray:
        if self._given is None:
            raise ValueError("no model says which texts are near")  # refused in __init__ for all that ask
        return self._given(rows)

    def _near(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        index, queries = self._indexed, self._vectors(rows)
        chosen = []
        wide = len(self.pool) if self.balance else min(len(self.pool), max(_CANDIDATES, self.count))
        for row, query in zip(rows, queries):
            without = [str(at) for at in self._of_key.get(text_key(row), ())]
            hits = [int(name) for name, _ in index.search(query[None], wide, without=without)[0]]
            if self.pick == "diverse":
                hits = self._unlike(
                    self._in_turns(hits)[:_CANDIDATES] if self.balance else hits[:_CANDIDATES], self._compared(query[None])[0]
                )
            kept = (self._in_turns(hits) if self.balance and self.pick == "nearest" else hits)[: self.count]
            near = self._pool_vectors[kept] @ self._compared(query[None])[0]
            chosen.append(tuple(kept[i] for i in np.argsort(near, kind="stable")))
        return chosen

    @cached_property
    def _pooled(self) -> np.ndarray:
        return self._vectors(self.pool)

    @cached_property
    def _indexed(self) -> Index:
        """The pool by place."""
        if len(np.unique(self._pooled, axis=0)) >= _WHITEN_FROM:
            self._whitening = Whitening.fit(self._pooled)
        index = Index(self._pooled.shape[1], whitening=self._whitening)
        index.add([str(at) for at in range(len(self.pool))], self._pooled)
        return index

    @cached_property
    def _pool_vectors(self) -> np.ndarray:
        return self._compared(self._pooled)

    def _compared(self, vectors: np.ndarray) -> np.ndarray:
        found = self._whitening(vectors) if self._whitening else vectors
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def _unlike(self, candidates: list[int], query: np.ndarray) -> list[int]:
        """MMR: one after the other, what is near the query and unlike all that is chosen. Source: Carbonell and Goldstein 1998, section 2."""
        vectors = self._pool_vectors[candidates]
        near, taken = vectors @ query, [int(np.argmax(vectors @ query))] if candidates else []
        while len(taken) < min(self.count, len(candidates)):
            alike = (vectors @ vectors[taken].T).max(axis=1)
            worth = RELEVANCE * near - (1 - RELEVANCE) * alike
            worth[taken] = -np.inf
            taken.append(int(worth.argmax()))
        return [candidates[at] for at in taken]

"""`encode`: run each text through the trunk once and keep its states. The stage between the cut and everything else.

Only what the store lacks is computed, in an order that the content alone decides (length, then key), in batches and shards
that are cut the same way wherever the work begins at a shard's edge. So a run that was killed and started again leaves the
same files, byte for byte, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trunkline.errors import StatesError
from trunkline.memory import give_back
from trunkline.model.batches import TOKENS_PER_BATCH, by_length
from trunkline.progress import Bar
from trunkline.states.live import Trunk, run_trunk
from trunkline.states.shard import Draft
from trunkline.states.store import States
from trunkline.types import Tokens

SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class EncodeReport:
    """What `encode` did. `rows`: texts asked for; `new_rows` and `tokens`: computed now, each content once; `seconds`: in all."""

    rows: int
    new_rows: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def encode(
    tokens: Sequence[Tokens],
    trunk: Trunk,
    states: States,
    *,
    progress: bool | None = None,
    max_tokens: int = TOKENS_PER_BATCH,
    shard_bytes: int = SHARD_BYTES,
) -> EncodeReport:
    """Fill `states` with what it lacks of `tokens`. May be stopped at any moment and run again: whole shards stay.

    progress: on stderr; None shows it on a terminal only, True always, False never
    max_tokens: tokens in one pass of the trunk, padding included
    shard_bytes: a shard is closed at the end of the batch that brings it to this size

    Raises: StatesError when the store is another trunk's, or the trunk gives states that it cannot hold.
    """
    _same_trunk(trunk, states)
    started = time.perf_counter()
    new = sorted(states.missing(tokens), key=lambda one: (len(one), one.key))
    total, done, rows = sum(map(len, new)), 0, 0
    draft = states.draft()
    with Bar("encode", unit="tokens", show=progress) as bar:  # by tokens, since long texts come last
        for batch in _batches(new, max_tokens):
            for one, hidden in zip(batch, run_trunk(trunk, batch), strict=True):
                draft.add(one, hidden)
            if draft.bytes >= shard_bytes:
                draft = _committed(draft, states)
            done, rows = done + sum(map(len, batch)), rows + len(batch)
            bar.to(done, total, f"{rows:,}/{len(new):,} rows")
        _committed(draft, states)
    return EncodeReport(rows=len(tokens), new_rows=len(new), tokens=total, seconds=time.perf_counter() - started)


def _committed(draft: Draft, states: States) -> Draft:
    """The next draft, once this one is a shard and its memory the system's again."""
    states.commit(draft)
    draft.parts.clear()
    give_back()
    return states.draft()


def _batches(tokens: Sequence[Tokens], max_tokens: int) -> Iterator[list[Tokens]]:
    for batch in by_length([len(one) for one in tokens], max_tokens):
        yield [tokens[at] for at in batch]


def _same_trunk(trunk: Trunk, states: States) -> None:
    if (trunk.id, trunk.width) != (states.trunk_id, states.width):
        raise StatesError(
            f"{states.folder}: is for trunk {states.trunk_id} of width {states.width}, and the trunk given is {trunk.id} "
            f"of width {trunk.width}. Open a store for this trunk."
        )

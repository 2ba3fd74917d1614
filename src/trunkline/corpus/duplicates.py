"""Documents that repeat an earlier one, to the letter or nearly, among any number of documents.

The keys of a band are read one band at a time and sorted; documents with one key are candidates, and each is compared with the first
of them, by the real Jaccard index of their texts, unless both are known to belong together. So a text that is named a duplicate was
looked at. Groups hold together through chains: a like b, b like c. The first document in the order of reading stays.

Memory: 5 bytes a document (where it belongs, whether it is an exact copy), 4 for a moment, and some 90 for each document of the band that is
sorted, of which never more than about `AT_ONCE` are held: past that number a band is sorted in parts by the first bits of its keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from trunkline.choices import between
from trunkline.corpus.minhash import Sketch, digest, folded, jaccard, shingles
from trunkline.errors import DataError

AT_ONCE = 1 << 22
_LEADERS = 16  # documents of one bucket that the others are compared with, before the rest is let go (and counted)
_REMEMBERED = 300_000  # pairs that were compared and are not alike; they meet again in other bands


class Documents(Protocol):
    """What duplicates are looked for in, in pieces that come in the order of the documents, the same for every call."""

    sketch: Sketch

    def __len__(self) -> int: ...
    def digests(self) -> Iterable[np.ndarray]:
        """(n, 2) uint64 a piece: what only the same text has."""

    def keys(self, band: int) -> Iterable[np.ndarray]:
        """(n,) uint64 a piece."""

    def folded(self, index: int) -> bytes:
        """One document, as it is compared."""


@dataclass
class Duplicates:
    """first: (N,) int32, the document that each repeats, or itself where it stays; exact: (N,) bool, whether to the letter (once folded).

    compared: how many pairs of texts were looked at; passed_over: candidates of crowded buckets that were compared with some but not all.
    """

    first: np.ndarray
    exact: np.ndarray
    compared: int = 0
    passed_over: int = 0

    @property
    def stays(self) -> np.ndarray:
        """(N,) bool."""
        return self.first == np.arange(len(self.first), dtype=self.first.dtype)


def duplicates(documents: Documents, threshold: float = 0.8, *, at_once: int = AT_ONCE) -> Duplicates:
    """Which documents repeat an earlier one: exactly, or with a Jaccard index of at least `threshold`.

    Raises: OptionError for a threshold that is not between 0.5 and 1; DataError for 2**31 documents and more.

    >>> found = duplicates(InMemory(["Where is my card now?", "where is my  card now?", "where is my card now", "no"]), 0.7)
    >>> found.first.tolist(), found.exact.tolist()
    ([0, 0, 0, 3], [False, True, False, False])
    """
    between("threshold", threshold, 0.5, 1)
    if len(documents) >= 1 << 31:
        raise DataError(f"{len(documents):,} documents: at most {(1 << 31) - 1:,} are compared. Clean the files in several runs.")
    found = Duplicates(np.arange(len(documents), dtype=np.int32), np.zeros(len(documents), dtype=bool))
    for sums, places in _parts(documents.digests, len(documents), at_once):
        _exact(found, sums, places)
    if threshold < 1:
        linked = _Linked(documents, found, threshold)
        for band in range(documents.sketch.bands):
            for keys, places in _parts(partial(documents.keys, band), len(documents), at_once):
                linked.band(keys, places)
    return found


@dataclass
class InMemory:
    """Documents that are in memory already."""

    texts: Sequence[str]
    sketch: Sketch = field(default_factory=Sketch)

    def __len__(self) -> int:
        return len(self.texts)

    def digests(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.texts), 1 << 16):
            sums = b"".join(digest(folded(text)) for text in self.texts[start : start + (1 << 16)])
            yield np.frombuffer(sums, dtype="<u8").reshape(-1, 2)

    def keys(self, band: int) -> Iterator[np.ndarray]:
        yield self._keys[band]

    def folded(self, index: int) -> bytes:
        return folded(self.texts[index])

    def __post_init__(self) -> None:
        self._keys = np.empty((self.sketch.bands, len(self.texts)), dtype=np.uint64)
        for start in range(0, len(self.texts), 1 << 14):
            self._keys[:, start : start + (1 << 14)] = self.sketch.keys(self.texts[start : start + (1 << 14)])


def _parts(read: Callable[[], Iterable[np.ndarray]], total: int, at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The keys (n,) or (n, 2) sorted by the first, and the places (n,) int32 of the documents; in parts by the first bits of the keys."""
    bits = max(0, math.ceil(math.log2(max(1, total) / at_once)))
    for part in range(1 << bits):
        keys, places, start = [], [], 0
        for piece in read():
            first = piece if piece.ndim == 1 else piece[:, 0]
            chosen = np.flatnonzero(first >> np.uint64(64 - bits) == part) if bits else np.arange(len(piece))
            keys.append(piece[chosen])
            places.append((chosen + start).astype(np.int32))
            start += len(piece)
        if keys:
            joined, at = np.concatenate(keys), np.concatenate(places)
            order = np.argsort(joined if joined.ndim == 1 else joined[:, 0], kind="stable")  # stable: within one key the places go up
            yield joined[order], at[order]


def _exact(found: Duplicates, sums: np.ndarray, places: np.ndarray) -> None:
    """Documents with the same digest repeat the first of them."""
    starts, sizes = _buckets(sums[:, 0])
    leaders = np.repeat(starts, sizes)
    same = sums[:, 1] == sums[leaders, 1]
    found.first[places[same]] = places[leaders[same]]
    found.exact[places] = same & (leaders != np.arange(len(places)))


def _buckets(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal keys starts, and how long it is."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, dtype=int)
    return starts, np.diff(np.append(starts, len(keys)))


class _Linked:
    """Groups of documents that are alike: `found.first` points to an earlier document of the group, and in the end to its first."""

    def __init__(self, documents: Documents, found: Duplicates, threshold: float) -> None:
        self.documents, self.found, self.threshold = documents, found, threshold
        self.unlike: set[tuple[int, int]] = set()

    def band(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Link the documents that share a key and are alike."""
        fresh = ~self.found.exact[places]
        keys, places = keys[fresh], places[fresh]
        starts, sizes = _buckets(keys)
        roots = self.found.first[places]
        leaders = np.repeat(roots[starts], sizes)
        owner = np.repeat(np.arange(len(starts)), sizes)
        for bucket in np.unique(owner[roots != leaders]):  # all others are known to belong together
            self._bucket(places[starts[bucket] : starts[bucket] + sizes[bucket]].tolist())
        self._flatten()

    def _bucket(self, members: list[int]) -> None:
        for _ in range(_LEADERS):
            leader, others = members[0], [one for one in members[1:] if self._root(one) != self._root(members[0])]
            mine = shingles(self.documents.folded(leader), self.documents.sketch.window) if others else set()
            members = [one for one in others if not self._joined(leader, mine, one)]
            if len(members) < 2:
                return
        self.found.passed_over += len(members)

    def _joined(self, leader: int, mine: set[bytes], other: int) -> bool:
        """Whether two documents belong together now. Two that were found unlike are not compared again."""
        one, two = self._root(leader), self._root(other)
        if one == two:
            return True
        if (leader, other) in self.unlike:
            return False
        theirs = shingles(self.documents.folded(other), self.documents.sketch.window)
        self.found.compared += 1
        if jaccard(mine, theirs) >= self.threshold:
            self.found.first[max(one, two)] = min(one, two)
            return True
        if len(self.unlike) >= _REMEMBERED:
            self.unlike.clear()
        self.unlike.add((leader, other))
        return False

    def _root(self, index: int) -> int:
        first = self.found.first
        while (above := int(first[index])) != index:
            first[index] = first[above]
            index = above
        return index

    def _flatten(self) -> None:
        first = self.found.first
        while not np.array_equal(above := first[first], first):
            first[:] = above

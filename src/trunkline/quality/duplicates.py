"""Rows that are nearly the same: on the surface (shared pieces of text), and in meaning (near states). Surface duplicates are found exactly.

Two texts are near on the surface when the Jaccard index of their sets of pieces (three letters and digits in a row, two where a text is Chinese;
case, width, marks and white space count nothing) is at least `SURFACE`. The candidates come from the prefix filter, which misses none
(Source: Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007, section 3), and each is then counted. Memory grows with the pieces of all texts: for
millions of rows take `trunkline clean`, which is MinHash and streams.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
from scipy import sparse

from trunkline.choices import between
from trunkline.data.cells import fold
from trunkline.states.search import EXACT_BELOW, Index

SURFACE = 0.8
LOOSE = 0.6
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_CELLS = 1 << 24
_NEIGHBOURS = 20
_MOST = 1_000_000
"""Pairs of meaning that are kept at the most, nearest first: more than that is a threshold that fits nothing."""


@dataclass(frozen=True)
class Words:
    """The words of a text whose entities were marked: where each lies (W, start and end by characters), and its vector (W, D) float16."""

    spans: tuple[tuple[int, int], ...]
    vectors: np.ndarray


@dataclass(frozen=True)
class Vectors:
    """rows: (N, D) float32 and against: (M, D) float32, in the order of the rows; model and made_by: what they come from (the id of a trunk).

    near, same: cosines of copies that were slightly changed, found for this model and these texts (see `vectors`): nearly all of them keep
        `near` to their original, half of them `same`
    words: of rows for `tag` each row's words, None for rows that were left out since there are too many; empty for other tasks
    """

    rows: np.ndarray
    against: np.ndarray
    model: str = ""
    made_by: str = ""
    near: float = 0.7
    same: float = 0.97
    words: tuple[Words | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that are nearly the same: places in the list given (first < second), how near, and by what ("surface", "meaning")."""

    first: int
    second: int
    score: float
    by: str


def surface_pairs(texts: Sequence[str], threshold: float = SURFACE) -> list[Pair]:
    """Every pair of texts whose Jaccard index of pieces is at least `threshold`; all of them, and no others.

    Of texts that have the same pieces only neighbours are paired (1-2, 2-3, ...), so a text that stands there a thousand times gives 999 pairs.

    >>> surface_pairs(["My card has not arrived.", "my card has NOT arrived!", "Refund me"])
    [Pair(first=0, second=1, score=1.0, by='surface')]
    """
    between("threshold", threshold, 0.3, 1.0)
    same: dict[frozenset[str], list[int]] = {}
    for place, text in enumerate(texts):
        same.setdefault(pieces(text), []).append(place)
    found = [Pair(a, b, 1.0, "surface") for places in same.values() for a, b in pairwise(places)]
    sets, places = list(same), [those[0] for those in same.values()]
    if threshold < 1.0 and len(sets) > 1:
        for a, b, score in _joined(sets, threshold):
            first, second = sorted((places[a], places[b]))
            found.append(Pair(first, second, score, "surface"))
    return sorted(found, key=lambda pair: (-pair.score, pair.first, pair.second))


def pieces(text: str) -> frozenset[str]:
    """The set that texts are compared by.

    >>> sorted(pieces("A-b cd!"))
    ['abc', 'bcd']
    """
    folded = fold(text)
    plain = "".join(filter(str.isalnum, folded))
    size = 2 if len(_HAN.findall(plain[:200])) * 2 > len(plain[:200]) else 3
    if len(plain) <= size:
        return frozenset([plain or folded])
    return frozenset(plain[at : at + size] for at in range(len(plain) - size + 1))


def _joined(sets: Sequence[frozenset[str]], threshold: float) -> Iterator[tuple[int, int, float]]:
    """All pairs of differing sets with a Jaccard index of at least `threshold`: their places and the index."""
    names: dict[str, int] = {}
    columns = [[names.setdefault(piece, len(names)) for piece in one] for one in sets]
    sizes = np.array([len(one) for one in columns])
    flat = np.fromiter((column for one in columns for column in one), dtype=np.int32, count=int(sizes.sum()))
    whole = _matrix(flat, sizes, len(names))
    rank = np.argsort(np.argsort(np.bincount(flat, minlength=len(names)), kind="stable"), kind="stable")
    kept = sizes - np.ceil(threshold * sizes - 1e-9).astype(int) + 1  # two sets that are alike share one of so many of their rarest pieces
    short = [sorted(one, key=rank.__getitem__)[:count] for one, count in zip(columns, kept.tolist())]
    prefixes = _matrix(np.concatenate([np.array(one, dtype=np.int32) for one in short]), kept, len(names))
    turned, step = prefixes.T.tocsc(), 2048
    for start in range(0, len(sets), step):
        shared = (prefixes[start : start + step] @ turned).tocoo()
        left, right = shared.row + start, shared.col
        small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
        worth = (left < right) & (small >= threshold * large - 1e-9)
        left, right = left[worth], right[worth]
        for block in range(0, len(left), 200_000):
            a, b = left[block : block + 200_000], right[block : block + 200_000]
            common = np.asarray(whole[a].multiply(whole[b]).sum(axis=1)).ravel()
            index = common / (sizes[a] + sizes[b] - common)
            near = index >= threshold - 1e-9
            yield from zip(a[near].tolist(), b[near].tolist(), index[near].tolist())


def _matrix(columns: np.ndarray, sizes: np.ndarray, width: int) -> sparse.csr_matrix:
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return sparse.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, ends), shape=(len(sizes), width))


def meaning_pairs(vectors: np.ndarray, threshold: float) -> list[Pair]:
    """Every pair of vectors (N, D) with a cosine of at least `threshold`, nearest first.

    Below 50,000 rows by comparing all with all; from there on among the twenty nearest of each, found through FAISS.
    Raises: MissingExtra from 50,000 rows on without FAISS.
    """
    between("threshold", threshold, -1.0, 1.0)
    ready = np.ascontiguousarray(unit(vectors), dtype=np.float32)
    find = _all_with_all if len(ready) < EXACT_BELOW else _through_index
    found = [Pair(a, b, min(1.0, score), "meaning") for a, b, score in find(ready, threshold)]
    return sorted(found, key=lambda pair: (-pair.score, pair.first, pair.second))[:_MOST]


def _all_with_all(ready: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    step = max(1, _CELLS // max(1, len(ready)))
    for start in range(0, len(ready), step):
        scores = ready[start : start + step] @ ready[start:].T
        left, right = np.nonzero(scores >= threshold)
        later = left < right
        yield from zip((left[later] + start).tolist(), (right[later] + start).tolist(), scores[left[later], right[later]].tolist())


def _through_index(ready: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    index = Index(ready.shape[1])
    index.add([str(at) for at in range(len(ready))], ready)
    seen: set[tuple[int, int]] = set()
    for start in range(0, len(ready), 4096):
        for place, hits in enumerate(index.search(ready[start : start + 4096], _NEIGHBOURS), start):
            for name, score in hits:
                pair = (min(place, int(name)), max(place, int(name)))
                if score >= threshold and pair[0] != pair[1] and pair not in seen:
                    seen.add(pair)
                    yield (*pair, score)


def near_pairs(texts: Sequence[str], vectors: np.ndarray | None = None, *, near: float = 0.7, same: float = 0.97) -> list[Pair]:
    """The pairs that a person would call copies, nearest first; each once.

    By surface (index 0.8 and more), by both (index 0.6 and more, and a cosine of at least `near`), or by meaning alone (a cosine of at least `same`).
    """
    loose = surface_pairs(texts, SURFACE if vectors is None else LOOSE)
    if vectors is None:
        return loose
    ready = unit(vectors)
    left, right = [pair.first for pair in loose], [pair.second for pair in loose]
    cosines = (ready[left] * ready[right]).sum(1) if loose else ()
    kept = {(p.first, p.second): p for p, cosine in zip(loose, cosines) if p.score >= SURFACE or cosine >= near}
    for pair in meaning_pairs(vectors, same):
        kept.setdefault((pair.first, pair.second), pair)
    return sorted(kept.values(), key=lambda pair: (-pair.score, pair.first, pair.second))


def groups(count: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """The rows that hang together through pairs, as lists of places in order; rows without a pair are left out."""
    root = list(range(count))

    def top(at: int) -> int:
        while root[at] != at:
            root[at] = root[root[at]]
            at = root[at]
        return at

    for pair in pairs:
        a, b = sorted((top(pair.first), top(pair.second)))
        root[b] = a
    members: dict[int, list[int]] = {}
    for at in range(count):
        members.setdefault(top(at), []).append(at)
    return [those for those in members.values() if len(those) > 1]


def slightly_changed(text: str, random: Random) -> str:
    """The text as a copy of it might be, never as it is: a letter dropped or doubled, two swapped, marks, case, or a small word more or less.

    >>> all(slightly_changed("ok", Random(seed)) not in ("", "ok") for seed in range(50))
    True
    """
    changed = ""
    while changed in ("", text):
        changed = _maybe_changed(text, random)
    return changed


def _maybe_changed(text: str, random: Random) -> str:
    """One change by chance, which may do nothing to this text (small letters made small); the small word more always does something."""
    words = text.split()
    at = random.randrange(len(text)) if text else 0
    changes = [
        lambda: text[:at] + text[at + 1 :] if len(text) > 8 else text + ".",
        lambda: text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
        lambda: text[: at + 1] + text[at : at + 1] + text[at + 1 :],
        lambda: text.rstrip(".!?。！？") + random.choice(["", "!", "...", "。" if _HAN.search(text) else "."]),
        lambda: text.upper() if random.random() < 0.3 else text.lower(),
        lambda: " ".join([*words, "请" if _HAN.search(text) else "please"]),
        lambda: " ".join(words[1:]) if len(words) > 7 else text,
    ]
    return random.choice(changes)()


def unit(values: np.ndarray) -> np.ndarray:
    """(N, D) with length 1; a vector of zeros stays that."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)

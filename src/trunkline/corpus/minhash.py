"""A text as a few numbers by which texts that share most of their letters are found: shingles, MinHash, and the keys of its bands.

What is compared are the windows of 6 bytes of the folded text (NFKC, casefold, white space) in UTF-8: 6 Latin letters or 2 Chinese
characters. So one measure serves every script, and one wrong letter in a short text changes a tenth of it and not a half, as
windows of words would have it. Two texts are alike by the Jaccard index of their windows.

Each document is hashed with its batch, in numpy: one multiplication and one minimum a window and hash function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trunkline.data.cells import fold
from trunkline.errors import OptionError

_AT_ONCE = 1 << 18  # windows that are hashed together: what a processor keeps near


@dataclass(frozen=True)
class Sketch:
    """How texts are hashed. Two texts of Jaccard index j share a band with probability 1 - (1 - j**rows)**bands.

    With 20 bands of 6 rows: 99.8% at 0.8, 92% at 0.7, 27% at 0.5, 0.002% at 0.1. (Source: Broder 1997; Leskovec, Rajaraman and
    Ullman, "Mining of Massive Datasets", section 3.4. The hash functions are multiplications by odd numbers modulo 2**32 of windows
    that were well mixed before; so they are not min-wise independent in theory, and tests hold them to the formula above.)
    """

    window: int = 6
    bands: int = 20
    rows: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("window", 2, 32), ("bands", 1, 256), ("rows", 1, 32)):
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"{name}={getattr(self, name)}: use {low} to {high}.")

    @cached_property
    def _multipliers(self) -> np.ndarray:
        generator = np.random.default_rng(self.seed)
        return generator.integers(0, 1 << 32, self.bands * self.rows, dtype=np.uint32) | np.uint32(1)

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """(bands, N) uint64: the key of each band of each text; texts that share one may be alike."""
        return self.keys_of([folded(text) for text in texts])

    def keys_of(self, texts: Sequence[bytes]) -> np.ndarray:
        """`keys` of texts that are folded already."""
        found = np.empty((self.bands, len(texts)), dtype=np.uint64)
        start = 0
        while start < len(texts):
            end, size = start, 0
            while end < len(texts) and (end == start or size + len(texts[end]) <= _AT_ONCE):
                size += len(texts[end])
                end += 1
            found[:, start:end] = self._bands(*_hashed(texts[start:end], self.window))
            start = end
        return found

    def _bands(self, windows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        found = np.zeros((self.bands, len(starts)), dtype=np.uint64)
        product, least = np.empty_like(windows), np.empty(len(starts), dtype=np.uint32)
        for number, multiplier in enumerate(self._multipliers):
            np.multiply(windows, multiplier, out=product)
            np.minimum.reduceat(product, starts, out=least)
            band = found[number // self.rows]
            band ^= least
            band *= _PRIME
            band ^= band >> np.uint64(32)
        return found


def folded(text: str) -> bytes:
    """The text as it is compared: NFKC, casefold, white space collapsed, UTF-8."""
    return fold(text).encode("utf-8", "surrogatepass")


def digest(text: bytes) -> bytes:
    """16 bytes that only the same folded text has."""
    return hashlib.blake2b(text, digest_size=16).digest()


def shingles(text: bytes, window: int) -> set[bytes]:
    """The windows of a folded text; of one that is shorter, itself."""
    return {text[at : at + window] for at in range(max(1, len(text) - window + 1))}


def jaccard(one: set[bytes], other: set[bytes]) -> float:
    """The share of what either has that both have.

    >>> jaccard(shingles(b"my card is lost", 6), shingles(b"my card was lost", 6))
    0.23529411764705882
    """
    both = len(one & other)
    return both / (len(one) + len(other) - both)


_PRIME = np.uint64(0x9E3779B97F4A7C15)


def _hashed(texts: Sequence[bytes], window: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixed 32-bit hash of every window of every text, one text after the other, and where each text starts."""
    padded = [text if len(text) >= window else text.ljust(window, b"\0") for text in texts]
    sizes = np.array([len(text) for text in padded])
    letters = np.frombuffer(b"".join(padded), dtype=np.uint8).astype(np.uint64)
    rolled = np.zeros(len(letters) - window + 1, dtype=np.uint64)
    for place in range(window):
        rolled *= np.uint64(0x100000001B3)
        rolled += letters[place : place + len(rolled)]
    ends = np.cumsum(sizes)
    inside = np.ones(len(letters), dtype=bool)  # a window that reaches into the next text belongs to none
    for back in range(1, window):
        inside[ends - back] = False
    mixed = rolled[inside[: len(rolled)]]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64's last steps
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    counts = sizes - window + 1
    return (mixed >> np.uint64(32)).astype(np.uint32), np.cumsum(counts) - counts

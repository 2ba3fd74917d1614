"""Where each key of a states store lies: sorted arrays of 24 bytes a row, so that millions of rows fit. Sits under `store`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Key = bytes
KEY_BYTES = 16
_ROWS_PER_SHARD = 1 << 32  # a place is shard * 2^32 + row


class KeyIndex:
    """A map from key (16 bytes) to place (shard, row). The first place that is added for a key stays.

    >>> index = KeyIndex()
    >>> index.add(as_keys([b"b" * 16, b"a" * 16]), shard=3)
    >>> index.find(as_keys([b"a" * 16, b"c" * 16])).tolist() == [3 * 2**32 + 1, -1]
    True
    """

    def __init__(self) -> None:
        self._keys = as_keys([])
        self._places = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: np.ndarray, shard: int) -> None:
        """Take up the `keys` ((n,) from `as_keys`) of a shard, in the order of its rows."""
        fresh, rows = np.unique(keys, return_index=True)
        is_new = self.find(fresh) < 0
        fresh, rows = fresh[is_new], rows[is_new]
        at = np.searchsorted(self._keys, fresh)
        self._keys = np.insert(self._keys, at, fresh)
        self._places = np.insert(self._places, at, shard * _ROWS_PER_SHARD + rows)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(n,) int64 places of the `keys`; -1 for a key that is not here."""
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._places[at], -1)


def as_keys(keys: Sequence[Key]) -> np.ndarray:
    """(n,) fixed-length byte strings: they sort, and compare over all 16 bytes (a zero at the end counts as padding for both)."""
    return np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}")


def shard_and_row(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of places, each (n,) int64."""
    return places // _ROWS_PER_SHARD, places % _ROWS_PER_SHARD

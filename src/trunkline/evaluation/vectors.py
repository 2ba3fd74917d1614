"""`Vectors`: one vector a text, for any number of texts. `features` fills them, `linear` reads them block by block.

Few of them lie in memory. Of a million texts they are 1.5 GB, and go to a file: in the cache folder, where the states are that they
were made of, and without a name, so that nothing is left of it when the process ends. It is read into arrays, not mapped: the pages of a
map count as the process's own memory (states/shard.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np

from trunkline import storage
from trunkline.errors import StatesError

BLOCK = 4096
"""Rows read at once."""
_IN_MEMORY = 32 << 20  # bytes


class Vectors:
    """(N, D) float32 that grow by `append`; `vectors[start:end]` gives some as an array of its own.

    >>> vectors = Vectors(2)
    >>> vectors.append(np.array([[1, 2], [3, 4]]))
    >>> vectors.shape, vectors[1:].tolist()
    ((2, 2), [[3.0, 4.0]])
    """

    dtype = np.dtype(np.float32)

    def __init__(self, width: int) -> None:
        folder = storage.cache_folder()
        self.shape = (0, width)
        self._file = SpooledTemporaryFile(_IN_MEMORY, dir=str(folder) if folder.is_dir() else None)  # noqa: SIM115  closed below
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, block: np.ndarray) -> None:
        """Put (n, D) numbers behind those that are there. Raises: TrunklineError where the disk is full."""
        try:
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(block, dtype=self.dtype).data)
            self._file.flush()
        except OSError as error:
            raise storage.explain(error, storage.cache_folder()) from error
        self.shape = (len(self) + len(block), self.shape[1])

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, end, _ = rows.indices(len(self))
        found = np.empty((max(0, end - start), self.shape[1]), dtype=self.dtype)
        self._file.seek(start * self.shape[1] * self.dtype.itemsize)
        if found.size and self._file.readinto(found.data.cast("B")) != found.nbytes:
            raise StatesError("The file of vectors in the cache folder was cut while it was read. Run it again.")
        return found


def blocks(vectors: Any) -> Iterator[Any]:
    """Arrays of at most 4,096 rows, in their order, of whatever gives its rows for a slice: an array, a sparse matrix, `Vectors`.

    >>> [len(block) for block in blocks(np.zeros((5000, 1)))]
    [4096, 904]
    """
    return (vectors[at : at + BLOCK] for at in range(0, vectors.shape[0], BLOCK))

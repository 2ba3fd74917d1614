"""`Index`: vectors by id, and the nearest of them. What retrieval, recommendation and the work on data look things up in.

Below 50,000 rows the search is exact, one matrix product in numpy. From there on FAISS looks into the lists whose centres are
nearest to the query (Source: Jegou, Douze and Schmid 2011, section IV, without the product codes: vectors stay whole, so scores are
exact, and only a neighbour in a list that was not looked into is missed). A search among few of the ids is exact at any size.

The first stage costs no model pass for texts that a store holds: `vectors_of` takes their pooled states from it.
An index is saved as a folder with a manifest, all at once; FAISS's own file format is neither written nor read.

A loaded index reads its vectors through a memory map, unlike a states store (store.py: `pread`). A store is far larger than memory and read a
few rows at a time, so a map keeps resident what is not wanted again. Every search of an index reads all of its vectors (or the lists that FAISS
holds itself): they are resident either way, and mapped they are the system's own pages, without a copy, shared by all processes that load the index
and dropped when memory is short. The sum is taken over the map itself, so what is searched is what was checked.
"""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy

from trunkline import storage
from trunkline.choices import between, one_of
from trunkline.errors import ArtefactError, MissingExtra, OptionError, unknown
from trunkline.types import Tokens

KIND = "index"
METRICS = ("cosine", "dot")
EXACT_BELOW = 50_000
"""Rows from which FAISS takes over: up to here a query costs a few milliseconds, and is exact."""
PROBED = 0.2
"""Share of the lists that is looked into. On 62,000 English sentences (minilm, mean of the embeddings) 98.5% of the ten nearest were found in a
quarter of the time of an exact search; whitened, 84%: what is near is spread over more lists there."""
_CELLS = 1 << 22  # queries x rows scored at once: 16 MB
_FILE = "vectors.safetensors"
_BLOCK = 8192
_TYPES = {name: np.dtype(code) for name, code in (("F32", "<f4"), ("I64", "<i8"), ("U8", "u1"))}
SHRINKAGE = 0.1
"""Of the within-class covariance towards equal spread: with few rows a label it is known badly."""

Hit = tuple[str, float]
"""An id, and how near it is: the cosine, or the inner product."""


class Pooled(Protocol):
    """Where pooled states come from: `States` (stored) and `LiveStates` (computed) have this face."""

    def missing(self, tokens: Sequence[Tokens]) -> list[Tokens]: ...
    def pooled(self, tokens: Sequence[Tokens]) -> np.ndarray: ...


def vectors_of(tokens: Sequence[Tokens], states: Pooled, live: Pooled) -> np.ndarray:
    """(N, D) float32: the mean-pooled states of texts, from the store where it has them; only the others go through the trunk."""
    absent = states.missing(tokens)
    if not absent:
        return states.pooled(tokens)
    computed = dict(zip((one.key for one in absent), live.pooled(absent), strict=True))
    held = [one for one in tokens if one.key not in computed]
    stored = iter(states.pooled(held) if held else ())
    return np.stack([computed[one.key] if one.key in computed else next(stored) for one in tokens])


@dataclass(frozen=True)
class Whitening:
    """A linear map after which the vectors it was learned from have mean 0 and no two correlated dimensions. mean: (D,), matrix: (D, d).

    The hidden states of a model that was not trained to compare texts share a few large directions, which hide how texts differ.
    Source: Su et al. 2021 (Whitening Sentence Representations), algorithm 1. Directions without variance are left out.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, dimensions: int | None = None) -> Whitening:
        """Learned from vectors (N, D). `dimensions`: so many of the strongest are kept; None keeps all.

        Raises: OptionError for fewer than two vectors, vectors that are all the same, or a number of dimensions out of range.
        """
        vectors = np.asarray(vectors, dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) < 2:
            raise OptionError(f"vectors {vectors.shape}: whitening is learned from (N, D) vectors, two at the least; hundreds are better.")
        between("dimensions", dimensions or 1, 1, vectors.shape[1])
        mean = vectors.mean(axis=0)
        _, spread, directions = np.linalg.svd((vectors - mean) / len(vectors) ** 0.5, full_matrices=False)
        kept = np.flatnonzero(spread > 1e-6 * max(float(np.abs(vectors).max()), 1e-30))[:dimensions]
        if not len(kept):
            raise OptionError(f"vectors {vectors.shape}: they are all the same, so there is nothing to whiten.")
        return cls(mean.astype(np.float32), (directions[kept].T / spread[kept]).astype(np.float32))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, d) float32."""
        return (vectors - self.mean) @ self.matrix


@dataclass(frozen=True)
class Projection:
    """A linear map that was learned from labels: rows of one label come closer together, and labels further apart. mean: (D,), matrix: (D, d).

    Directions in which rows of one label differ are shrunk (the within-class covariance becomes the identity), and of what is left those are kept in
    which the labels' means differ most. Source: Rao 1948, multiple discriminant analysis; Hatch and Stolcke 2006, "Generalized linear kernels for
    one-versus-all classification", section 3, for within-class whitening before a cosine; shrunken as in Friedman 1989, equation 18.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: Sequence[Any], dimensions: int | None = None, *, shrinkage: float = SHRINKAGE) -> Projection:
        """Learned from vectors (N, D) and N labels; what should be found together (a question and its answer, say) has one label.

        dimensions: so many of the best; None: one fewer than there are labels, which is all that tells their means apart, or D if that is less.
        Raises: OptionError where nothing can be learned: fewer than two labels, or none with two rows; dimensions or shrinkage out of range.
        """
        vectors = np.asarray(vectors, dtype=np.float64)
        names, ids, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        if vectors.ndim != 2 or len(vectors) != len(ids) or not np.isfinite(vectors).all():
            raise OptionError(f"vectors {vectors.shape} and {len(ids)} labels: give one finite vector (D,) a label.")
        if len(names) < 2 or counts.max() < 2:
            raise OptionError(
                f"{len(names)} labels, the largest of {counts.max(initial=0)} rows: give two labels at least, and several rows of each."
            )
        between("dimensions", dimensions or 1, 1, vectors.shape[1])
        between("shrinkage", shrinkage, 1e-6, 1.0)
        mean, centres = vectors.mean(0), np.zeros((len(names), vectors.shape[1]))
        np.add.at(centres, ids, vectors)
        centres /= counts[:, None]
        inner = vectors - centres[ids]
        within = inner.T @ inner / len(vectors)
        average = float(np.trace(within)) / len(within)
        if average <= 0:
            raise OptionError(f"vectors {vectors.shape}: all rows of a label are the same, so what should not count is not to be seen.")
        spread, directions = np.linalg.eigh((1 - shrinkage) * within + shrinkage * average * np.eye(len(within)))
        whitener = directions / np.sqrt(spread)
        _, _, best = np.linalg.svd(np.sqrt(counts / len(vectors))[:, None] * ((centres - mean) @ whitener), full_matrices=True)
        kept = best[: dimensions or min(len(names) - 1, len(within))]
        return cls(mean.astype(np.float32), (whitener @ kept.T).astype(np.float32))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, d) float32."""
        return (vectors - self.mean) @ self.matrix


class Index:
    """Vectors (N, D) float32 by id.

    width: D; metric: "cosine" or "dot" (the inner product); whitening: applied to what is added and to queries, and so is a `Projection` in its place
    made_by: what the vectors come from (the id of a trunk, the name of a branch); `load` can insist on it

    >>> index = Index(2)
    >>> index.add(["east", "north"], np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> index.search(np.array([[2.0, 0.0]]), 1)
    [[('east', 1.0)]]
    """

    def __init__(self, width: int, *, metric: str = "cosine", whitening: Whitening | Projection | None = None, made_by: str = "") -> None:
        one_of("metric", metric, METRICS)
        if whitening is not None and len(whitening.mean) != width:
            raise OptionError(f"width={width}: the {_map_name(whitening)} was learned from vectors of width {len(whitening.mean)}.")
        self.width, self.metric, self.whitening, self.made_by = width, metric, whitening, made_by
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors = np.empty((0, width if whitening is None else whitening.matrix.shape[1]), dtype=np.float32)
        self._lists: Any = None  # FAISS's, over the first so many rows; made when a search needs it
        self._centres: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    @property
    def ids(self) -> list[str]:
        """The ids, in the order in which they came."""
        return list(self._ids)

    def add(self, ids: Sequence[str], vectors: Any) -> None:
        """Put vectors (N, D) in. An id that is there already gets the new one. Many at once cost less than one by one.

        Raises: OptionError for another width, a number that is not finite, an id that is no string or is given twice.
        """
        ready = self._ready(vectors, "vectors")
        if len(ids) != len(ready):
            raise OptionError(f"{len(ids)} ids came with {len(ready)} vectors: one each is needed.")
        if odd := [name for name in ids if not isinstance(name, str)]:
            raise OptionError(f"id {odd[0]!r} is a {type(odd[0]).__name__}: ids are strings.")
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if list(ids).count(name) > 1)
            raise OptionError(f"id {twice!r} is given twice. Give each id once.")
        self.remove([name for name in ids if name in self._rows])
        self._rows |= {name: len(self._ids) + at for at, name in enumerate(ids)}
        self._ids += ids
        self._vectors = np.concatenate([self._vectors, ready])

    def remove(self, ids: Iterable[str]) -> int:
        """Take rows out; gives how many were there."""
        gone = {name for name in ids if name in self._rows}
        if gone:
            kept = [at for at, name in enumerate(self._ids) if name not in gone]
            self._vectors, self._ids = self._vectors[kept], [self._ids[at] for at in kept]
            self._rows = {name: at for at, name in enumerate(self._ids)}
            self._lists = None
        return len(gone)

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """(N, D) float32: the vectors as they are compared (whitened; of length 1 with cosine). Raises: OptionError for an unknown id."""
        return self._vectors[self._places(ids)]

    def search(self, queries: Any, k: int = 10, *, among: Iterable[str] | None = None, without: Iterable[str] = ()) -> list[list[Hit]]:
        """The `k` nearest of each query (Q, D), best first; of equals the one that came first. Fewer where there are fewer.

        among: only these ids; without: not these (ids that are not there are no error)
        Raises: OptionError for another width or a k below 1; MissingExtra from 50,000 rows on without FAISS.
        """
        between("k", k, 1, 1_000_000)
        ready = self._ready(queries, "queries")
        rows = self._chosen(among, without)
        searched = len(self) if rows is None else len(rows)
        if searched < EXACT_BELOW:
            return self._exact(ready, k, rows)
        return self._through_lists(ready, min(k, searched), rows)

    def save(self, folder: str | Path) -> Path:
        """Write the index, all at once, in place of one that was there."""
        names = [name.encode("utf-8", "surrogatepass") for name in self._ids]
        tensors = {
            "vectors": self._vectors,
            "ids": np.frombuffer(b"".join(names), dtype=np.uint8),
            "ends": np.cumsum([len(name) for name in names], dtype=np.int64),
        }
        if self.whitening is not None:
            tensors |= {"mean": self.whitening.mean, "matrix": self.whitening.matrix}
        if self._centres is not None:
            tensors["centres"] = self._centres
        about = {"kind": KIND, "metric": self.metric, "width": self.width, "made_by": self.made_by, "map": _map_name(self.whitening)}
        data = safetensors.numpy.save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
        storage.write_folder(Path(folder), {_FILE: data}, about)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, *, made_by: str | None = None) -> Index:
        """An index from its folder. made_by: what its vectors must come from; None takes any.

        Raises: ArtefactError when the folder is damaged or no index, or its vectors come from something else (both are named).
        """
        files, about = storage.map_folder(Path(folder), KIND)
        if made_by is not None and about.get("made_by") != made_by:
            raise ArtefactError(f"{folder}: its vectors were made by {about.get('made_by')!r}, and {made_by!r} is asked for. Make it anew.")
        try:
            tensors = _tensors(files[_FILE], str(Path(folder) / _FILE))
            learned = _MAPS[about.get("map", "whitening")](tensors["mean"], tensors["matrix"]) if "mean" in tensors else None
            index = cls(about["width"], metric=about["metric"], whitening=learned, made_by=about["made_by"])
            index._fill(tensors)
        except (OptionError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{folder}: not an index that this Trunkline reads ({error}). Make it anew.") from error
        return index

    def _fill(self, tensors: dict[str, np.ndarray]) -> None:
        """Take over what was saved. Raises: ValueError where its parts do not fit each other."""
        vectors, ends, data = tensors["vectors"], tensors["ends"].tolist(), tensors["ids"].tobytes()
        names = [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip([0, *ends], ends)]
        shape = (len(names), self._vectors.shape[1])
        if vectors.shape != shape or vectors.dtype != np.float32 or not _finite(vectors):
            raise ValueError(f"vectors {vectors.shape} {vectors.dtype}, and {shape} finite float32 are due")
        if len(set(names)) < len(names) or (ends[-1] if ends else 0) != len(data):
            raise ValueError("an id stands there twice, or not whole")
        self._ids, self._rows, self._vectors = names, {name: at for at, name in enumerate(names)}, vectors
        self._centres = tensors.get("centres")

    def _ready(self, vectors: Any, what: str) -> np.ndarray:
        """(N, d) float32 as they are compared: checked, whitened, of length 1 with cosine (a vector of zeros stays that)."""
        found = np.asarray(vectors, dtype=np.float32)
        if found.ndim != 2 or found.shape[1] != self.width:
            raise OptionError(f"{what} {found.shape}: this index holds vectors of width {self.width}. Use (N, {self.width}).")
        if not np.isfinite(found).all():
            raise OptionError(f"{what} {found.shape}: some numbers are NaN or infinite. Look at what made them.")
        if self.whitening is not None:
            found = self.whitening(found)
        if self.metric == "cosine":
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(found, dtype=np.float32)

    def _places(self, ids: Iterable[str]) -> np.ndarray:
        wanted = list(ids)
        for name in wanted:
            if name not in self._rows:
                raise unknown("id", name, self._rows)
        return np.array([self._rows[name] for name in wanted], dtype=np.int64)

    def _chosen(self, among: Iterable[str] | None, without: Iterable[str]) -> np.ndarray | None:
        """The rows to search in, in their order; None for all."""
        out = {self._rows[name] for name in without if name in self._rows}
        if among is None and not out:
            return None
        inside = range(len(self)) if among is None else sorted({self._rows[name] for name in among if name in self._rows})
        return np.array([row for row in inside if row not in out], dtype=np.int64)

    def _exact(self, queries: np.ndarray, k: int, rows: np.ndarray | None) -> list[list[Hit]]:
        searched = self._vectors if rows is None else self._vectors[rows]
        if not len(searched):
            return [[] for _ in queries]
        found, block = [], max(1, _CELLS // len(searched))
        for start in range(0, len(queries), block):
            for scores in queries[start : start + block] @ searched.T:
                best = _best(scores, k)
                places = best if rows is None else rows[best]
                found.append([(self._ids[at], float(score)) for at, score in zip(places.tolist(), scores[best])])
        return found

    def _through_lists(self, queries: np.ndarray, k: int, rows: np.ndarray | None) -> list[list[Hit]]:
        """From FAISS's lists; a query for which those that were looked into do not hold k rows is searched exactly."""
        faiss, lists = self._listed()
        inside = np.zeros(len(self), dtype=bool)
        inside[rows if rows is not None else slice(None)] = True
        bits = np.packbits(inside, bitorder="little")  # FAISS keeps its address, so it has a name until the search is over
        selector = None if rows is None else faiss.IDSelectorBitmap(bits)
        probed = max(1, round(PROBED * lists.nlist))
        scores, places = lists.search(queries, k, params=faiss.SearchParametersIVF(nprobe=probed, sel=selector))
        found: list[list[Hit]] = []
        for query, near, values in zip(queries, places, scores):
            if (near < 0).any():
                found += self._exact(query[None], k, rows)
                continue
            order = np.lexsort((near, -values))
            found.append([(self._ids[at], float(score)) for at, score in zip(near[order].tolist(), values[order])])
        return found

    def _listed(self) -> tuple[Any, Any]:
        """FAISS and its lists over all rows: about sqrt(N) of them, centres learned once and again when there are four times the rows."""
        if importlib.util.find_spec("faiss") is None:
            raise MissingExtra("faiss-cpu", "retrieval", f"Searching {len(self):,} rows (from {EXACT_BELOW:,} on)")
        import faiss

        count, width = round(len(self) ** 0.5), self._vectors.shape[1]
        if self._centres is None or 2 * len(self._centres) < count:
            learned = faiss.Kmeans(width, count, spherical=self.metric == "cosine", niter=10, seed=1234, max_points_per_centroid=64)
            learned.train(self._vectors)
            self._centres, self._lists = np.asarray(learned.centroids, dtype=np.float32).reshape(count, width), None
        centres = self._centres
        if self._lists is None:
            quantizer = faiss.IndexFlatIP(width)
            quantizer.add(centres)
            self._lists = faiss.IndexIVFFlat(quantizer, width, len(centres), faiss.METRIC_INNER_PRODUCT)
            self._lists.is_trained = True
        if self._lists.ntotal < len(self):
            self._lists.add(self._vectors[self._lists.ntotal :])
        return faiss, self._lists


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest of scores (N,), largest first, of equals the first."""
    if k < len(scores):
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= edge)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:k]


_MAPS: dict[str, type[Whitening] | type[Projection]] = {"whitening": Whitening, "projection": Projection}


def _map_name(learned: Whitening | Projection | None) -> str:
    return "projection" if isinstance(learned, Projection) else "whitening"


def _tensors(data: mmap.mmap, where: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only views of its map. Raises: ValueError, KeyError or TypeError for another form."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = storage.from_json(data[8:start], where)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = _TYPES[entry["dtype"]]
            found[name] = np.frombuffer(data, kind, (end - begin) // kind.itemsize, start + begin).reshape(entry["shape"])
    return found


def _finite(vectors: np.ndarray) -> bool:
    """Whether all numbers are, a block of rows at a time: a mask of a large index would be a quarter of its size."""
    return all(bool(np.isfinite(vectors[at : at + _BLOCK]).all()) for at in range(0, len(vectors), _BLOCK))

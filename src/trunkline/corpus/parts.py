"""The work folder of `clean`: a part for each chunk that was judged, whole or absent, so that a run goes on where it was killed.

A part is three files: `N.jsonl` (the documents that are still kept), `N.safetensors` (their digests, the keys of their bands, where each
begins) and, written last, `N.json` (the counts). A part without its counts is made again. `Parts` reads all of them as one list of
documents for `duplicates`, with nothing in memory but their number.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from trunkline import storage
from trunkline.corpus.files import Chunk
from trunkline.corpus.judge import Judge, Judged
from trunkline.corpus.minhash import Sketch, digest, folded
from trunkline.corpus.settings import CleanSettings
from trunkline.errors import ArtefactError

_SHOWN = 500  # characters of a sample
_OPEN = 32  # files that are held open


@dataclass
class Counts:
    """What was counted over some documents. samples: by reason, (number by chance, file, place, text): the least numbers are kept."""

    read: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[list[Any]]] = field(default_factory=dict)

    def add(self, other: Counts, most: int) -> None:
        """Add the counts of other documents, and keep the `most` samples of each reason that chance put first."""
        self.read, self.characters = self.read + other.read, self.characters + other.characters
        for name in ("dropped", "done", "languages", "files"):
            getattr(self, name).update(getattr(other, name))
        for reason, samples in other.samples.items():
            self.samples[reason] = heapq.nsmallest(most, [*self.samples.get(reason, []), *samples])

    def sample(self, reason: str, file: int, place: int, text: str, most: int) -> None:
        """Keep a document to look at, if chance (a hash of where it stands) says so."""
        number = int.from_bytes(digest(f"{reason} {file} {place}".encode())[:6], "big")
        kept = self.samples.setdefault(reason, [])
        kept.append([number, file, place, text[:_SHOWN]])
        if len(kept) > 4 * most + 16:
            kept[:] = heapq.nsmallest(most, kept)


def judge_chunk(folder: Path, settings: CleanSettings, judge: Judge, chunk: Chunk) -> None:
    """Judge the documents of a chunk and write their part."""
    counts, lines, texts = Counts(read=len(chunk.entries)), [], []
    counts.files[str(chunk.file)] = len(chunk.entries)
    for place, content in chunk.entries:
        found = judge(chunk.form, content)
        _count(counts, found, chunk.file, place, settings.samples)
        if found.reason is None:
            lines.append(
                json.dumps([chunk.file, place, found.record], ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
            )
            texts.append(folded(found.text))
    arrays = {
        "keys": Sketch(seed=settings.seed).keys_of(texts),
        "digests": np.frombuffer(b"".join(map(digest, texts)), dtype="<u8").reshape(-1, 2),
        "offsets": np.cumsum([0, *map(len, lines)], dtype=np.int64),
    }
    name = f"{chunk.number:06d}"
    storage.write_file(folder / f"{name}.jsonl", b"".join(lines))
    storage.write_file(folder / f"{name}.safetensors", safetensors.numpy.save(arrays))
    storage.write_file(folder / f"{name}.json", storage.to_json(vars(counts) | {"kept": len(lines)}))


def read_counts(folder: Path, number: int) -> tuple[Counts, int] | None:
    """The counts of a part and how many documents it keeps, or None where it was not finished."""
    path = folder / f"{number:06d}.json"
    if not path.is_file():
        return None
    found = storage.from_json(path.read_bytes(), str(path))
    kept = found.pop("kept")
    for name in ("dropped", "done", "languages", "files"):
        found[name] = Counter(found[name])
    return Counts(**found), kept


class Parts:
    """The documents of all parts, in order, as `duplicates` reads them."""

    def __init__(self, folder: Path, sizes: list[int], settings: CleanSettings) -> None:
        self.folder, self.sketch, self._text = folder, Sketch(seed=settings.seed), settings.text
        self.starts = np.cumsum([0, *sizes])
        self._opened: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    def digests(self) -> Iterator[np.ndarray]:
        for number in range(self.count):
            with self._arrays(number) as arrays:
                yield arrays.get_tensor("digests")

    def keys(self, band: int) -> Iterator[np.ndarray]:
        for number in range(self.count):
            with self._arrays(number) as arrays:
                yield arrays.get_slice("keys")[band]

    def folded(self, index: int) -> bytes:
        return folded(self.document(index)[2][self._text])

    def document(self, index: int) -> tuple[int, int, dict[str, Any]]:
        """The file, the place in it, and the record of one document."""
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        descriptor, offsets = self._opened.get(number) or self._open(number)
        at = index - int(self.starts[number])
        line = os.pread(descriptor, int(offsets[at + 1] - offsets[at]), int(offsets[at]))
        place, row, record = json.loads(line)
        return place, row, record

    def part(self, number: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The documents of one part."""
        with self._path(number, "jsonl").open("rb") as lines:
            for line in lines:
                place, row, record = json.loads(line)
                yield place, row, record

    def close(self) -> None:
        """Close the files that are held open."""
        for descriptor, _ in self._opened.values():
            os.close(descriptor)
        self._opened.clear()

    def _open(self, number: int) -> tuple[int, np.ndarray]:
        if len(self._opened) >= _OPEN:
            self.close()
        with self._arrays(number) as arrays:
            offsets = arrays.get_tensor("offsets")
        self._opened[number] = os.open(self._path(number, "jsonl"), os.O_RDONLY), offsets
        return self._opened[number]

    def _arrays(self, number: int) -> Any:
        path = self._path(number, "safetensors")
        try:
            return safe_open(path, "numpy")
        except Exception as error:
            raise ArtefactError(f"{path}: damaged ({error}). Delete {self.folder} and run the same command again.") from error

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"


def _count(counts: Counts, found: Judged, file: int, place: int, samples: int) -> None:
    counts.characters += len(found.text)
    counts.done.update(found.done)
    if found.language:
        counts.languages[found.language] += 1
    if found.reason:
        counts.dropped[found.reason] += 1
        counts.sample(found.reason, file, place, found.text, samples)

"""Large files of documents, in chunks that are small in memory: plain text, JSON Lines, Parquet, each also with .gz or .zst.

A chunk is decided by the files alone, so it is the same for any number of workers and after any interruption. Texts are decoded and
JSON is read later, by the workers: a chunk carries bytes, or the records of Parquet.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from trunkline.errors import DataError

ENDINGS = (".txt", ".jsonl", ".ndjson", ".parquet")
PACKED = (".gz", ".zst")
LARGEST = 8 << 20
"""Bytes of one document; a larger one is dropped, and its reason is "too_large"."""
_CHUNK_BYTES = 4 << 20
_CHUNK_DOCUMENTS = 20_000
_PARQUET_ROWS = 512

Entry = tuple[int, Any]
"""The line (from 1) or row of a document, and its bytes, or its record, or None where it is too large."""


@dataclass(frozen=True)
class Chunk:
    """Some documents of one file. number: from 0, over all files; form: "txt", "json" or "record"."""

    number: int
    file: int
    form: str
    entries: list[Entry]


def form_of(path: Path) -> str:
    """What a file is by its ending. Raises: DataError for an unknown one, or a file that is not there or is empty."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")
    if ending not in ENDINGS or (ending == ".parquet" and suffixes[-1] in PACKED):
        raise DataError(
            f"{path}: the ending {''.join(suffixes)!r} is not known. Allowed: {', '.join(ENDINGS)}; all but Parquet also with .gz or .zst."
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file. Look at the path.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty. Take it out of the list.")
    return {".txt": "txt", ".parquet": "record"}.get(ending, "json")


def chunks(paths: Sequence[Path], divide: str) -> Iterator[Chunk]:
    """The documents of all files in order. `divide`: "paragraph", "line" or "file", for plain text."""
    number = 0
    for file, path in enumerate(paths):
        form = form_of(path)
        try:
            with closing(_entries(path, form, divide)) as entries:
                for some in _together(entries):
                    yield Chunk(number, file, form, some)
                    number += 1
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise DataError(f"{path}: is damaged or cannot be read ({error}). Get it again, or take it out of the list.") from error


def _together(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    held: list[Entry] = []
    size = 0
    for entry in entries:
        held.append(entry)
        size += len(entry[1]) if isinstance(entry[1], bytes) else sum(len(v) for v in (entry[1] or {}).values() if isinstance(v, str))
        if size >= _CHUNK_BYTES or len(held) >= _CHUNK_DOCUMENTS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _entries(path: Path, form: str, divide: str) -> Generator[Entry, None, None]:
    if form == "record":
        yield from _records(path)
        return
    with _opened(path) as stream:
        lines = _lines(stream)
        if form == "json" or divide == "line":
            yield from ((number, line) for number, line in lines if line is None or line.strip())
        else:
            yield from _blocks(lines, whole=divide == "file")


def _opened(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return pa.input_stream(path, compression="zstd", buffer_size=1 << 20) if suffix == ".zst" else path.open("rb")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one over LARGEST bytes, which is read past and never held."""
    number, rest = 0, b""
    while True:
        piece = stream.read(1 << 20)
        if not piece and not rest:
            return
        parts = (rest + piece).split(b"\n")
        rest = parts.pop() if piece else b""
        for line in parts:
            number += 1
            yield number, None if len(line) > LARGEST else line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if len(rest) > LARGEST:
            number += 1
            yield number, None
            rest = _past_the_line(stream)


def _past_the_line(stream: BinaryIO) -> bytes:
    """Read on to the end of the line; gives what was read of the next one."""
    while piece := stream.read(1 << 20):
        _, end, rest = piece.partition(b"\n")
        if end:
            return rest
    return b""


def _blocks(lines: Iterable[tuple[int, bytes | None]], *, whole: bool) -> Iterator[Entry]:
    """The lines of each document with the number of its first; None for one over LARGEST bytes."""
    held: list[bytes] = []
    start = size = 0
    for number, line in lines:
        if line is not None and not line.strip() and not whole:
            if size:
                yield start, b"\n".join(held) if size <= LARGEST else None
            held, size = [], 0
            continue
        start = start if size else number
        size += LARGEST + 1 if line is None else len(line) + 1
        if size <= LARGEST and line is not None:
            held.append(line)
    if size:
        yield start, b"\n".join(held) if size <= LARGEST else None


def _records(path: Path) -> Iterator[Entry]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield number, record

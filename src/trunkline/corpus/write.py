"""What is kept, written in files of a size that is easy to handle, each whole or absent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trunkline import storage

_FILE_BYTES = 64 << 20  # of text, before it is packed


def write(folder: Path, records: Iterable[tuple[dict[str, Any], int]], form: str, text: str) -> list[dict[str, Any]]:
    """Write records (each with its size in bytes) to data-00000.FORM and so on. Gives name, documents, bytes and SHA-256 of each."""
    written: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    size = 0
    for record, length in records:
        held.append(record)
        size += length
        if size >= _FILE_BYTES:
            written.append(_file(folder, len(written), held, form, text))
            held, size = [], 0
    if held:
        written.append(_file(folder, len(written), held, form, text))
    return written


def _file(folder: Path, number: int, records: list[dict[str, Any]], form: str, text: str) -> dict[str, Any]:
    data = _FORMS[form](records, text)
    name = f"data-{number:05d}.{form}"
    storage.write_file(folder / name, data)
    return {"name": name, "documents": len(records), "bytes": len(data), "sha256": storage.sha256(data)}


def _lines(records: list[dict[str, Any]], text: str) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for record in records)


def _packed(records: list[dict[str, Any]], text: str) -> bytes:
    return gzip.compress(_lines(records, text), 6, mtime=0)  # without the time of day: the same documents, the same bytes


def _zstd(records: list[dict[str, Any]], text: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(_lines(records, text))
    return bytes(sink.getvalue())


def _parquet(records: list[dict[str, Any]], text: str) -> bytes:
    """All columns as strings but for whole numbers, so that every file has one form, whatever values it happens to hold."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [None if record.get(name) is None else _cell(record[name]) for record in records] for name in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), sink, compression="zstd")
    return bytes(sink.getvalue())


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(records: list[dict[str, Any]], text: str) -> bytes:
    return "".join(f"{record[text]}\n\n" for record in records).encode()


_FORMS: dict[str, Callable[[list[dict[str, Any]], str], bytes]] = {
    "jsonl": _lines, "jsonl.gz": _packed, "jsonl.zst": _zstd, "parquet": _parquet, "txt": _plain,
}  # fmt: skip

"""A source, whatever its form, as a `Table`: the name's ending says which reader, one line of a table per ending.

CSV and kin are in `delimited`, Python objects in `table`; JSON, JSON Lines, Parquet and folders of `datasets` are here.
"""

from __future__ import annotations

import difflib
import importlib.util
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.data.decode import Encoding, find_encoding, open_text, read_bytes
from trunkline.data.delimited import MAX_CELL, MAX_LINE, read_delimited
from trunkline.data.table import Records, Table, from_dataset, from_objects
from trunkline.errors import DataError, MissingExtra
from trunkline.storage import from_json
from trunkline.types import Problem

DELIMITED = (".csv", ".tsv", ".txt")
FORMS = (*DELIMITED, ".json", ".jsonl", ".ndjson", ".parquet")
_MAX_JSON = 64 << 20
_MAX_PARQUET = 1 << 30
_MAX_ROWS = 20_000_000
_ROWS_AT_ONCE = 256  # of Parquet, so that a page of long texts stays small in memory


@dataclass(frozen=True)
class Form:
    """How a file is written, as far as the caller told: None is found out. alone: one column, of texts, is enough."""

    encoding: str | None = None
    header: bool = True
    separator: str | None = None
    alone: bool = False


def open_table(source: Any, form: Form) -> Table:
    """The table of a path or of a Python object. Raises: DataError, OptionError or MissingExtra, each with what to do."""
    if not isinstance(source, str | os.PathLike):
        return from_objects(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise DataError(f"{path}: " + ("is no plain file." if path.exists() else f"no such file.{_near(path)}"))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:]
    if not suffix or suffix[0] not in FORMS:
        hint = " Save the sheet as 'CSV UTF-8'." if suffix and suffix[0].startswith(".xls") else ""
        raise DataError(f"{path}: the ending {''.join(suffix)!r} is not known.{hint} Allowed: {', '.join(FORMS)}, each also with .gz.")
    if suffix[0] == ".parquet":
        return _parquet(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty. Give one with at least two rows per class.")
    encoding = find_encoding(path, form.encoding)
    if suffix[0] in DELIMITED:
        table = read_delimited(path, suffix[0], encoding, header=form.header, separator=form.separator, alone=form.alone)
    else:
        table = _json(path, encoding, suffix[0] != ".json")
    table.notes[:0] = [encoding.note] if encoding.note else []
    return table


def _near(path: Path) -> str:
    there = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    return f" Did you mean {str(path.with_name(near[0]))!r}?" if near else " Look at the path."


def _json(path: Path, encoding: Encoding, lines: bool) -> Table:
    """One JSON value with a list of objects, or one object per line: known by how it starts, for names are often wrong."""
    with open_text(path, encoding) as stream:
        full = (line for line in iter(lambda: stream.readline(MAX_LINE), "") if line.strip())
        first, more = next(full, "").lstrip(), next(full, "")
    if not first:
        raise DataError(f"{path}: the file holds no JSON. Write a list of objects, or one object per line.")
    if first[0] != "[" and (lines or (more and _is_object(first))):
        return Table(str(path), (), _json_lines(path, encoding))
    return _json_whole(path, encoding)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(path: Path, encoding: Encoding) -> Records:
    number = 0
    with open_text(path, encoding) as stream:
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and line[-1] not in "\r\n":
                yield Problem(str(path), number, line[:200], f"the line is longer than {MAX_LINE:,} characters")
                while line and line[-1] not in "\r\n":
                    line = stream.readline(MAX_LINE)
            elif line.strip():
                yield _object(path, number, line)


def _object(path: Path, number: int, line: str) -> tuple[int, dict[str, Any]] | Problem:
    try:
        value = from_json(line.encode(), "the line")
    except ValueError as error:
        return Problem(str(path), number, line.strip()[:200], f"is not JSON ({error})")
    if isinstance(value, dict):
        return number, value
    return Problem(str(path), number, line.strip()[:200], f"is a JSON {type(value).__name__}, not an object")


def _json_whole(path: Path, encoding: Encoding) -> Table:
    text = read_bytes(path, _MAX_JSON)[encoding.mark :].decode(encoding.name)
    try:
        value = from_json(text.encode(), str(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: is not JSON: {error.msg} (column {error.colno}). Repair it, or write one object per line."
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON that is read here: {error}.".replace(f"{path}: {path}", f"{path}")) from error
    rows, note = value, []
    if isinstance(value, dict):
        lists = [key for key, rows in value.items() if isinstance(rows, list) and any(isinstance(row, dict) for row in rows)]
        if len(lists) != 1:
            raise DataError(
                f"{path}: the file is one object, and {len(lists)} of its values ({', '.join(value)[:200]}) are lists of objects. "
                'Write a list of objects, or {"data": [...]}.'
            )
        rows, note = value[lists[0]], [f"Rows are the list under {lists[0]!r}."] if lists[0] != "data" else []
    if not isinstance(rows, list):
        raise DataError(f"{path}: the file is a JSON {type(rows).__name__}. Write a list of objects, or one object per line.")
    return Table(str(path), (), _elements(path, rows, text), notes=note)


def _elements(path: Path, rows: list[Any], text: str) -> Records:
    for row, line in zip(rows, _lines_of_elements(text)):
        if isinstance(row, dict):
            yield line, row
        else:
            yield Problem(str(path), line, str(row)[:200], f"is a JSON {type(row).__name__}, not an object")


def _lines_of_elements(text: str) -> Iterator[int]:
    """The line on which each element of the one list of rows starts. The text is known to be sound JSON by now."""
    decode, at = json.JSONDecoder().raw_decode, 0

    def skip(place: int, extra: str = "") -> int:
        while text[place] in " \t\r\n" + extra:
            place += 1
        return place

    at = skip(0)
    if text[at] == "{":  # walk over the names and values before the list
        while True:
            _, at = decode(text, skip(at, "{,"))
            at = skip(at, ":")
            if text[at] == "[" and text[skip(at + 1)] == "{":
                break
            _, at = decode(text, at)
    at, line, counted = skip(at + 1), 1, 0
    while text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        yield line
        _, at = decode(text, at)
        at = skip(at, ",")


def _parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        packed = path.suffix.lower() == ".gz"
        file = pq.ParquetFile(io.BytesIO(read_bytes(path, _MAX_PARQUET)) if packed else path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        classes = _classes(schema.metadata or {})
        odd = (pa.types.is_map, pa.types.is_binary, pa.types.is_large_binary)

        def usable(kind: Any) -> bool:  # of structs only those of lists: so `datasets` keeps the answers to a question
            lists = pa.types.is_struct(kind) and all(pa.types.is_list(inner.type) for inner in kind)
            return lists or not (pa.types.is_struct(kind) or any(is_so(kind) for is_so in odd))

        columns = tuple(field.name for field in schema if usable(field.type))
        _refuse_huge_cells(path, file.metadata)
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes the library raise
        raise DataError(f"{path}: cannot be read as Parquet ({_short(error)}). Copy the file again.") from error
    if rows > _MAX_ROWS:
        raise DataError(f"{path}: {rows:,} rows; at most {_MAX_ROWS:,} are read. Give a part of them.")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: a column name stands there twice ({', '.join(columns)[:200]}). Rename one.")
    return Table(str(path), columns, _parquet_rows(path, file, columns), classes=classes)


def _refuse_huge_cells(path: Path, metadata: Any) -> None:
    """Raises: DataError where the sizes that the file itself gives are past the limits, before anything is decompressed.

    Looks at row groups only: for a damaged file, pyarrow's view of a single column can end the whole process (seen in 26.0).
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size, cells = group.total_byte_size, max(1, group.num_rows) * group.num_columns
        if size > MAX_CELL * cells:
            raise DataError(
                f"{path}: {size:,} bytes in {cells:,} cells; at most {MAX_CELL:,} per cell are read. "
                "Take columns of pictures or other data out, and cut long texts."
            )


def _parquet_rows(path: Path, file: Any, columns: tuple[str, ...]) -> Records:
    number = 0
    with closing(file):
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except Exception as error:  # as above: damage deeper in the file
            raise DataError(f"{path}: damaged Parquet after row {number:,} ({_short(error)}). Copy the file again.") from error


def _classes(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Names of class ids that Hugging Face `datasets` leaves in the metadata of a Parquet file."""
    if b"huggingface" not in metadata:
        return {}
    features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[column] = tuple(map(str, inner["names"]))
    return found


def _folder(path: Path) -> Table:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if p.is_dir())
        raise DataError(f"{path}: holds several data sets. Give one of them: {', '.join(str(path / s) for s in splits)}.")
    if not (path / "state.json").is_file():
        raise DataError(f"{path}: is a folder, and none that `datasets` saved (it has no state.json). Give a file: {', '.join(FORMS)}.")
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtra("datasets", "datasets", f"Reading the folder {path}")
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes the library raise
        raise DataError(f"{path}: `datasets` cannot load this folder ({_short(error)}). Save it again.") from error
    return from_dataset(dataset, str(path))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

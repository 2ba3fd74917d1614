"""One shard of a states store: a safetensors file that is written once and then only read. Sits under `store`.

What a shard holds, for n texts with sum_T tokens in all and width D:

    states   (sum_T, D)  float32, float16 or int8       scales  (sum_T,) float32, with int8 only
    offsets  (n + 1,)    int64, first token of each     pooled  (n, D)   float32, mean over the tokens as stored
    keys     (n, 16)     uint8                          tokens  (sum_T,) int32
    types    (sum_T,)    int8 segment ids, -1 in a text that has none; left out where no text has any

and the trunk's id as metadata. The file's name carries the first 16 digits of its SHA-256. Its bytes are those that the safetensors
library would write, which makes three copies of a shard on the way; it is read by a strict parser of our own, since random reads
through the library's slices are 30x slower.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trunkline.errors import StatesError
from trunkline.states.index import KEY_BYTES, as_keys
from trunkline.states.quantise import DTYPES, pack, pool, unpack
from trunkline.storage import from_json
from trunkline.types import Tokens

SHARD_NAME = re.compile(r"states-([0-9a-f]{16})\.safetensors")
_MAX_HEADER_BYTES = 1 << 20  # seven entries and one id need less than 1 kB
_NO_TYPES = -1
_NUMPY = {"I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "I8": "i1", "U8": "u1"}
"""In the order in which the library puts the sections in a file."""


class DamagedShardError(Exception):
    """A shard is not what it should be. `States` catches it: the rows count as missing."""


@dataclass(frozen=True)
class Entry:
    """A shard's line in the manifest."""

    name: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Part:
    """One text: its tokens, its states as stored (T, D), scales (T,) for int8, mean (D,)."""

    tokens: Tokens
    stored: np.ndarray
    scales: np.ndarray | None
    pooled: np.ndarray


@dataclass(frozen=True)
class _Section:
    """One array of the file: what it is, and the byte where it begins."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    at: int


class Draft:
    """A shard that is being filled. Rounds at once, so a full one takes no more memory than its file."""

    def __init__(self, trunk_id: str, width: int, dtype: str) -> None:
        self.trunk_id, self.width, self.dtype = trunk_id, width, dtype
        self.parts: list[_Part] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.parts)

    def add(self, tokens: Tokens, states: np.ndarray) -> None:
        """Take up the states (T, D) float32 of one text. Raises: StatesError for a wrong shape or values that cannot be stored."""
        if not len(tokens) or states.shape != (len(tokens), self.width):
            raise StatesError(
                f"A text of {len(tokens)} tokens came with states of shape {states.shape}: "
                f"({len(tokens)}, {self.width}) is needed, and at least one token."
            )
        stored, scales = pack(states, self.dtype)
        self.put(_Part(tokens, stored, scales, pool(unpack(stored, scales))))

    def put(self, part: _Part) -> None:
        """Take up a text that is rounded already."""
        self.parts.append(part)
        self.bytes += part.stored.nbytes + (0 if part.scales is None else part.scales.nbytes)

    def without(self, skip: Iterable[bool]) -> Draft:
        """The draft less the texts for which `skip` is True."""
        left = Draft(self.trunk_id, self.width, self.dtype)
        for part, leave_out in zip(self.parts, skip, strict=True):
            if not leave_out:
                left.put(part)
        return left

    def keys(self) -> np.ndarray:
        """(n,) keys of the texts, as `KeyIndex` takes them."""
        return as_keys([part.tokens.key for part in self.parts])

    def to_file(self) -> tuple[Entry, list[memoryview]]:
        """The manifest line and the bytes of the finished shard, in pieces: the same texts in the same order give the same bytes."""
        lengths = [len(part.tokens) for part in self.parts]
        sections: dict[str, list[np.ndarray]] = {
            "states": [part.stored for part in self.parts],  # as they lie in memory, and not once more as one array
            "offsets": [np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)],
            "tokens": [np.concatenate([part.tokens.ids for part in self.parts]).astype(np.int32)],
            "keys": [self.keys().view(np.uint8).reshape(-1, KEY_BYTES)],
            "pooled": [np.stack([part.pooled for part in self.parts])],
        }
        if self.dtype == "int8":
            sections["scales"] = [np.concatenate([part.scales for part in self.parts if part.scales is not None])]
        if any(part.tokens.types is not None for part in self.parts):
            sections["types"] = [np.concatenate([_types_or_mark(part.tokens) for part in self.parts])]
        pieces, total, size = _pieces(sections, self.trunk_id), hashlib.sha256(), 0
        for piece in pieces:
            total.update(piece)
            size += piece.nbytes
        named = total.hexdigest()
        return Entry(f"states-{named[:16]}.safetensors", len(self), sum(lengths), size, named), pieces


class Shard:
    """A shard on disk, open and checked against its sum. Keys and offsets are in memory, all else stays in the file.

    Rows are fetched with `pread`, not through a memory map: a map's pages count as the process's own memory (on Linux 6.18
    one touched page brings in up to 2 MB around it), and a file that is cut while mapped kills the process that reads it.
    """

    def __init__(self, entry: Entry, trunk_id: str, descriptor: int, sections: dict[str, _Section]) -> None:
        self.entry, self.trunk_id = entry, trunk_id
        self._descriptor, self._sections = descriptor, sections
        self.dtype = _dtype_name(sections)
        self.width = sections["states"].shape[1]
        self._offsets = self._read("offsets")
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: Path, entry: Entry | None = None) -> Shard:
        """Open the file at `path` once its bytes are those of `entry` (or, without one, those that its name promises).

        Raises: DamagedShardError when it is absent or differs; StatesError when the system refuses to open it.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise DamagedShardError(f"{path.name}: is gone") from error
        except OSError as error:
            raise StatesError(
                f"{path}: could not be opened ({error.strerror or error}). "
                "Check its permissions, and that `ulimit -n` is above the number of files in its folder."
            ) from error
        try:  # opened once: what is read later is what is summed here
            total, size = _sum(descriptor), os.fstat(descriptor).st_size
            if not _is_promised(path.name, total, size, entry):
                raise DamagedShardError(f"{path.name}: its bytes are not those that were written")
            trunk_id, sections = _parse(descriptor, size, path.name)
            rows, tokens = sections["pooled"].shape[0], sections["states"].shape[0]
            return cls(entry or Entry(path.name, rows, tokens, size, total), trunk_id, descriptor, sections)
        except BaseException:
            os.close(descriptor)
            raise

    def keys(self) -> np.ndarray:
        """(n,) keys in the order of the rows."""
        return as_keys([self._read("keys").tobytes()])

    def read(self, row: int) -> np.ndarray:
        """(T, D) float32: the states of one text."""
        return unpack(*self._stored(row))

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) float32: the means of some texts."""
        found = np.empty((len(rows), self.width), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        for run in np.split(order, np.flatnonzero(np.diff(rows[order]) != 1) + 1):  # neighbours in one go
            if len(run):
                found[run] = self._read("pooled", int(rows[run[0]]), int(rows[run[-1]]) + 1)
        return found

    def draft(self, rows: Iterable[int]) -> Draft:
        """A new draft with some of the texts, bit for bit as they are stored here."""
        draft = Draft(self.trunk_id, self.width, self.dtype)
        for row in rows:
            draft.put(_Part(self._tokens(row), *self._stored(row), self._read("pooled", row, row + 1)[0]))
        return draft

    def _stored(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        scales = self._read("scales", start, end) if "scales" in self._sections else None
        return self._read("states", start, end), scales

    def _tokens(self, row: int) -> Tokens:
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        types = self._read("types", start, end) if "types" in self._sections else None
        return Tokens(self._read("tokens", start, end), None if types is None or types[0] == _NO_TYPES else types)

    def _read(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """The entries from `start` to `end` of a section, an array of its own."""
        section = self._sections[name]
        shape = ((section.shape[0] if end is None else end) - start, *section.shape[1:])
        found = np.empty(shape, dtype=section.dtype)
        step = section.dtype.itemsize * math.prod(section.shape[1:])
        if found.nbytes and _pread(self._descriptor, found, section.at + start * step) != found.nbytes:
            raise StatesError(f"{self.entry.name}: was cut while it was open. Open the store again; `encode` makes the lost rows anew.")
        return found


def _pieces(sections: dict[str, list[np.ndarray]], trunk_id: str) -> list[memoryview]:
    """A safetensors file of sections that may each lie in several arrays, one below the other. Source: the format's description."""
    formats = {np.dtype(name): known for known, name in _NUMPY.items()}
    header: dict[str, Any] = {"__metadata__": {"trunk": trunk_id}}
    pieces: list[memoryview] = []
    at = 0
    for name in sorted(sections, key=lambda name: (list(formats).index(sections[name][0].dtype), name)):
        arrays = sections[name]
        size = sum(array.nbytes for array in arrays)
        shape = [sum(map(len, arrays)), *arrays[0].shape[1:]]
        header[name] = {"dtype": formats[arrays[0].dtype], "shape": shape, "data_offsets": [at, at + size]}
        pieces += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


def _types_or_mark(tokens: Tokens) -> np.ndarray:
    return np.full(len(tokens), _NO_TYPES, dtype=np.int8) if tokens.types is None else tokens.types.astype(np.int8)


def _is_promised(name: str, total: str, size: int, entry: Entry | None) -> bool:
    if entry is not None:
        return (total, size) == (entry.sha256, entry.bytes)
    promised = SHARD_NAME.fullmatch(name)
    return promised is not None and total.startswith(promised[1])


def _sum(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pread(descriptor: int, found: np.ndarray, at: int) -> int:
    """Fill `found` from the file's byte `at` on; gives the number of bytes got (one call gives at most 2 GB)."""
    view, got = found.reshape(-1).view(np.uint8).data, 0
    while got < len(view):
        count = os.preadv(descriptor, [view[got:]], at + got)
        if not count:
            break
        got += count
    return got


def _parse(descriptor: int, size: int, name: str) -> tuple[str, dict[str, _Section]]:
    """The trunk id and the sections of a shard. Raises: DamagedShardError for any other form."""
    try:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"a header of {length:,} bytes")
        header = from_json(os.pread(descriptor, length, 8), name)
        trunk_id = header.pop("__metadata__")["trunk"]
        sections = _sections(header, 8 + length, size)
        _check_sections(sections)
        offsets = np.empty(sections["offsets"].shape, dtype="<i8")
        _pread(descriptor, offsets, sections["offsets"].at)
        if offsets[0] != 0 or offsets[-1] != sections["states"].shape[0] or (np.diff(offsets) < 1).any():
            raise ValueError("the offsets do not rise from 0 to the number of tokens")
        return trunk_id, sections
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedShardError(f"{name}: is not a shard of a states store ({error})") from error


def _sections(header: dict[str, Any], start: int, size: int) -> dict[str, _Section]:
    """Each section; they must follow one another without a gap up to the end of the file."""
    sections, at = {}, start
    for name, part in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        section = _Section(np.dtype(_NUMPY[part["dtype"]]), tuple(part["shape"]), at)
        end = at + section.dtype.itemsize * math.prod(section.shape)
        if min(section.shape) < 0 or part["data_offsets"] != [at - start, end - start]:
            raise ValueError(f"{name} lies at {part['data_offsets']}")
        sections[name], at = section, end
    if at != size:
        raise ValueError(f"{size - at} bytes too many")
    return sections


def _dtype_name(sections: dict[str, _Section]) -> str:
    return next((name for name, known in DTYPES.items() if known == sections["states"].dtype), "")


def _check_sections(sections: dict[str, _Section]) -> None:
    """Refuse sections that do not fit one another."""
    dtype, (tokens, width), (rows, _) = _dtype_name(sections), sections["states"].shape, sections["keys"].shape
    wanted = {
        "states": (DTYPES[dtype], (tokens, width)),
        "offsets": ("<i8", (rows + 1,)),
        "tokens": ("<i4", (tokens,)),
        "keys": ("u1", (rows, KEY_BYTES)),
        "pooled": ("<f4", (rows, width)),
    }
    wanted |= {"scales": ("<f4", (tokens,))} if dtype == "int8" else {}
    wanted |= {"types": ("i1", (tokens,))} if "types" in sections else {}
    if {name: (section.dtype, section.shape) for name, section in sections.items()} != wanted:
        raise ValueError("the sections do not fit one another")

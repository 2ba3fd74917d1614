"""From a file on disk to text: plain or gzip, size limits, and the encoding, found or told.

The lowest stage of reading; `delimited` and `formats` build on it. Bytes are decoded strictly or refused with a byte offset:
no U+FFFD is ever made here. How an untold encoding is found, in this order:

1. a byte order mark (UTF-8, UTF-16, UTF-32);
2. strict UTF-8 over the whole file;
3. mostly good UTF-8 with some broken bytes: refused, for it is damage and not another encoding;
4. GB18030, when it decodes strictly and what comes out looks like Chinese;
5. Latin-1 (cp1252 when 0x80 to 0x9F occur), when bytes over 0x7F are few, as in Western text;
6. otherwise refused: a person has to say `encoding=`.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from trunkline.errors import DataError, OptionError

MAX_BYTES = 2 << 30  # of a file after decompression
MAX_RATIO = 100  # decompressed : compressed, once the output is past _SMALL
_SMALL = 1 << 20
_PIECE = 1 << 20

_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_MAGIC = (
    (b"PK\x03\x04", "is a ZIP or Excel file. Save it as 'CSV UTF-8' and give that file"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel file. Save it as 'CSV UTF-8' and give that file"),
    (b"PAR1", "is a Parquet file. Give it a name that ends in .parquet"),
    (b"\x1f\x8b", "is a gzip file. Give it a name that ends in .gz, as in rows.csv.gz"),
    (b"%PDF", "is a PDF. Give a table: CSV, TSV, JSON, JSON Lines or Parquet"),
)
_COMMON = frozenset(
    "的一是不了有我在人这他来个们上到说就地出会也时要下你以生那里后子好看天多没还很可为什么吗呢吧啊和与及年月日，。！？、：；"
)


@dataclass(frozen=True)
class Encoding:
    """How a file is to be decoded: a strict codec, the length of its byte order mark, and a sentence when it is not plain UTF-8."""

    name: str
    mark: int = 0
    note: str = ""


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed when its name ends in .gz. Raises: DataError past the limits, or when gzip is damaged."""
    if path.suffix.lower() != ".gz":
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read. Give a part of it.")
        return path.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Gunzip(path), _PIECE))


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of a file (decompressed), at most `limit`. Raises: DataError when there are more."""
    with open_bytes(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: more than {limit:,} bytes, the most that is read of this form. Use JSON Lines, CSV or Parquet.")
    return data


def open_text(path: Path, encoding: Encoding) -> io.TextIOWrapper:
    """The text of a file, lines as they stand: their ends (\\n, \\r\\n, \\r) are kept. Close it."""
    file = open_bytes(path)
    file.read(encoding.mark)
    return io.TextIOWrapper(file, encoding.name, errors="strict", newline="")


def find_encoding(path: Path, told: str | None = None) -> Encoding:
    """The encoding that `told` names, or the one found, after the whole file was decoded with it once.

    Raises: DataError with the byte offset of the first byte that cannot be decoded; OptionError for an unknown name.
    """
    with open_bytes(path) as file:
        head = file.read(1 << 16)
    if told is not None:
        return _told(path, head, told)
    for magic, says in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path}: {says}.")
    for mark, name in _BOMS:
        if head.startswith(mark):
            found = Encoding(name, len(mark), "" if name == "utf-8" else f"Decoded as {name.upper()} (from its byte order mark).")
            _must_decode(path, found, "which its byte order mark promises")
            return found
    if head.count(0) * 10 > len(head):
        raise DataError(
            f"{path}: byte {head.index(0)}: {head.count(0):,} NUL bytes in the first {len(head):,}. This is a binary file, "
            "or UTF-16 without a byte order mark; for that give encoding='utf-16-le' or 'utf-16-be'."
        )
    bad = _first_bad(path, Encoding("utf-8"))
    return Encoding("utf-8") if bad is None else _guess(path, *bad)


def _told(path: Path, head: bytes, told: str) -> Encoding:
    try:
        name = codecs.lookup(told).name.removesuffix("-sig")
        io.TextIOWrapper(io.BytesIO(), name)  # refuses codecs that are not text, such as hex
    except (LookupError, ValueError) as error:
        raise OptionError(
            f"encoding={told!r}: not a known encoding. Common ones: utf-8, utf-16, gb18030, big5, shift_jis, cp1252, latin-1."
        ) from error
    found = Encoding(name)
    for mark, marked in _BOMS:
        if head.startswith(mark) and marked.startswith(name):
            found = Encoding(marked, len(mark))
            break
    _must_decode(path, found, "which encoding= told")
    return found


def _must_decode(path: Path, encoding: Encoding, why: str) -> None:
    bad = _first_bad(path, encoding)
    if bad is not None:
        raise DataError(
            f"{path}: byte {bad[0]:,} (0x{bad[1]:02x}) is not {encoding.name.upper()}, {why}. Repair it or give another encoding=."
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as file:
        while piece := file.read(_PIECE):
            yield piece


def _first_bad(path: Path, encoding: Encoding) -> tuple[int, int] | None:
    """Offset and value of the first byte that does not decode, or None when all do."""
    decoder = codecs.getincrementaldecoder(encoding.name)("strict")
    with open_bytes(path) as file:
        file.read(encoding.mark)
        start = encoding.mark
        while True:
            piece = file.read(_PIECE)
            held = decoder.getstate()[0]  # bytes of a character that the last piece cut in two
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                return start - len(held) + error.start, error.object[error.start]
            except UnicodeError:  # the few codecs that do not say where
                return start, (held + piece)[0]
            if not piece:
                return None
            start += len(piece)


def _guess(path: Path, offset: int, value: int) -> Encoding:
    sample = b"\n".join(_lines_over_7f(path))
    loose = sample.decode("utf-8", "surrogateescape")
    broken = sum("\udc80" <= char <= "\udcff" for char in loose)
    sound = sum(char > "\x7f" for char in loose) - broken
    where = f"{path}: byte {offset:,} (0x{value:02x})"
    if sound > broken:
        raise DataError(f"{where} is not UTF-8, although the rest looks like it: the file is damaged there. Repair that place.")
    says = "(it is not UTF-8; give encoding= if that is wrong)"
    if _is_chinese(sample) and _first_bad(path, Encoding("gb18030")) is None:
        return Encoding("gb18030", 0, f"Decoded as GB18030 {says}.")
    if _is_western(sample):
        name = "cp1252" if re.search(rb"[\x80-\x9f]", sample) else "latin-1"
        if _first_bad(path, Encoding(name)) is None:
            return Encoding(name, 0, f"Decoded as {name.capitalize()} {says}.")
    raise DataError(
        f"{where} is not UTF-8, and the text is no plausible GB18030 or Latin-1 either. "
        "Give encoding= (such as big5, shift_jis, euc_kr, cp1251), or save the file as UTF-8."
    )


def _lines_over_7f(path: Path) -> Iterator[bytes]:
    taken = 0
    for piece in _pieces(path):
        for line in re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", piece):
            yield line[:_PIECE]
            taken += len(line)
            if taken > _PIECE:
                return


def _is_chinese(sample: bytes) -> bool:
    """Whether GB18030 gives characters of GB 2312 for the most part, no kana, and the everyday ones among them."""
    text = [char for char in sample.decode("gb18030", "replace") if char > "\x7f"]
    everyday = sum(char in _COMMON for char in text)
    kana = sum("\u3040" <= char <= "\u30ff" for char in text)
    pairs = len(re.findall(rb"[\xa1-\xa3\xb0-\xf7][\xa1-\xfe]", sample))
    return pairs >= 0.8 * len(text) and kana <= 0.05 * len(text) and (everyday >= 0.05 * len(text) or len(text) < 30)


def _is_western(sample: bytes) -> bool:
    high = len(re.findall(rb"[\x80-\xff]", sample))
    control = re.search(rb"[\x00-\x08\x0e-\x1f]", sample)
    return not control and high <= 0.3 * len(re.sub(rb"\s", b"", sample))


class _Gunzip(io.RawIOBase):
    """A gzip file that stops at the size limits and turns zlib's errors into ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed = path.stat().st_size
        self._file = gzip.GzipFile(path, "rb")
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._path}: damaged gzip after {self._given:,} bytes of content ({error}). Copy the file again.") from error
        self._given += len(data)
        if self._given > MAX_BYTES or self._given > max(_SMALL, MAX_RATIO * self._packed):
            raise DataError(
                f"{self._path}: {self._packed:,} bytes of gzip hold more than {self._given:,}. At most {MAX_BYTES:,} bytes and "
                f"{MAX_RATIO} times the packed size are read. If this is right, decompress it first."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

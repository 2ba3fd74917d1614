"""Files that are whole or absent: atomic writes, folders with a manifest, verified reads.

Everything Trunkline leaves on disk goes through here. A write is: temporary name, fsync, rename, fsync of the folder
(Source: Pillai et al., OSDI 2014, on what file systems really promise). A folder carries `manifest.json` with the size and
SHA-256 of each file; what is read is what was hashed (one open), and an extra, missing or changed file is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import math
import mmap
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from trunkline.errors import ArtefactError, TrunklineError

MANIFEST = "manifest.json"
FORMAT = 1
_MAX_JSON_BYTES = 64 << 20
_MAX_DEPTH = 100
_Buffer = TypeVar("_Buffer", bytes, mmap.mmap)
_RANDOM = "[0-9a-f]" * 8  # in the middle of a temporary name, so that `a` never takes what another process writes for `a.b`


def cache_folder() -> Path:
    """Where models and states are kept: the folder that TRUNKLINE_CACHE names, else ~/.cache/trunkline. It may not exist yet."""
    named = os.environ.get("TRUNKLINE_CACHE")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "trunkline"


def sha256(data: bytes | memoryview | mmap.mmap) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, data: bytes | Sequence[memoryview]) -> None:
    """Put `data`, or its pieces one after another, at `path`: after a crash at any moment the old content is there, or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, data)
        _rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        _forget(temporary)  # an error or Ctrl-C came before the rename; after it there is nothing under this name


def write_folder(path: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Put a folder of `files` and their manifest at `path`, in place of what was there, all at once.

    `about` is kept in the manifest beside the sums (what kind of artefact this is, its versions).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    sums = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in sorted(files.items())}
    body = {"format": FORMAT, **about, "files": sums}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary.mkdir(mode=0o700)
        for name, data in files.items():
            _write(temporary / name, data)
        _write(temporary / MANIFEST, to_json({**body, "sha256": sha256(to_json(body))}))
        _sync_folder(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            _rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        _forget(temporary)  # what was there before, or what an error or Ctrl-C left half done


def read_folder(path: Path, kind: str, ignore: Iterable[str] = ()) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a folder, every one checked against the manifest, and the manifest itself.

    Raises: ArtefactError when the folder, a file or the manifest is missing, damaged, of another kind or too new.
    """
    return _folder(path, kind, _read, ignore)


def map_folder(path: Path, kind: str) -> tuple[dict[str, mmap.mmap], dict[str, Any]]:
    """The same, with the files as read-only memory maps, whose sums are taken over what is mapped. They outlive the folder under its name.

    Raises: as `read_folder`.
    """
    return _folder(path, kind, _map)


def _folder(
    path: Path, kind: str, read: Callable[[Path], _Buffer], ignore: Iterable[str] = ()
) -> tuple[dict[str, _Buffer], dict[str, Any]]:
    manifest = read_manifest(path, kind)
    present = {entry.name for entry in path.iterdir()} - {MANIFEST} - set(ignore)
    listed = set(manifest["files"])
    if present != listed:
        odd = sorted(present ^ listed)
        raise ArtefactError(f"{path}: {', '.join(odd[:5])}: on disk or in {MANIFEST}, but not in both. Copy the folder again.")
    files = {}
    for name, sums in manifest["files"].items():
        data = read(path / name)
        if len(data) != sums["bytes"] or sha256(data) != sums["sha256"]:
            raise ArtefactError(
                f"{path / name}: its content is not what {MANIFEST} says (SHA-256 differs). Copy the folder again or make it anew."
            )
        files[name] = data
    return files, manifest


def read_manifest(path: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder, after checks of its form and of its own sum.

    Raises: ArtefactError when it is missing, not readable, of another kind or of a newer format.
    """
    _put_back(path)
    if not (path / MANIFEST).is_file():
        there = "has no" if path.is_dir() else "does not exist, so there is no"
        raise ArtefactError(f"{path}: {there} {MANIFEST}, so it is not a saved {kind}. Give the folder that `--out` named.")
    try:
        manifest = from_json(_read(path / MANIFEST), str(path / MANIFEST))
        form = int(manifest["format"]), manifest["kind"], manifest["files"]
        if form[0] <= FORMAT and manifest.pop("sha256") != sha256(to_json(manifest)):
            raise ValueError("its own SHA-256 differs")
        if not all(name == Path(name).name and set(sums) == {"bytes", "sha256"} for name, sums in form[2].items()):
            raise ValueError("a file entry is not {bytes, sha256}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path / MANIFEST}: damaged ({error}). Copy the folder again or make it anew.") from error
    if form[1] != kind:
        raise ArtefactError(f"{path}: holds a {form[1]}, and a {kind} is needed here.")
    if form[0] > FORMAT:
        raise ArtefactError(f"{path}: written in format {form[0]}; this Trunkline reads up to {FORMAT}. Upgrade: pip install -U trunkline")
    return manifest


def to_json(value: Any) -> bytes:
    """Readable JSON bytes, the same for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode()


def from_json(data: bytes, where: str) -> Any:
    """Strict JSON: no duplicate key, no NaN, no depth over 100, no integer over 1,000 digits, at most 64 MB.

    Raises: ValueError that names `where`.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise ValueError(f"{where}: {len(data):,} bytes of JSON; at most {_MAX_JSON_BYTES:,} are read")
    text = data.decode("utf-8")
    if _nesting(text) > _MAX_DEPTH:
        raise ValueError(f"{where}: nested deeper than {_MAX_DEPTH}")
    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_short_int, parse_float=_finite)


def remove_folder(folder: Path) -> None:
    """Delete a folder in one step for whoever looks: it is renamed first, so a half-deleted one is never seen under its name."""
    if folder.is_dir():
        doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            _rename(folder, doomed)
        except OSError as error:
            raise explain(error, folder) from error
        _forget(doomed)


def remove_leftovers(folder: Path, name: str) -> None:
    """Delete what a killed write of `name` left in `folder` (temporary names only); `name` may be a pattern as in "step-*"."""
    if folder.is_dir():
        for aside in folder.glob(f".{name}.{_RANDOM}.tmp.old"):
            _put_back(folder / aside.name[1 : -len(".01234567.tmp.old")])
        for stray in [*folder.glob(f".{name}.{_RANDOM}.tmp"), *folder.glob(f".{name}.{_RANDOM}.tmp.old")]:
            _forget(stray)


_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: without, a string of 50 MB took 6 GB and 19 s


def _nesting(text: str) -> int:
    deepest = depth = 0
    for char in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if char in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(n for n in names if names.count(n) > 1)!r}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _short_int(digits: str) -> int:
    if len(digits) > 1000:
        raise ValueError(f"an integer of {len(digits):,} digits; at most 1,000")
    return int(digits)


def _finite(digits: str) -> float:
    if math.isinf(float(digits)):
        raise ValueError(f"{digits:.40} is too large for a number")
    return float(digits)


def _read(path: Path) -> bytes:
    with _reading(path) as file:
        return file.read()


def _map(path: Path) -> mmap.mmap:
    with _reading(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # a file without a byte cannot be mapped
            raise ArtefactError(f"{path}: is empty. Copy the folder again or make it anew.") from error


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    if path.is_symlink():
        raise ArtefactError(f"{path}: is a link. Only plain files are read.")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ArtefactError(
            f"{path}: could not be read ({error.strerror or error}). Look at the disk and at who may read the file."
        ) from error


# The five steps of every write, one function each, so that the tests can stop the process before and after any of them.
def _write(path: Path, data: bytes | Sequence[memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _rename(source: Path, target: Path) -> None:
    source.rename(target)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step where the system can (Linux, macOS), else in two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(-100, os.fsencode(new), -100, os.fsencode(old), 2)  # AT_FDCWD, RENAME_EXCHANGE
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(os.fsencode(new), os.fsencode(old), 2)  # RENAME_SWAP
    else:
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    aside = new.with_name(new.name + ".old")  # a file system without the swap: the old folder waits beside for a moment
    _rename(old, aside)
    _rename(new, old)
    _rename(aside, new)


def _put_back(path: Path) -> None:
    """Undo an exchange that was killed between its renames, when the old folder stood aside and nothing under its name."""
    if not path.exists() and path.parent.is_dir():
        for aside in path.parent.glob(f".{glob.escape(path.name)}.{_RANDOM}.tmp.old"):
            aside.rename(path)
            return


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # a disk that cannot be written to cannot be cleaned either
            path.unlink(missing_ok=True)


def explain(error: OSError, path: Path) -> TrunklineError:
    """The error of ours for a failed write at `path`: what happened, and what to do."""
    hints = {
        errno.ENOSPC: "The disk is full: free some space",
        errno.EDQUOT: "Your disk quota is used up: free some space",
        errno.EROFS: "The file system is read-only: choose another folder",
        errno.EACCES: "You may not write there: choose another folder",
        errno.ENOTDIR: "A part of the path is a file, not a folder: choose another path",
    }
    hint = hints.get(error.errno or 0, "Look at the disk")
    return ArtefactError(
        f"{path}: could not be written ({error.strerror or error}). {hint}, then run the same command again; what was there before is whole."
    )

"""`States`: the hidden states of texts at the cut, on disk, ragged and without padding. `encode` fills it, `fit` reads it.

A store is a folder for one trunk and one dtype: shards (see `shard`), `manifest.json` (see `manifest`) and a lock file.
A shard counts once the manifest names it, and both are written whole or not at all; so a killed writer leaves a store that
is merely shorter. What is damaged is found by its sum when the store is opened, said, and dropped: its rows count as missing
and the next `encode` makes them again. Every change happens under the lock, after the manifest was read anew, so processes
may share a store. A `States` itself belongs to one thread.

States can be turned back into text: the folder is closed to other users, and `forget` removes rows for good.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from trunkline.errors import StatesError, unknown
from trunkline.states.index import Key, KeyIndex, as_keys, shard_and_row
from trunkline.states.manifest import DamagedManifestError, Manifest
from trunkline.states.quantise import DTYPES
from trunkline.states.shard import SHARD_NAME, DamagedShardError, Draft, Entry, Shard
from trunkline.storage import MANIFEST, remove_leftovers, write_file
from trunkline.types import Tokens

_LOCK = ".lock"


class States:
    """The states of any number of texts for one trunk, looked up by token content. Make one with `States.open`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.trunk_id, self.width, self.dtype = folder, manifest.trunk, manifest.width, manifest.dtype
        self._empty = manifest
        self._shards: list[Shard] = []
        self._index = KeyIndex()

    @classmethod
    def open(cls, folder: Path, *, trunk_id: str, width: int, dtype: str = "float32") -> States:
        """The store in `folder`, made if it is not there. Every shard is read once and compared with its sum.

        Warns: where a shard or the manifest was damaged, and what was done.
        Raises: StatesError when the folder belongs to another trunk, dtype or format, or is no store; OptionError for the dtype.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        folder = Path(folder)
        states = cls(folder, Manifest(trunk_id, width, dtype))
        _make_private(folder)
        with _locked(folder):
            states._sync()
        return states

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and bool(self._index.find(as_keys([key]))[0] >= 0)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(shard.entry.bytes for shard in self._shards)

    def draft(self) -> Draft:
        """An empty shard to fill for this store; `commit` puts it in."""
        return Draft(self.trunk_id, self.width, self.dtype)

    def missing(self, tokens: Sequence[Tokens]) -> list[Tokens]:
        """Those of `tokens` that are not in the store, each content once, in the order of their first coming."""
        absent = self._index.find(as_keys([one.key for one in tokens])) < 0
        first: dict[bytes, Tokens] = {}
        for at in np.flatnonzero(absent).tolist():
            first.setdefault(tokens[at].key, tokens[at])
        return list(first.values())

    def read(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """The states of each of `tokens`: a list of (T, D) float32.

        Raises: StatesError when some are not in the store.
        """
        places = self._places(tokens)
        found: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(tokens)
        order = np.argsort(places, kind="stable")  # that of the disk
        for at, number, row in zip(order.tolist(), *(half.tolist() for half in shard_and_row(places[order])), strict=True):
            found[at] = self._shards[number].read(row)
        return found

    def pooled(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """(N, D) float32: the mean over the tokens of each of `tokens`. Raises: StatesError when some are not in the store."""
        places = self._places(tokens)
        found = np.empty((len(tokens), self.width), dtype=np.float32)
        numbers, rows = shard_and_row(places)
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            found[here] = self._shards[number].pooled(rows[here])
        return found

    def append(self, tokens: Sequence[Tokens], arrays: Sequence[np.ndarray]) -> None:
        """Put the states (T, D) float32 of some texts in, as one new shard. Texts that are in already are left as they are.

        Raises: StatesError for states of a wrong shape, or that the dtype cannot hold.
        """
        if len(tokens) != len(arrays):
            raise StatesError(f"{len(tokens)} texts came with {len(arrays)} arrays of states: one each is needed.")
        draft = self.draft()
        for one, states in zip(tokens, arrays, strict=True):
            draft.add(one, states)
        self.commit(draft)

    def commit(self, draft: Draft) -> None:
        """Put a filled draft in as one new shard; texts that came in since, by this process or another, are left out."""
        with _locked(self.folder):
            self._sync()
            keys = draft.keys()
            is_repeat = np.ones(len(keys), dtype=bool)
            is_repeat[np.unique(keys, return_index=True)[1]] = False
            draft = draft.without(is_repeat | (self._index.find(keys) >= 0))
            if not len(draft):
                return
            self._manifest_over([*self._entries(), self._write(draft)]).write(self.folder)
            self._sync()

    def forget(self, keys: Iterable[Key]) -> int:
        """Remove the rows with these keys from the disk, by writing their shards anew without them. Gives how many there were.

        Once this returns, or after a kill in between the next time the store is opened, the old files are gone.
        Other processes that have the store open see the rows until they write to it or open it again.
        """
        wanted = as_keys(list(keys))
        with _locked(self.folder):
            self._sync()
            kept, removed, count = [], [], 0
            for shard in self._shards:
                goes = np.isin(shard.keys(), wanted)
                count += int(goes.sum())
                if not goes.any():
                    kept.append(shard.entry)
                    continue
                removed.append(shard.entry)
                if not goes.all():
                    kept.append(self._write(shard.draft(np.flatnonzero(~goes))))
            if removed:
                self._manifest_over(kept).write(self.folder)
                self._sync()
        return count

    # What follows is called with the lock held.

    def _sync(self) -> None:
        """Make this object and the folder agree with the manifest: load new shards, drop damaged ones, delete strays."""
        manifest = self._read_manifest()
        listed = {entry.name: entry for entry in manifest.entries}
        held = {shard.entry.name: shard for shard in self._shards if listed.get(shard.entry.name) == shard.entry}
        damaged = []
        for name, entry in listed.items():
            try:
                held[name] = held.get(name) or self._open_shard(entry)
            except DamagedShardError as error:
                damaged.append(f"{error} ({entry.rows:,} rows)")
        self._take(list(held.values()))
        if damaged:
            self._manifest_over(self._entries()).write(self.folder)
            _warn(f"{self.folder}: {'; '.join(damaged)}. Dropped; the next `encode` makes these rows again.")
        _remove_strays(self.folder, {shard.entry.name for shard in self._shards})

    def _take(self, shards: list[Shard]) -> None:
        """Let these be the shards; the index is made anew only if one is gone."""
        now = {shard.entry.name for shard in shards}
        if any(shard.entry.name not in now for shard in self._shards):
            self._shards, self._index = [], KeyIndex()
        have = {shard.entry.name for shard in self._shards}
        for shard in shards:
            if shard.entry.name not in have:
                self._index.add(shard.keys(), len(self._shards))
                self._shards.append(shard)

    def _read_manifest(self) -> Manifest:
        try:
            manifest = Manifest.read(self.folder)
        except DamagedManifestError as error:
            return self._recover(str(error))
        self._refuse_foreign(manifest.trunk, manifest.width, manifest.dtype)
        return manifest

    def _recover(self, reason: str) -> Manifest:
        """A new manifest in place of a lost one, over the shards whose bytes still are what their names promise."""
        whole = []
        paths = _shard_paths(self.folder)
        for path in paths:
            try:
                whole.append(self._open_shard(path).entry)
            except DamagedShardError:
                continue  # not named in the new manifest, so it is removed as a stray
        if (self.folder / MANIFEST).exists() and not paths:
            raise StatesError(
                f"{self.folder / MANIFEST}: not the manifest of a states store, or damaged ({reason}), and there are no shards beside it. "
                "Choose another folder, or delete this one."
            )
        manifest = self._manifest_over(whole)
        manifest.write(self.folder)
        if paths:
            _warn(f"{self.folder / MANIFEST}: {reason}. Made anew from {len(whole)} whole shards of {len(paths)}; `encode` makes the rest.")
        return manifest

    def _open_shard(self, which: Entry | Path) -> Shard:
        shard = Shard.open(which) if isinstance(which, Path) else Shard.open(self.folder / which.name, which)
        self._refuse_foreign(shard.trunk_id, shard.width, shard.dtype)
        return shard

    def _refuse_foreign(self, trunk_id: str, width: int, dtype: str) -> None:
        if trunk_id != self.trunk_id:
            raise StatesError(
                f"{self.folder}: holds the states of trunk {trunk_id}, and trunk {self.trunk_id} is asked for. "
                "States of one trunk mean nothing to another: give each its own folder."
            )
        if (width, dtype) != (self.width, self.dtype):
            raise StatesError(
                f"{self.folder}: holds states of width {width} as {dtype}, and width {self.width} as {self.dtype} is asked for. "
                "Give each its own folder."
            )

    def _write(self, draft: Draft) -> Entry:
        entry, pieces = draft.to_file()
        write_file(self.folder / entry.name, pieces)
        return entry

    def _entries(self) -> list[Entry]:
        return [shard.entry for shard in self._shards]

    def _manifest_over(self, entries: Iterable[Entry]) -> Manifest:
        return self._empty.having(entries)

    # What follows needs no lock.

    def _places(self, tokens: Sequence[Tokens]) -> np.ndarray:
        places = self._index.find(as_keys([one.key for one in tokens]))
        absent = int((places < 0).sum())
        if absent:
            raise StatesError(f"{self.folder}: {absent:,} of {len(tokens):,} texts have no states here. Run `encode` on them first.")
        return places


def _make_private(folder: Path) -> None:
    """Make the folder, for its owner only. A folder with something else in it is refused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {entry.name for entry in folder.iterdir()}
        is_ours = not names or MANIFEST in names or _LOCK in names or bool(_shard_paths(folder))
        if is_ours:
            folder.chmod(0o700)
    except OSError as error:
        raise StatesError(f"{folder}: cannot hold a states store ({error.strerror or error}). Choose another folder.") from error
    if not is_ours:
        raise StatesError(f"{folder}: has files in it and is not a states store. Choose an empty or a new folder.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the store's lock. The system frees it when a process dies, so no lock is ever left behind."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StatesError(f"{folder}: could not be locked ({error.strerror or error}). Check that you may write there.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))


def _remove_strays(folder: Path, listed: set[str]) -> None:
    """Delete what killed writers left: shards that no manifest names, and files under temporary names."""
    for path in _shard_paths(folder):
        if path.name not in listed:
            path.unlink()
    for name in (MANIFEST, "states-*"):  # a pattern: it stands for every shard
        remove_leftovers(folder, name)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)

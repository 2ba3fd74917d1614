"""`manifest.json` of a states store: for which trunk it is, and the sum of each shard. Sits under `store`.

The manifest carries its own SHA-256, so a flipped byte in it is found too. Shards are listed by name: the same shards give
the same bytes, whatever the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trunkline.errors import StatesError
from trunkline.states.shard import SHARD_NAME, Entry
from trunkline.storage import MANIFEST, from_json, sha256, to_json, write_file

FORMAT = 1
KIND = "states"


class DamagedManifestError(Exception):
    """The manifest is absent or not what was written. `States` catches it and looks at the shards instead."""


@dataclass(frozen=True)
class Manifest:
    """What a store holds. `trunk`: the trunk's id; `dtype`: how states are kept; `entries`: its shards by name."""

    trunk: str
    width: int
    dtype: str
    entries: tuple[Entry, ...] = ()
    format: int = FORMAT

    def having(self, entries: Iterable[Entry]) -> Manifest:
        """The same manifest over other shards."""
        return replace(self, entries=tuple(sorted(entries, key=lambda entry: entry.name)))

    def write(self, folder: Path) -> None:
        """Put the manifest in `folder`, whole or not at all."""
        body = {
            "format": self.format,
            "kind": KIND,
            "trunk": self.trunk,
            "width": self.width,
            "dtype": self.dtype,
            "shards": [asdict(entry) for entry in self.entries],
        }
        write_file(folder / MANIFEST, to_json({**body, "sha256": sha256(to_json(body))}))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`. Raises: DamagedManifestError when absent or changed; StatesError when of a newer format."""
        path = folder / MANIFEST
        if path.is_symlink() or not path.is_file():
            raise DamagedManifestError("is not there")
        try:
            data = path.read_bytes()
            body = from_json(data, MANIFEST)
            promised = body.pop("sha256")
            if promised != sha256(to_json(body)) or data != to_json({**body, "sha256": promised}):
                raise ValueError("its sum differs")
            if body["format"] > FORMAT:
                raise StatesError(
                    f"{folder}: written in format {body['format']}; this Trunkline reads up to {FORMAT}. Upgrade: pip install -U trunkline"
                )
            return cls._from_body(body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedManifestError(str(error)) from error

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Manifest:
        if body.pop("kind") != KIND:
            raise ValueError("it is of another kind")
        entries = tuple(Entry(**entry) for entry in body.pop("shards"))
        if not all(SHARD_NAME.fullmatch(entry.name) for entry in entries):
            raise ValueError("a shard has another name than shards have")
        return cls(**body, entries=entries)

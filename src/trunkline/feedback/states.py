"""Forgetting goes on to the stored states: they can be turned back into text, and are as private as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.branch import Branch
from trunkline.errors import StatesError
from trunkline.feedback.entry import Record
from trunkline.states.manifest import DamagedManifestError, Manifest
from trunkline.states.store import States
from trunkline.types import Row


def forget_states(branch: Branch, records: Sequence[Record], folder: Path | None = None) -> int:
    """Remove the states of these records' rows, as this branch reads them, from every store of its backbone's cache. Gives how many there were.

    A state is found by the token ids of its text. So a branch of each task and tokenizer that the texts went through has to be asked.
    folder: where the stores are; the cache's, where none is named
    """
    rows: list[Row] = [record.entry["row"] for record in records if record.entry is not None]
    if branch.spec.kind == "likelihood":  # such a task's states are of prompt and answer together
        rows += [{**record.entry["row"], "label": said} for record in records if record.entry for said in _said(record.entry)]
    keys = {tokens.key for row in rows for item in branch.prepare([_filled(row)]) for tokens in item.tokens}
    where = folder or storage.cache_folder() / "states"
    return sum(_opened(store).forget(keys) for store in sorted(where.iterdir()) if store.is_dir()) if where.is_dir() and keys else 0


def _said(entry: dict[str, Any]) -> list[str]:
    return [said for name in ("label", "answer", "chosen", "rejected") if isinstance(said := entry.get(name), str)]


def _filled(row: Row) -> Row:
    return row if "text" in row else {**row, "text": row["messages"][-1]["content"]}


def _opened(store: Path) -> States:
    try:
        manifest = Manifest.read(store)
    except DamagedManifestError as error:
        raise StatesError(
            f"{store}: its manifest {error}, so nothing can be forgotten in it. Delete the folder; `encode` makes it anew."
        ) from error
    return States.open(store, trunk_id=manifest.trunk, width=manifest.width, dtype=manifest.dtype)

"""`Annotations`: who gave which row which label, in a file that only grows. A line is on disk before `add` returns, so a crash loses none.

A line is one JSON object. Nothing is ever changed: a label that is taken back, or put right, is a later line. What a crash cut off in the middle
of a line is left out when the file is read, and said.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from trunkline.data.split import text_key
from trunkline.errors import DataError
from trunkline.types import Row

KINDS = ("label", "skip", "undo", "decide")


@dataclass(frozen=True)
class Annotation:
    """One act. row: `key_of` its row; by: who; kind: "label", "skip", "undo" (of this person's last word on the row), "decide" (for all, where people differ)"""

    row: str
    by: str
    kind: str
    label: str = ""
    at: str = ""


def key_of(row: Row) -> str:
    """What a row is known by in the file: 24 characters made of its text, so that it is found again when the rows are sorted anew."""
    return hashlib.sha256(text_key(row).encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Annotations:
    """The acts in a file. Use as a context: the file is locked, for two writers would mix their lines.

    Raises: DataError where another process writes to it, or a line in the middle is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.acts = self._read()
        except OSError as error:
            os.close(self._descriptor)
            raise DataError(f"{self.path}: another process writes to it. Stop that one, or give another --out.") from error
        except DataError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Annotations:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def add(self, act: Annotation) -> None:
        """Write one act down; it is on disk when this returns."""
        act = act if act.at else Annotation(act.row, act.by, act.kind, act.label, datetime.now(UTC).isoformat(timespec="seconds"))
        data = (json.dumps(asdict(act), ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        if os.write(self._descriptor, data) != len(data):
            raise DataError(f"{self.path}: a line could not be written whole. Is the disk full?")
        os.fsync(self._descriptor)
        self.acts.append(act)

    def labels(self) -> dict[str, dict[str, str]]:
        """By row and person, the label that person holds now; skipped rows have "" for that person."""
        return _labels(self.acts)

    def decided(self) -> dict[str, str]:
        """By row, what was decided where people differ; the last decision counts."""
        return {act.row: act.label for act in self.acts if act.kind == "decide"}

    def final(self) -> dict[str, str]:
        """By row, the label that counts: the decision, or what all who gave one agree on. Rows on which people differ are not there."""
        agreed = {row: {label for label in given.values() if label} for row, given in self.labels().items()}
        return {row: next(iter(labels)) for row, labels in agreed.items() if len(labels) == 1} | self.decided()

    def disputed(self) -> list[str]:
        """Rows with several labels and no decision, in the order in which they came to be so."""
        decided = self.decided()
        return [row for row, given in self.labels().items() if len({label for label in given.values() if label}) > 1 and row not in decided]

    def _read(self) -> list[Annotation]:
        data = self.path.read_bytes()
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            warnings.warn(f"{self.path}: the last line was cut off by a crash and is left out: {rest[:80]!r}", stacklevel=4)
            os.ftruncate(self._descriptor, len(data) - len(rest))
        found = []
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                act = Annotation(**json.loads(line))
                if act.kind not in KINDS or not all(isinstance(value, str) for value in asdict(act).values()):
                    raise ValueError(f"kind {act.kind!r}")
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{self.path}:{number}: not a line that Trunkline wrote ({error}). Take the line out, or give another --out."
                ) from error
            found.append(act)
        return found


def _labels(acts: Iterable[Annotation]) -> dict[str, dict[str, str]]:
    said: dict[str, dict[str, list[str]]] = {}
    for act in acts:
        if act.kind == "decide":
            continue
        words = said.setdefault(act.row, {}).setdefault(act.by, [])
        if act.kind == "undo":
            words[-1:] = []
        else:
            words.append(act.label if act.kind == "label" else "")
    return {row: held for row, given in said.items() if (held := {by: words[-1] for by, words in given.items() if words})}

"""All rows of an augmented split as a file that `tune --split given` reads: new rows are in train, whatever is done with the file later."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.augmentation.augment import Augmented
from trunkline.errors import OptionError


def write(made: Augmented, path: Path) -> None:
    """Write .jsonl or .csv, all at once. Raises: OptionError for another ending."""
    if path.suffix not in (".jsonl", ".csv"):
        raise OptionError(f"out={str(path)!r}: name a .jsonl or a .csv file.")
    rows = list(_rows(made))
    storage.write_file(path, (_csv(rows) if path.suffix == ".csv" else _lines(rows)).encode("utf-8", "backslashreplace"))


def _rows(made: Augmented) -> Iterator[dict[str, Any]]:
    for part, rows in made.parts.parts().items():
        for row in rows:
            yield {**row, "split": part}


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: list[dict[str, Any]]) -> str:
    """RFC 4180 text. Texts stay as they are, also those that a spreadsheet would take for a formula: the file is for `tune`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "|".join(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows)
    return buffer.getvalue()

"""What commands print: tables for people, JSON for programs, a file when one is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from trunkline import storage
from trunkline.errors import OptionError
from trunkline.types import Answer, Row


def answers(rows: Sequence[Row], found: Sequence[Answer], out: Path | None, as_json: bool) -> None:
    """The answers to some rows: on the screen, or in a .csv or .jsonl file."""
    if out is None:
        print(_lines(rows, found) if as_json else _table(rows, found))
        return
    if out.suffix not in (".csv", ".jsonl"):
        raise OptionError(f"--out {out}: name a .csv or a .jsonl file.")
    storage.write_file(out, (_csv(rows, found) if out.suffix == ".csv" else _lines(rows, found) + "\n").encode())
    Console(stderr=True).print(f"{len(found):,} answers written to {out}")


def models(known: Sequence[Any], as_json: bool) -> None:
    """The models of the table and what is on disk of them."""
    if as_json:
        print(json.dumps([asdict(model) for model in known], default=str, indent=2))
        return
    table = _new_table("name", "kind", "languages", "layers", "parameters", "licence", "weights", "where it is")
    for model in known:
        place = (
            f"{model.path} ({model.bytes_on_disk / 1e6:.0f} MB)"
            if model.path
            else f"not here yet: {model.download_bytes / 1e6:.0f} MB to fetch"
        )
        table.add_row(
            model.name,
            model.kind,
            model.languages,
            str(model.layers),
            f"{model.parameters / 1e6:.0f} M",
            model.licence,
            model.rounding,
            place,
        )
    Console().print(table)
    print("\nAlso: a folder, owner/name on the Hugging Face hub, or ms:owner/name on ModelScope.\nNext:\n  trunkline models get minilm")


def _lines(rows: Sequence[Row], found: Sequence[Answer]) -> str:
    return "\n".join(json.dumps({**row, **_said(answer)}, ensure_ascii=False) for row, answer in zip(rows, found))


def _said(answer: Answer) -> dict[str, Any]:
    said: dict[str, Any] = {"answer": answer.value}
    return said if answer.probability is None else {**said, "probability": round(answer.probability, 4)}


def _csv(rows: Sequence[Row], found: Sequence[Answer]) -> str:
    """RFC 4180 text; a cell that a spreadsheet would run as a formula gets a quote before it."""
    buffer = io.StringIO()
    names = [*{key: None for row in rows for key in row}, "answer", "probability"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row, answer in zip(rows, found):
        writer.writerow({key: _safe(value) for key, value in {**row, **_said(answer)}.items()})
    return buffer.getvalue()


def _safe(value: Any) -> Any:
    value = "|".join(map(str, value)) if isinstance(value, list | tuple) else value
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _table(rows: Sequence[Row], found: Sequence[Answer]) -> str:
    table = _new_table("answer", "probability", "text")
    for row, answer in zip(rows, found):
        value = ", ".join(answer.value) or "-" if isinstance(answer.value, list) else answer.value
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        table.add_row(shown, "" if answer.probability is None else f"{answer.probability:.1%}", row["text"])
    console = Console(file=io.StringIO(), width=Console().width)
    console.print(table, markup=False) if False else console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

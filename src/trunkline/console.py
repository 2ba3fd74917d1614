"""What commands print: tables for people, JSON for programs, a file when one is named."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    print(f"{len(found):,} answers written to {out}", file=sys.stderr)


def models(known: Sequence[Any], as_json: bool) -> None:
    """The models of the table and what is on disk of them."""
    if as_json:
        print(json.dumps([asdict(model) for model in known], default=str, indent=2))
        return
    table = _new_table("name", "what it is", "made from", "on disk")
    for model in known:
        what = f"{model.kind}, {model.layers} layers, {model.parameters / 1e6:.0f} M parameters, {model.languages}, {model.licence}"
        there = f"{model.bytes_on_disk / 1e6:.0f} MB" if model.path else f"no: {model.download_bytes / 1e6:.0f} MB to fetch"
        table.add_row(model.name, f"{what}; weights {model.rounding}", model.source.partition(";")[0], there)
    print(_text(table))
    print(
        f"\nKept in {storage.cache_folder() / 'models'}. Also: a folder, owner/name on the Hugging Face hub, or ms:owner/name on ModelScope."
    )
    print("Next:\n  trunkline models get minilm")


def feedback(found: dict[str, Any]) -> str:
    """The counts of a feedback store, by branch."""
    branches: dict[str, dict[str, int]] = found["branches"]
    names = list(next(iter(branches.values()), {}))
    lines = [table(["branch", *names], [[branch, *(f"{counts[name]:,}" for name in names)] for branch, counts in branches.items()])]
    if found["from"]:
        lines.append(f"From {found['from'][0]} to {found['to'][0]}. Last event: {found['head']}")
    return "\n".join([*lines, *([f"Damaged: {found['damage']}"] if found["damage"] else [])])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of one line a row: where it does not fit the screen, the widest columns are cut, and end with an ellipsis."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    widest = _widest([max(cell_len(row[at]) for row in [columns, *rows]) for at in range(len(columns))], _width() - 3 * len(columns))
    for column in columns:
        made.add_column(Text(column), overflow="ellipsis", no_wrap=True, max_width=widest)
    for row in rows:
        made.add_row(*map(Text, row))  # Text: no markup
    return _text(made).strip("\n")


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
    if isinstance(value, dict) or (isinstance(value, list | tuple) and not all(isinstance(one, str) for one in value)):
        return json.dumps(value, ensure_ascii=False)
    value = "|".join(value) if isinstance(value, list | tuple) else value
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _table(rows: Sequence[Row], found: Sequence[Answer]) -> str:
    table = _new_table("answer", "probability", "text")
    for row, answer in zip(rows, found):
        table.add_row(
            Text(_read_by_people(answer.value)), "" if answer.probability is None else f"{answer.probability:.1%}", Text(row["text"])
        )  # Text: no markup
    return _text(table)


def _read_by_people(value: Any) -> str:
    """An answer in a cell: a label, labels, a number, a text, a place in the text, or several with their types."""
    if isinstance(value, list):
        return ", ".join(map(_read_by_people, value)) or "-"
    if isinstance(value, dict):
        kind, text = value.get("type"), value.get("text") or "-"
        return f"{kind}: {text}" if kind else str(text)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _widest(widths: Sequence[int], total: int) -> int:
    """How wide a column may be so that all fit `total`: the wide ones give way, the narrow ones stay whole.

    >>> _widest([5, 200, 300], 100)
    47
    """
    for place, width in enumerate(sorted(widths)):
        share = max(1, total // (len(widths) - place))
        if width > share:
            return share
        total -= width
    return max(widths, default=1)


def _width() -> int:
    """As wide as the terminal, or 100 characters where there is none."""
    terminal = Console()
    return terminal.width if terminal.is_terminal else 100


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=_width())
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())  # type: ignore[attr-defined]


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

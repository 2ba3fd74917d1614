"""A file of proposed changes that a person decides on, and applying what he decided. Nothing else ever changes a row.

`write` puts one line a proposal into a CSV file; the column `decision` is empty. A person writes "yes" into those lines that he wants (and may
change what is proposed); `apply` does those and no others. A line names its row by number and text, so a file that was edited meanwhile is noticed.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.data.formats import Form, open_table
from trunkline.errors import DataError, OptionError
from trunkline.quality.found import Checked, place
from trunkline.types import Problem, Row, Rows

COLUMNS = ("decision", "action", "row", "text", "label", "new_label", "new_text", "why", "score", "compare_with")
ACTIONS = ("drop", "relabel", "rewrite")
_YES = ("yes", "y", "x", "1", "true", "是")
_NO = ("", "no", "n", "0", "false", "否", "later")
_SHOWN = 10


def write(found: Checked, path: str | Path) -> int:
    """Every proposal of what was found, most urgent kind first; gives how many lines there are."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    lines = proposals(found)
    writer.writerows({name: _safe(value) for name, value in line.items()} for line in lines)
    storage.write_file(
        Path(path), b"\xef\xbb\xbf" + buffer.getvalue().encode("utf-8", "replace")
    )  # the mark tells spreadsheets that it is UTF-8
    return len(lines)


def proposals(found: Checked) -> list[dict[str, Any]]:
    """The lines of the file: of each kind of finding the rows that something could be done about, each row once a kind."""
    lines = []
    for section in found.sections:
        seen = set()
        for row in section.rows:
            if row.get("part") != "rows" or not row.get("row") or "action" not in row or row["row"] in seen:
                continue
            seen.add(row["row"])
            other = f"{place(row['other_part'], row['other_row'])}: {row['other']} ({row['other_label']})" if row.get("other_row") else ""
            lines.append({
                "decision": "", "action": row["action"], "row": row["row"], "text": found.rows[row["row"] - 1]["text"], "label": row["label"],
                "new_label": row.get("proposed", ""), "new_text": row.get("new_text", ""),
                "why": section.title + (f" ({row['why']})" if row.get("why") else ""), "score": row.get("score", ""), "compare_with": other,
            })  # fmt: skip
    return lines


def apply(rows: Rows, path: str | Path) -> Rows:
    """The rows with the decided changes made; `notes` says how many of each kind.

    Raises: DataError for a line that is not understood, or whose row is not there (all such lines together, up to ten).
    """
    decided, problems = defaultdict(list), []
    for number, line in _lines(path):
        try:
            if _wanted(line.get("decision", "")):
                decided[_place(rows, line)].append(_change(rows, line))
        except ValueError as error:
            problems.append(Problem(str(path), number, str(line.get("text", ""))[:80], str(error)))
    if problems:
        listed = "\n  ".join(map(str, problems[:_SHOWN]))
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: {len(problems):,} lines cannot be applied, so none was:\n  {listed}{more}")
    kept: list[Row] = []
    counts = dict.fromkeys(ACTIONS, 0)
    for at, row in enumerate(rows):
        changes = decided.get(at, ())
        for action, _ in changes:
            counts[action] += 1
        if not any(action == "drop" for action, _ in changes):
            kept.append({**row, **{key: value for _, change in changes for key, value in change.items()}})
    told = ", ".join(f"{action} {count:,}" for action, count in counts.items() if count) or "nothing was decided"
    return replace(rows, rows=tuple(kept), notes=(*rows.notes, f"{path}: {told}. {len(kept):,} of {len(rows):,} rows are left."))


def save(rows: Sequence[Row], path: str | Path) -> Path:
    """The rows as a .csv or .jsonl file in the standard fields, which `read` takes. Raises: OptionError for another ending."""
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        raise OptionError(f"--out {path}: name a .csv or a .jsonl file.")
    names = list(dict.fromkeys(key for row in rows for key in row))
    if path.suffix == ".jsonl" or any(not isinstance(value, str | int | float) for row in rows for value in row.values()):
        if path.suffix == ".csv":
            raise OptionError(f"--out {path}: some labels are lists, which a CSV cell cannot hold. Name a .jsonl file.")
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = buffer.getvalue()
    storage.write_file(path, data.encode("utf-8", "replace"))
    return path


def _lines(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the file, whatever encoding and separator a spreadsheet saved it with. Raises: DataError where it is no such file."""
    opened = open_table(path, Form(None, True, None))
    with closing(opened.records) as records:
        found = []
        for record in records:
            if isinstance(record, Problem):
                raise DataError(f"{path}: {record}")
            number, values = record
            missing = [name for name in ("decision", "action", "row", "text") if name not in values]
            if missing:
                raise DataError(
                    f"{path}: no column {missing[0]!r}, so this is no file of changes. `trunkline check` writes one: changes.csv."
                )
            found.append((number, {key: "" if value is None else str(value) for key, value in values.items()}))
    return found


def _wanted(decision: str) -> bool:
    word = decision.strip().casefold()
    if word not in (*_YES, *_NO):
        raise ValueError(f"decision {decision!r}: write yes, or leave it empty")
    return word in _YES


def _place(rows: Rows, line: dict[str, str]) -> int:
    """Where the line's row is: at its number, or anywhere else if its text and label stand there once."""
    number = line["row"].strip().removesuffix(".0")
    at = int(number) - 1 if number.isdigit() else -1
    if 0 <= at < len(rows) and _safe(rows[at]["text"]) == line["text"]:
        return at
    same = [at for at, row in enumerate(rows) if _safe(row["text"]) == line["text"]]
    if len(same) != 1:
        raise ValueError(
            f"row {line['row']!r}: " + ("no row has this text" if not same else "the file has changed, and several rows have this text")
        )
    return same[0]


def _change(rows: Rows, line: dict[str, str]) -> tuple[str, dict[str, Any]]:
    action = line["action"].strip()
    if action == "drop":
        return action, {}
    if action == "relabel":
        label = _plain(line.get("new_label", ""))
        if not label:
            raise ValueError("relabel: new_label is empty")
        if rows.task == "regress":
            return action, {"label": float(label)}  # a ValueError says what is no number
        return action, {"label": label.split("|") if any(isinstance(row.get("label"), list) for row in rows[:100]) else label}
    if action == "rewrite":
        text = _plain(line.get("new_text", ""))
        if not text.strip():
            raise ValueError("rewrite: new_text is empty")
        return action, {"text": text}
    raise ValueError(f"action {action!r}: write {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}")


def _safe(value: Any) -> Any:
    """A cell that a spreadsheet does not run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r'" and value else value


def _plain(value: str) -> str:
    return value[1:] if value[:1] == "'" and value[1:2] in tuple("=+-@\t\r'") else value

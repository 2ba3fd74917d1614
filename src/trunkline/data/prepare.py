"""The verb `prepare`: what was understood of a file before anything is trained on it, and what would come of it.

Ten rows, the labels, how long the texts are, how the rows are split, and what `quality` noticed. It knows no model: how long the texts are
in a model's tokens, and what would be cut, is added by train/lengths.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from trunkline.console import table
from trunkline.data.quality import Finding, check
from trunkline.data.read import read
from trunkline.data.split import Split, labels_of, split, text_key
from trunkline.errors import OptionError
from trunkline.types import Row, Rows

QUANTILES = {"smallest": 0.0, "median": 0.5, "90%": 0.9, "99%": 0.99, "largest": 1.0}
NONE = "∅"
"""How an empty answer, or no label at all, is written."""
_SHOWN = 10
_LABELS = 20
_BESIDE = ("id", "group", "time", "split")


@dataclass(frozen=True)
class Tokens:
    """Lengths in a model's tokens: of the whole texts (quantiles), and what is left out of them at `max_tokens`.

    rows: how many were looked at; cut: how many of them lose something; sequences: how many pieces a row is read in, on average;
    unknown: the share of tokens that stand for what the model has no token for
    """

    model: str
    max_tokens: int
    rows: int
    cut: int
    sequences: float
    unknown: float
    quantiles: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """What was understood. `print` shows it; `to_json` gives it to programs.

    labels: how often each class occurs; facts: of labels that are no classes; lengths: quantiles in characters, by field
    remedies: flags of `tune` that would clear away what `findings` complains of
    """

    rows: Rows
    parts: Split
    findings: list[Finding]
    shown: list[Row]
    labels: dict[str, int]
    facts: dict[str, float]
    lengths: dict[str, dict[str, float]]
    remedies: list[str] = field(default_factory=list)
    tokens: Tokens | None = None
    unmeasured: str = ""

    def __str__(self) -> str:
        sections = [self._read(), self._rows(), self._labels(), self._lengths(), self._split(), "\n".join(map(str, self.findings))]
        return "\n\n".join(section for section in sections if section)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, with ten of the bad rows."""
        return {
            "source": self.rows.source,
            "task": self.rows.task,
            "rows": len(self.rows),
            "bad": len(self.rows.problems),
            "problems": [asdict(problem) for problem in self.rows.problems[:_SHOWN]],
            "columns": self.rows.columns,
            "notes": list(self.rows.notes),
            "shown": self.shown,
            "labels": self.labels,
            "facts": self.facts,
            "lengths": self.lengths,
            "tokens": asdict(self.tokens) if self.tokens else None,
            "split": {"how": self.parts.how, "rows": {name: len(part) for name, part in self.parts.parts().items()}},
            "findings": [asdict(finding) for finding in self.findings],
            "remedies": self.remedies,
        }

    def _read(self) -> str:
        bad = f", {len(self.rows.problems):,} bad ones left out" if self.rows.problems else ""
        lines = [f"{self.rows.source}: {len(self.rows):,} rows for {self.rows.task}{bad}"]
        if self.rows.columns:
            lines.append("columns: " + ", ".join(f"{name} = {column!r}" for name, column in self.rows.columns.items()))
        return "\n".join([*lines, *self.rows.notes, *(str(problem)[:200] for problem in self.rows.problems[:_SHOWN])])

    def _rows(self) -> str:
        names = [name for name in dict.fromkeys(key for row in self.shown for key in row) if name not in _BESIDE]
        return table(names, [[_cell(row, name, self.rows.task) for name in names] for row in self.shown])

    def _labels(self) -> str:
        if self.facts:
            return table(["label", ""], [[name, _number(value)] for name, value in self.facts.items()])
        if not self.labels:
            return ""
        total = sum(self.labels.values())
        shown = [[name, f"{count:,}", f"{count / total:.1%}"] for name, count in list(self.labels.items())[:_LABELS]]
        left = [[f"and {len(self.labels) - _LABELS:,} more", "", ""]] if len(self.labels) > _LABELS else []
        return table([f"label ({len(self.labels):,})", "count", "share"], [*shown, *left])

    def _lengths(self) -> str:
        lines = [[f"{name}, characters", *map(_number, values.values())] for name, values in self.lengths.items()]
        if self.tokens is None:
            return table(["length", *QUANTILES], lines) + (f"\n{self.unmeasured}" if self.unmeasured else "")
        found = self.tokens
        lines.append([f"tokens of {found.model}", *map(_number, found.quantiles.values())])
        looked = "" if found.rows == len(self.rows) else f" that were looked at (of {len(self.rows):,})"
        share = f"{found.cut:,} of {found.rows:,} rows{looked} lose something at max_tokens={found.max_tokens:,} ({found.cut / found.rows:.1%})."
        pieces = f" A row is read in {found.sequences:.2f} pieces on average." if found.sequences > 1 else ""
        strange = (
            f" {found.unknown:.1%} of the tokens stand for what this model does not know: take another." if found.unknown >= 0.005 else ""
        )
        return table(["length", *QUANTILES], lines) + f"\n{share}{pieces}{strange}"

    def _split(self) -> str:
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in self.parts.parts().items())
        return f"split {self.parts.how}: {sizes}"


def prepare(source: Any, task: str | None = None) -> Prepared:
    """What was understood of rows, of a split that was made of them, or of a source that `read` takes.

    task: for a source; rows know theirs. Other columns than guessed: `prepare(read(file, text=...))`; another split: `prepare(split(rows, ...))`.
    Raises: OptionError for a task that is not that of the rows; DataError where the source cannot be read.

    >>> found = prepare([{"text": f"message {n}", "label": "ab"[n % 2]} for n in range(100)])
    >>> found.labels, found.lengths["text"]["largest"]
    ({'a': 50, 'b': 50}, 10)
    """
    if not isinstance(source, Rows | Split):
        source = read(source, task or "classify")
    parts = source if isinstance(source, Split) else split(source)
    rows = _together(parts) if isinstance(source, Split) else source
    if task is not None and task != rows.task:
        raise OptionError(f"task={task!r}: these rows were read for {rows.task!r}. Leave task out, or read them again.")
    labels = Counter(label for row in rows for label in labels_of(row, rows.task))
    return Prepared(
        rows,
        parts,
        check(parts),
        [rows[at] for at in sorted(Random(0).sample(range(len(rows)), min(_SHOWN, len(rows))))],  # no fixed step: labels may alternate
        dict(labels.most_common()),
        _facts(rows),
        {name: quantiles(lengths) for name in ("text", "text_b", "label") if (lengths := _lengths_of(rows, name))},
        _remedies(parts),
    )


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median, 90%, 99%, largest: each a value that is there.

    >>> quantiles([5, 1, 3])
    {'smallest': 1, 'median': 3, '90%': 5, '99%': 5, 'largest': 5}
    """
    ordered = sorted(values)
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in QUANTILES.items()}


def _together(parts: Split) -> Rows:
    """All rows of a split; its parts may come from files of their own."""
    every = [part for part in parts.parts().values() if len(part)]
    first = parts.train
    problems = tuple(dict.fromkeys(problem for part in every for problem in part.problems))
    notes = tuple(dict.fromkeys([note for part in every for note in part.notes] + list(parts.notes)))
    return Rows(tuple(row for part in every for row in part), first.task, first.source, first.columns, notes, problems)


def _lengths_of(rows: Rows, name: str) -> list[int]:
    """In characters; of a label only where it is a text, not a class."""
    if name == "label" and rows.task == "classify":
        return []
    return [len(row[name]) for row in rows if isinstance(row.get(name), str)]


def _facts(rows: Rows) -> dict[str, float]:
    """What there is to say of labels that are numbers, or places in a text."""
    labels = [row["label"] for row in rows if row.get("label") is not None]
    if labels and all(isinstance(label, float) for label in labels):
        return {**quantiles(labels), "mean": sum(labels) / len(labels), "different values": len(set(labels))}
    if rows.task == "span" and labels:
        answers = [len(answer) for label in labels for _, answer in label]
        sizes = {f"answer, characters, {name}": value for name, value in quantiles(answers).items()} if answers else {}
        return {"with an answer": sum(map(bool, labels)), "without an answer": sum(not label for label in labels), **sizes}
    return {}


def _remedies(parts: Split) -> list[str]:
    sides = [(name, part) for name, part in parts.parts().items() if len(part)]
    if _shared([{row["group"] for row in part if "group" in row} for _, part in sides]):
        return ["--split", "group"]
    return ["--drop-leaks"] if _shared([{text_key(row) for row in part} for _, part in sides]) else []


def _shared(sets: Iterable[set[str]]) -> bool:
    seen: set[str] = set()
    for one in sets:
        if seen & one:
            return True
        seen |= one
    return False


def _cell(row: Row, name: str, task: str) -> str:
    """A value on one line: classes as a list, answers and entities as their texts."""
    value = row.get(name)
    if name == "label" and task == "span" and value is not None:
        value = " | ".join(dict.fromkeys(answer for _, answer in value)) or NONE
    elif name == "label" and task == "tag" and value is not None:
        value = ", ".join(f"{kind}: {row['text'][start:end]}" for start, end, kind in value) or NONE
    elif isinstance(value, list):
        value = " | ".join(map(str, value))
    return " ".join(str(NONE if value is None else value)[:2000].split())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or float(value).is_integer() else f"{value:.4g}"


def runs_folder(source: str) -> str:
    """Where the next command may save its branch: runs/ and the name of the file.

    >>> runs_folder("data/reviews.2024.csv.gz")
    'runs/reviews'
    """
    return f"runs/{Path(source).name.partition('.')[0] or 'branch'}"

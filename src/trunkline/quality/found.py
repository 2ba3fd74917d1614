"""What `check` found: sections of rows for people and programs, and all of them together. The page, the file of changes and the screen read these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from trunkline.console import table
from trunkline.data.quality import Finding
from trunkline.quality.duplicates import Vectors
from trunkline.quality.suspects import Suspects
from trunkline.types import Rows

_SHOWN = 5


@dataclass(frozen=True)
class Section:
    """One kind of finding. rows: plain dicts, worst first, each with `part` ("rows" or "against"), `row` (its number there, from 1), `text`, `label`, and

    what this kind adds; kind: a name for programs; title, note, do: sentences for people (words.py has them in Chinese); count: how many were found
    """

    kind: str
    level: str
    title: str
    note: str
    do: str
    rows: tuple[dict[str, Any], ...]
    count: int

    def finding(self) -> Finding:
        return Finding(self.level, f"{self.title}: {self.count:,}", tuple(_line(row) for row in self.rows[:_SHOWN]), self.do)


@dataclass(frozen=True)
class Checked(Sequence[Finding]):
    """What `check` found. A sequence of findings, worst level first; `sections` have the rows; `print` shows it, `to_json` gives it to programs."""

    rows: Rows
    against: Rows
    sections: tuple[Section, ...]
    noticed: tuple[Finding, ...]
    vectors: Vectors | None = None
    suspects: Suspects | None = None

    @cached_property
    def _findings(self) -> list[Finding]:
        found = [*self.noticed, *(section.finding() for section in self.sections)]
        return sorted(found, key=lambda one: ("error", "warning", "note").index(one.level))

    def __len__(self) -> int:
        return len(self._findings)

    def __getitem__(self, index: Any) -> Any:
        return self._findings[index]

    def section(self, kind: str) -> Section | None:
        """The section of a kind, or None where nothing of it was found."""
        return next((one for one in self.sections if one.kind == kind), None)

    def __str__(self) -> str:
        beside = f", against {len(self.against):,} of {self.against.source}" if len(self.against) else ""
        head = f"{self.rows.source}: {len(self.rows):,} rows for {self.rows.task}{beside}"
        if not self._findings:
            return f"{head}\nnothing was found."
        lines = [[section.level, section.title, f"{section.count:,}"] for section in self.sections]
        parts = [head, table(["", "what", "how many"], lines) if lines else "", "\n".join(map(str, self._findings))]
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "source": self.rows.source,
            "against": self.against.source if len(self.against) else None,
            "rows": len(self.rows),
            "model": self.vectors.model if self.vectors else None,
            "label_errors_expected": self.suspects.expected if self.suspects else None,
            "sections": [asdict(section) for section in self.sections],
            "findings": [asdict(finding) for finding in self.noticed],
        }


def place(part: str, number: int) -> str:
    """A row as people name it.

    >>> place("rows", 1877), place("against", 3)
    ('row 1,877', 'against 3')
    """
    return f"{'row' if part == 'rows' else part} {number:,}"


def _line(row: dict[str, Any]) -> str:
    where = f"{place(row['part'], row['row'])}: " if row.get("row") else ""
    other = f" = {place(row['other_part'], row['other_row'])}: {row['other'][:60]!r} ({row['other_label']})" if row.get("other_row") else ""
    instead = f" -> {row['proposed']}" if "proposed" in row else f" / {row['other_label']}" if "pairs" in row else ""
    label = f" ({row['label']}{instead})" if row.get("label") else ""
    return f"{where}{row['text'][:80]!r}{label}{other}" + (f": {row['why']}" if row.get("why") else "")

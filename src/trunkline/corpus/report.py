"""What `clean` did: every document is either kept or counted under the reason for which it was dropped."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trunkline import storage
from trunkline.console import table
from trunkline.errors import DataError

_WHAT = {
    "too_large": "over 8 MB", "unreadable": "no text: damaged, or without the field", "empty": "nothing left after repair",
    "language": "another language", "toxic_words": "several words of the list", "personal": "personal data", "exact_duplicate": "an earlier one says the same",
    "near_duplicate": "an earlier one says nearly the same", "quality_branch": "not good enough for the branch", "toxicity_branch": "toxic for the branch",
    "balance": "too many of its domain",
}  # fmt: skip


@dataclass
class Cleaned:
    """The figures of a run. `read` is `kept` and all of `dropped`, always.

    repaired: documents in which something was changed; personal: places found, by kind; files and outputs: what was read and written
    """

    read: int
    kept: int
    dropped: dict[str, int]
    characters_kept: int
    repaired: dict[str, int]
    personal: dict[str, int]
    languages: dict[str, int]
    duplicates: dict[str, int]
    domains: dict[str, int]
    files: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    settings: dict[str, Any]
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.read != self.kept + sum(self.dropped.values()):
            raise DataError(
                f"{self.read:,} documents were read, and {self.kept:,} kept with {sum(self.dropped.values()):,} dropped: this is our fault."
            )

    def __str__(self) -> str:
        rows = [
            ("read", f"{self.read:,}", "", ""),
            ("kept", f"{self.kept:,}", self._share(self.kept), f"{self.characters_kept:,} characters"),
        ]
        by_count = sorted(self.dropped.items(), key=lambda one: (-one[1], one[0]))
        rows += [(f"  {reason}", f"{count:,}", self._share(count), _WHAT.get(reason, "")) for reason, count in by_count]
        rows += [(f"repaired: {name}", f"{count:,}", self._share(count), "") for name, count in sorted(self.repaired.items())]
        rows += [(f"personal: {name}", f"{count:,}", "", "places") for name, count in sorted(self.personal.items())]
        return "\n".join([table(("documents", "count", "share", ""), rows), *(f"note: {note}" for note in self.notes)])

    def _share(self, count: int) -> str:
        return f"{count / max(1, self.read):.1%}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Cleaned:
        """A report that was written. Raises: ValueError for what is none."""
        found = storage.from_json(data, where)
        return cls(**{name: value for name, value in found.items() if name in cls.__dataclass_fields__})

"""The verb `drift`: has what comes in changed since the rows that a branch was tuned on, in what, and which texts moved.

The tests are in `shift`; `drift_page` shows what was found. Nothing is changed, and no text leaves the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trunkline.console import table
from trunkline.errors import OptionError
from trunkline.quality.classes import words_of
from trunkline.quality.duplicates import Vectors, unit
from trunkline.quality.material import label_of, text_of
from trunkline.quality.shift import Adwin, ClassShift, Shift, class_shift, shift, word_shift
from trunkline.types import Answer, Rows

LEVEL = 0.01
"""A difference that chance alone makes less often than this is called a change."""
_SHOWN = 8


@dataclass(frozen=True)
class Confidence:
    """The branch's mean probability of its own answers, on stored and on live rows; changed: the live row (from 1) at which it did, or None."""

    before: float
    now: float
    changed: int | None


@dataclass(frozen=True)
class Drifted:
    """What `drift` found. `print` shows it, `to_json` gives it to programs.

    classes: shares of labels before and now, `by` whom they were given ("label": the files; "answer": the branch); empty where only one side has any
    words: shares of rows with a word; moved: live rows as dicts (row, text, label, other: the nearest stored text), furthest from what was there first
    """

    stored: Rows
    live: Rows
    vectors: Vectors
    shift: Shift
    by: str
    classes: tuple[ClassShift, ...]
    words: tuple[ClassShift, ...]
    confidence: Confidence | None
    moved: tuple[dict[str, Any], ...]

    @property
    def changed(self) -> bool:
        """Whether texts mean something else than before, or classes or the confidence of answers changed."""
        return bool(self.reasons)

    @property
    def reasons(self) -> list[str]:
        """In what: "texts", "classes", "confidence"."""
        told = {
            "texts": self.shift.p_value < LEVEL,
            "classes": any(one.p_value < LEVEL for one in self.classes),
            "confidence": self.confidence is not None and self.confidence.changed is not None,
        }
        return [name for name, so in told.items() if so]

    def __str__(self) -> str:
        head = f"{self.live.source}: {len(self.live):,} rows, against {len(self.stored):,} of {self.stored.source}"
        verdict = f"Changed: {', '.join(self.reasons)}." if self.changed else "No change is shown."
        lines = [f"{verdict} Texts: a difference as large comes by chance with probability {self.shift.p_value:.3f}."]
        if self.confidence:
            one = self.confidence
            lines.append(
                f"Confidence of answers: {one.before:.1%} before (too high where the branch learned from these rows), {one.now:.1%} now"
                + (f", another from row {one.changed:,} on." if one.changed else ", no change within the live rows.")
            )
        parts = [head, "\n".join(lines)]
        for title, every in ((self.by, self.classes), ("word", self.words)):
            rows = [[one.label, f"{one.before:.1%}", f"{one.now:.1%}", f"{one.p_value:.2g}"] for one in every if one.p_value < LEVEL]
            if rows:
                parts.append(table([title, "before", "now", "p"], rows[:_SHOWN]))
        if self.shift.p_value < LEVEL:
            parts.append(
                "Furthest from what was there:\n" + "\n".join(f"  row {one['row']:,}: {one['text'][:90]!r}" for one in self.moved[:5])
            )
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "stored": self.stored.source, "live": self.live.source, "rows": [len(self.stored), len(self.live)], "model": self.vectors.model,
            "changed": self.changed, "reasons": self.reasons, "mmd": self.shift.mmd, "p_value": self.shift.p_value, "by": self.by,
            "classes": [asdict(one) for one in self.classes], "words": [asdict(one) for one in self.words],
            "confidence": asdict(self.confidence) if self.confidence else None, "moved": list(self.moved),
        }  # fmt: skip


def drift(
    stored: Rows, live: Rows, vectors: Vectors, *, answers: tuple[Sequence[Answer], Sequence[Answer]] | None = None, seed: int = 0
) -> Drifted:
    """Compare rows that came in since with stored ones: what the texts mean, their words, the shares of classes, how sure the answers are.

    vectors: of `stored`, and of `live` in the place of `against`, from `quality.vectors.vectors`
    answers: a branch's to both, one label each; without them the rows' own labels are compared, where both sides have them
    Raises: OptionError for fewer than ten rows on a side, or vectors of other rows.

    >>> import trunkline as tl  # doctest: +SKIP
    >>> print(tl.drift(old, new, tl.vectors(old, new, model="minilm")))  # doctest: +SKIP
    """
    if (len(vectors.rows), len(vectors.against)) != (len(stored), len(live)):
        raise OptionError(
            f"vectors of {len(vectors.rows):,} and {len(vectors.against):,} rows: there are {len(stored):,} stored and {len(live):,} live ones. "
            "Make them of the same rows, in the same order."
        )
    found = shift(vectors.rows, vectors.against, seed=seed)
    given = (
        [[str(one.value) for one in side] for side in answers] if answers else [[label_of(row) for row in side] for side in (stored, live)]
    )
    by = "answer" if answers else "label"
    told = all(len(side) and all(side) for side in given)
    before, now = ([words_of(text_of(row)) for row in side] for side in (stored, live))
    return Drifted(
        stored, live, vectors, found, by, tuple(class_shift(*given)) if told else (), tuple(word_shift(before, now)),
        _confidence(*answers) if answers else None, _moved(stored, live, vectors, found, given[1] if told else [""] * len(live)),
    )  # fmt: skip


def _confidence(stored: Sequence[Answer], live: Sequence[Answer]) -> Confidence | None:
    """None where a branch says no probability. ADWIN reads the live rows in their order, each once."""
    before, now = ([one.probability for one in side if one.probability is not None] for side in (stored, live))
    if not before or not now:
        return None
    window = Adwin()
    cut = [window.add(min(1.0, max(0.0, value))) for value in now]
    changed = len(now) - window.count + 1 if any(cut) else None  # what the window has left begins where the last change was
    return Confidence(float(np.mean(before)), float(np.mean(now)), changed)


def _moved(stored: Rows, live: Rows, vectors: Vectors, found: Shift, labels: Sequence[str]) -> tuple[dict[str, Any], ...]:
    centre = vectors.rows.mean(0)
    ready, known = (unit(side - centre).astype(np.float32) for side in (vectors.against[found.moved], vectors.rows))
    nearest = (ready @ known.T).argmax(1)
    return tuple(
        {"row": at + 1, "text": text_of(live[at]), "label": labels[at], "other": text_of(stored[near]), "other_row": near + 1}
        for at, near in zip(found.moved.tolist(), nearest.tolist())
    )

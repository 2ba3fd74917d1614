"""The verb `check`: what is wrong with data, row by row, and what could be done about it. Nothing is changed.

Without vectors it looks at the texts and labels alone (no model, no torch); with `quality.vectors.vectors(rows, against)` also at what the texts mean.
Each kind of finding is one function below, which gives a `Section`; `page` shows them, `changes` turns them into a file that a person decides on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trunkline.console import table
from trunkline.data import personal, quality
from trunkline.data.quality import Finding
from trunkline.data.split import Split, text_key
from trunkline.errors import OptionError
from trunkline.quality import classes, texts
from trunkline.quality.duplicates import Pair, Vectors, groups, near_pairs
from trunkline.quality.suspects import Suspects, number_suspects, suspects
from trunkline.types import Row, Rows

_SHOWN = 5
_LEAST = 20  # labelled rows that label errors are looked for among


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


def check(data: Rows | Split, vectors: Vectors | None = None, *, against: Rows | None = None, seed: int = 0) -> Checked:
    """What is wrong with rows: copies, leaks into the rows they will be measured on, labels that contradict others, odd texts, personal data, ...

    against: the rows to measure on; of a split it is what is not train
    vectors: of these rows and of `against`, from `quality.vectors.vectors`; without them only what needs no model
    Raises: OptionError where the vectors are not those of the rows, or a split comes with `against`.

    >>> rows = ({"text": "Where is it?", "label": "a"}, {"text": "where is it", "label": "a"}, {"text": "Refund me", "label": "b"})
    >>> check(Rows(rows, "classify")).section("duplicates").count
    1
    """
    rows, other = _sides(data, against)
    if vectors is not None and (len(vectors.rows), len(vectors.against)) != (len(rows), len(other)):
        raise OptionError(
            f"vectors of {len(vectors.rows):,} and {len(vectors.against):,} rows: there are {len(rows):,}, and {len(other):,} to compare with. "
            "Make them of the same rows, in the same order."
        )
    noticed = tuple(quality.check(data))
    if not rows:
        return Checked(rows, other, (), noticed, vectors)
    job = _Job(rows, other, vectors, seed)
    found = [section for section in job.sections() if section.count]
    found.sort(key=lambda one: ("error", "warning", "note").index(one.level))
    return Checked(rows, other, tuple(found), noticed, vectors, job.suspects if job.is_judge else None)


def _sides(data: Rows | Split, against: Rows | None) -> tuple[Rows, Rows]:
    if isinstance(data, Rows):
        return data, against if against is not None else Rows((), data.task)
    if against is not None:
        raise OptionError("against: a split has its own rows to measure on. Give the rows alone, or leave against out.")
    return data.train, Rows((*data.validation, *data.test), data.train.task, data.test.source)


class _Job:
    """One call of `check`: the rows, and what several kinds of finding share."""

    def __init__(self, rows: Rows, against: Rows, vectors: Vectors | None, seed: int) -> None:
        self.rows, self.against, self.vectors, self.seed = rows, against, vectors, seed
        self.texts = [_text(row) for row in rows]
        self.every = [*self.texts, *(_text(row) for row in against)]

    def sections(self) -> Iterator[Section]:
        yield from (self._leaks(), self._conflicts(), self._duplicates())
        yield from self._label_errors()
        yield from (self._give_aways(), self._outliers(), self._overlaps(), self._gaps())
        yield from (self._private(), self._damage(), self._scripts(), self._lengths())

    @cached_property
    def pairs(self) -> list[Pair]:
        if self.vectors is None:
            return near_pairs(self.every)
        both = np.concatenate([self.vectors.rows, self.vectors.against]) if len(self.against) else self.vectors.rows
        return near_pairs(self.every, both, near=self.vectors.near, same=self.vectors.same)

    @cached_property
    def copies(self) -> np.ndarray:
        """(N,) the group of copies that each row belongs to: copies stay together when rows are held out, else each would vouch for the other."""
        found = np.arange(len(self.rows))
        for those in groups(len(self.rows), (pair for pair in self.pairs if pair.second < len(self.rows))):
            found[those] = those[0]
        return found

    @cached_property
    def labelled(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Places of the rows with one class for a label, the ids of these (of classes with two rows and more), and all names."""
        single = [at for at, row in enumerate(self.rows) if isinstance(row.get("label"), str)] if self.rows.task == "classify" else []
        names = sorted({self.rows[at]["label"] for at in single})
        ids = {name: at for at, name in enumerate(names)}
        return np.array(single, dtype=np.int64), np.array([ids[self.rows[at]["label"]] for at in single], dtype=np.int64), names

    @cached_property
    def suspects(self) -> Suspects | None:
        if self.vectors is None:
            return None
        if self.rows.task == "regress" and len(self.rows) >= _LEAST:
            return number_suspects(self.vectors.rows, [row["label"] for row in self.rows], seed=self.seed)
        places, labels, names = self.labelled
        if len(places) < _LEAST or len(names) < 2:
            return None
        return suspects(self.vectors.rows[places], labels, len(names), groups=self.copies[places], seed=self.seed)

    @property
    def is_judge(self) -> bool:
        """Whether what doubts the labels agrees with at least half of them."""
        return self.suspects is not None and float((self.suspects.doubt > 0).mean()) <= 0.5

    def told(self, at: int, **more: Any) -> dict[str, Any]:
        """A row of a section: `at` counts through the rows and then through those they are compared with."""
        inside = at < len(self.rows)
        row: Row = self.rows[at] if inside else self.against[at - len(self.rows)]
        part, number = ("rows", at + 1) if inside else ("against", at - len(self.rows) + 1)
        named = {"id": row["id"]} if "id" in row else {}
        return {"part": part, "row": number, **named, "text": self.every[at], "label": _label(row), **more}

    def _pair(self, pair: Pair, **more: Any) -> dict[str, Any]:
        other = self.told(pair.second)
        return self.told(
            pair.first, other_part=other["part"], other_row=other["row"], other=other["text"], other_label=other["label"],
            score=round(pair.score, 4), by=pair.by, **more,
        )  # fmt: skip

    def _leaks(self) -> Section:
        across = [pair for pair in self.pairs if pair.first < len(self.rows) <= pair.second]
        exact = {text_key(row) for row in self.against}
        found = [self._pair(pair, action="drop") for pair in across]
        told = {row["row"] for row in found}
        missed = [at for at, row in enumerate(self.rows) if text_key(row) in exact and at + 1 not in told] if len(self.against) else []
        # a text in many copies is paired with its neighbours only
        found += [self.told(at, score=1.0, by="surface", action="drop") for at in missed]
        return Section(
            "leaks", "error", "Rows that stand in what is measured on too",
            "The same text, or nearly, is on both sides: what was learned by heart is measured as if it were understood.",
            "take these rows out of the training rows", tuple(found), len({row["row"] for row in found}),
        )  # fmt: skip

    def _conflicts(self) -> Section:
        if self.rows.task not in ("classify", "regress"):
            return _nothing("conflicts")
        inside = [p for p in self.pairs if p.second < len(self.rows) and _label(self.rows[p.first]) != _label(self.rows[p.second])]
        found = [self._pair(pair, action="") for pair in inside]
        return Section(
            "conflicts", "warning", "Nearly the same text, different labels",
            "No model can get both right. One of the labels is wrong, or the two labels mean nearly the same.",
            "decide which label is right, or put the two labels together", tuple(found), len(found),
        )  # fmt: skip

    def _duplicates(self) -> Section:
        alike = [p for p in self.pairs if p.second < len(self.rows) and _label(self.rows[p.first]) == _label(self.rows[p.second])]
        best: dict[int, Pair] = {}
        for pair in alike:
            best.setdefault(pair.second, pair)
        found, extra = [], 0
        for those in groups(len(self.rows), alike):
            extra += len(those) - 1
            found += [self._pair(best[at], of=at + 1) for at in those[1:] if at in best]
        found.sort(key=lambda row: -row["score"])
        rows = [{**self.told(row["of"] - 1), **_swapped(row), "action": "drop"} for row in found]
        return Section(
            "duplicates", "note", "Rows that repeat another row",
            "Copies with the same label count twice, and where they are split up they make a score look better than it is.",
            "keep one of each, or give copies the same group so that they stay on one side", tuple(rows), extra,
        )  # fmt: skip

    def _label_errors(self) -> Iterator[Section]:
        found = self.suspects
        if found is None:
            return
        numbers = self.rows.task == "regress"
        if not self.is_judge:
            yield Section(
                "labels", "warning", "Labels that this model cannot judge",
                "It would give most rows another label than theirs, so it is the model that does not understand these texts. No row is named.",
                "give a model that knows the language of the texts", (), int((found.doubt > 0).sum()),
            )  # fmt: skip
            return
        places, _, names = (np.arange(len(self.rows)), None, []) if numbers else self.labelled
        doubtful = [at for at in found.order.tolist() if found.doubt[at] > 0][: max(found.expected, 1)]
        rows = []
        for at in doubtful:
            proposed = f"{found.proposed[at]:.4g}" if numbers else names[int(found.proposed[at])]
            sure = {} if numbers else {"probability": round(float(found.probabilities[at, int(found.proposed[at])]), 4)}
            rows.append(self.told(int(places[at]), proposed=proposed, score=round(float(found.doubt[at]), 3), **sure, action="relabel"))
        yield Section(
            "labels", "warning", "Labels that may be wrong",
            "The labels of all other rows speak for another label here. Worst first; in clean data most of these are right, so look at each.",
            "correct the labels that are wrong", tuple(rows), len(rows),
        )  # fmt: skip

    def _give_aways(self) -> Section:
        places, _, _ = self.labelled
        found = classes.give_aways([self.texts[at] for at in places], [self.rows[at]["label"] for at in places])
        rows = [
            {"part": "rows", "row": None, "text": one.word, "label": one.label, "rows_with_it": one.rows, "with_label": one.with_label}
            for one in found
        ]
        return Section(
            "give-aways", "warning", "Words that give a label away",
            "Nearly every row with this word has this label. That may be its meaning, or a trace of how the data was made.",
            "see whether the word will be there in real use; if not, take it out of the texts", tuple(rows), len(rows),
        )  # fmt: skip

    def _outliers(self) -> Section:
        if self.vectors is None:
            return _nothing("outliers")
        order, score = classes.outliers(self.vectors.rows)
        rows = tuple(self.told(int(at), score=round(float(score[at]), 2), action="") for at in order)
        return Section(
            "outliers", "note", "Rows that are like no others",
            "Another subject, another language, or noise; sometimes the rarest and most useful rows.",
            "see whether they belong here", rows, len(rows),
        )  # fmt: skip

    def _overlaps(self) -> Section:
        places, labels, names = self.labelled
        if self.suspects is None or self.rows.task != "classify":
            return _nothing("overlaps")
        rows = []
        for one in classes.overlaps(self.suspects.probabilities, labels)[:50]:
            first = int(places[one.rows[0]])
            told = {"label": names[one.first], "other_label": names[one.second], "score": round(one.share, 4), "pairs": one.count}
            rows.append({**self.told(first), **told})
        return Section(
            "overlaps", "note", "Labels that are taken for each other",
            "Rows of the one look like the other, by the labels of all other rows. The text is the clearest such row.",
            "write down what sets the two apart, or put them together", tuple(rows), len(rows),
        )  # fmt: skip

    def _gaps(self) -> Section:
        _, labels, names = self.labelled
        if len(names) < 2:
            return _nothing("gaps")
        known = None if self.suspects is None else self.suspects.probabilities
        rows = [
            {"part": "rows", "row": None, "text": one.why, "label": one.label, "rows_with_it": one.rows,
             "score": None if one.recall is None else round(one.recall, 3)}
            for one in classes.gaps(labels, names, known)
        ]  # fmt: skip
        return Section(
            "gaps", "warning", "Labels with too little to go by",
            "Few rows, or rows that the others never lead to. The score is how many of its rows are recognised.",
            "collect and label more of these first", tuple(rows), len(rows),
        )  # fmt: skip

    def _private(self) -> Section:
        rows = [
            self.told(one.row, why=", ".join(f"{kind} {count}" for kind, count in one.kinds.items()), action="rewrite",
                      new_text=personal.mask(self.rows[one.row]["text"]))
            for one in texts.private([row["text"] for row in self.rows])
        ]  # fmt: skip
        return Section(
            "personal", "warning", "Personal data",
            "Mail addresses, phone numbers, bank cards, IBANs, Chinese identity numbers, IP addresses. Names and addresses are not found.",
            "mask them, unless you may keep them and need to", tuple(rows), len(rows),
        )  # fmt: skip

    def _damage(self) -> Section:
        rows = []
        for at, row in enumerate(self.rows):
            if why := texts.damage(self.texts[at]):
                better = texts.repaired(row["text"])
                rows.append(self.told(at, why=why, action="rewrite" if better else "", **({"new_text": better} if better else {})))
        return Section(
            "encoding", "warning", "Damaged characters",
            "A file was read in another encoding than it was written in, or markup was left in.",
            "repair them where they come from", tuple(rows), len(rows),
        )  # fmt: skip

    def _scripts(self) -> Section:
        _, odd = texts.odd_scripts(self.texts)
        rows = tuple(self.told(at, why=texts.script(self.texts[at]), action="") for at in odd)
        return Section(
            "languages", "note", "Texts in a writing system that few others are in",
            "Told by their letters; languages that share an alphabet are not told apart.",
            "see whether they belong here", rows, len(rows),
        )  # fmt: skip

    def _lengths(self) -> Section:
        short, long = texts.odd_lengths(self.texts)
        rows = [self.told(at, why=f"{len(self.texts[at]):,} characters", action="") for at in [*short, *long]]
        return Section(
            "lengths", "note", "Texts far shorter or longer than the others",
            "Very short ones say too little; of very long ones a model reads the beginning only.",
            "see whether they are whole, and whether one row is one message", tuple(rows), len(rows),
        )  # fmt: skip


def place(part: str, number: int) -> str:
    """A row as people name it.

    >>> place("rows", 1877), place("against", 3)
    ('row 1,877', 'against 3')
    """
    return f"{'row' if part == 'rows' else part} {number:,}"


def _nothing(kind: str) -> Section:
    return Section(kind, "note", kind, "", "", (), 0)


def _swapped(row: dict[str, Any]) -> dict[str, Any]:
    """A pair seen from its second row: the first one is the one it repeats."""
    return {"other_part": row["part"], "other_row": row["row"], "other": row["text"], "other_label": row["label"],
            "score": row["score"], "by": row["by"]}  # fmt: skip


def _text(row: Row) -> str:
    return row["text"] if not row.get("text_b") else f"{row['text']} | {row['text_b']}"


def _label(row: Row) -> str:
    label = row.get("label")
    if label is None:
        return ""
    return "|".join(label) if isinstance(label, list) and all(isinstance(one, str) for one in label) else str(label)


def _line(row: dict[str, Any]) -> str:
    where = f"{place(row['part'], row['row'])}: " if row.get("row") else ""
    other = f" = {place(row['other_part'], row['other_row'])}: {row['other'][:60]!r} ({row['other_label']})" if row.get("other_row") else ""
    instead = f" -> {row['proposed']}" if "proposed" in row else f" / {row['other_label']}" if "pairs" in row else ""
    label = f" ({row['label']}{instead})" if row.get("label") else ""
    return f"{where}{row['text'][:80]!r}{label}{other}" + (f": {row['why']}" if row.get("why") else "")

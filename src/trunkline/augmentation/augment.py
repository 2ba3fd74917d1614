"""The verb `augment`: new rows made of training rows, let in by what a model finds they mean, and whether they helped.

divide      validation and test rows are set aside: nothing is made of them, and no new row enters them
make        each method makes new texts of each training row, by chance, the same for the same seed
judge       a new row stays where its states are near its origin's, no other label is nearer, and the branch keeps its label
measure     a head on the states with and without the new rows, on rows held out in turn, with its interval
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from trunkline import branch as branches
from trunkline import names
from trunkline.augmentation import edits, meaning
from trunkline.augmentation.gain import gain
from trunkline.augmentation.settings import AugmentSettings
from trunkline.augmentation.synonyms import Neighbours, WordNet
from trunkline.augmentation.written import Masked, Through
from trunkline.console import table
from trunkline.data.cells import fold
from trunkline.data.split import Split, in_parts, row_id, with_made
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.interval import Comparison
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.model.standard import standard
from trunkline.quality.vectors import vectors
from trunkline.types import Row, Rows

TASKS = ("classify", "regress")
_TRIES = 3  # draws for each copy: an edit by chance may change nothing, or too much

Maker = Callable[[Sequence[str], float, Random], list[str]]


@dataclass
class Augmented:
    """parts: the split, with the new rows in train; new: these alone, each with `source` (the id of its origin) and `method`.

    made: new texts by method; dropped: by method and reason; least: the cosine that was asked for; gain: with less without, or None
    """

    parts: Split
    new: tuple[Row, ...]
    made: dict[str, int]
    dropped: dict[str, dict[str, int]]
    least: float
    gain: Comparison | None
    without: float | None
    notes: tuple[str, ...] = ()

    @property
    def helped(self) -> bool:
        """Whether a gain was shown: its interval is above zero."""
        return self.gain is not None and self.gain.verdict == "better"

    @property
    def verdict(self) -> str:
        """A sentence for people."""
        if self.gain is None or self.without is None:
            return "Whether the new rows help was not measured."
        scale = 100 if self.gain.metric == "accuracy" else 1
        said = f"{scale * self.gain.difference:+.2f} (95% interval {scale * self.gain.low:+.2f} to {scale * self.gain.high:+.2f}) from {scale * self.without:.2f}"
        words = {"better": "The new rows helped", "worse": "The new rows did harm: do not use them"}
        return f"{words.get(self.gain.verdict, 'The new rows did not help: no gain was shown')}. {self.gain.metric}, a head on the states, held-out rows: {said}."

    def __str__(self) -> str:
        kept = Counter(row["method"] for row in self.new)
        rows = []
        for method, made in self.made.items():
            why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.dropped[method].items()))
            rows.append((method, f"{made:,}", f"{kept[method]:,}", why))
        return "\n".join([table(("method", "made", "let in", "left out"), rows), *(f"note: {note}" for note in self.notes), self.verdict])

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "train": len(self.parts.train) - len(self.new), "new": len(self.new), "made": self.made, "dropped": self.dropped, "least_cosine": self.least,
            "gain": None if self.gain is None else asdict(self.gain), "without": self.without, "helped": self.helped, "notes": list(self.notes),
        }  # fmt: skip


def augment(data: Rows | Split, model: str | Path | Backbone | None = None, *, settings: AugmentSettings | None = None) -> Augmented:
    """New rows for training, made of the training rows of `data` (Rows are divided first, as `tune` would).

    Raises: OptionError for a task whose labels stand at places of the text, or a method that this model cannot do; DataError for fewer than ten
    training rows; MissingExtra for a method whose package is not there.
    """
    settings = settings or AugmentSettings()
    task = data.train.task if isinstance(data, Split) else data.task
    if task not in TASKS:
        raise OptionError(f"task={task!r}: the labels of this task would not fit a changed text. Augment for {' or '.join(TASKS)}.")
    parts = in_parts(data, settings)
    rows = [row for row in parts.train if "source" not in row]
    if len(rows) < 10:
        raise DataError(f"{len(rows)} training rows: at least 10 are needed to tell what is near. Give more.")
    backbone = model if isinstance(model, Backbone) else load_backbone(model or standard("encoder", rows))
    texts = [row["text"] for row in rows]
    made, kept = {}, []
    dropped: dict[str, Counter[str]] = {name: Counter() for name in settings.names}
    seen = {fold(row["text"]) for part in parts.parts().values() for row in part}  # also of validation and test: no copy of these is made
    for name in settings.names:
        candidates = _candidates(name, _maker(name, texts, backbone, settings), texts, settings)
        made[name] = len(candidates)
        kept += _fresh(name, candidates, seen, dropped[name])
    new = [{**_plain(rows[at]), "text": text, "source": row_id(rows[at]), "method": name} for at, text, name in kept]
    found = vectors(rows, new, model=backbone, seed=settings.seed)
    source = np.array([at for at, _, _ in kept], dtype=np.int64)
    labels = meaning.label_ids([row["label"] for row in rows])
    least = meaning.usual(found.rows, labels) if settings.meaning is None else settings.meaning
    reasons = meaning.judged(found.rows, labels, found.against, source, least)
    reasons = _by_branch(settings.branch, new, reasons)
    for row, reason in zip(new, reasons):
        if reason:
            dropped[row["method"]][reason] += 1
    stays = np.array([reason is None for reason in reasons], dtype=bool)
    let_in = tuple({**row, "id": f"{row['source']}+{number}"} for number, row in enumerate(row for row, stay in zip(new, stays) if stay))
    measured, notes = _measured(rows, labels, found.rows, found.against[stays], source[stays], parts, settings)
    counted = {name: dict(counts) for name, counts in dropped.items()}
    compared, without = measured or (None, None)
    return Augmented(with_made(parts, let_in), let_in, made, counted, least, compared, without, tuple(notes))


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("id", "split")}


def _maker(name: str, texts: Sequence[str], backbone: Backbone, settings: AugmentSettings) -> Maker:
    """The function of a method over many texts."""
    if name == "masked":
        return Masked(backbone)
    if name in ("translate", "paraphrase"):
        folders = (settings.there, settings.back) if name == "translate" else (settings.writer,)
        return Through([folder for folder in folders if folder])
    if name in ("synonym", "neighbour"):
        others = WordNet() if name == "synonym" else Neighbours(backbone)
        return lambda some, share, random: [edits.words_replaced(text, share, random, others) for text in some]
    edit = edits.Homophones(texts) if name == "homophone" else getattr(edits, name)
    return lambda some, share, random: [edit(text, share, random) for text in some]


def _candidates(name: str, maker: Maker, texts: Sequence[str], settings: AugmentSettings) -> list[tuple[int, str]]:
    """For each copy of each text the first draw that changed it, with the place of the text."""
    found = []
    drawn_once = name in ("translate", "paraphrase")  # asked again they say the same
    for copy in range(1 if drawn_once else settings.copies):
        waiting = list(range(len(texts)))
        for attempt in range(1 if drawn_once else _TRIES):
            if not waiting:
                break
            word = f"{settings.seed}:{name}:{copy}:{attempt}".encode()
            random = Random(int.from_bytes(hashlib.sha256(word).digest()[:8], "big"))
            made = maker([texts[at] for at in waiting], settings.share, random)
            changed = [(at, text) for at, text in zip(waiting, made) if text.strip() and fold(text) != fold(texts[at])]
            found += changed
            waiting = sorted(set(waiting) - {at for at, _ in changed})
    return sorted(found, key=lambda one: one[0])


def _fresh(name: str, candidates: list[tuple[int, str]], seen: set[str], dropped: Counter[str]) -> list[tuple[int, str, str]]:
    """Those that no row and no earlier candidate says already."""
    found = []
    for at, text in candidates:
        if fold(text) in seen:
            dropped[meaning.UNCHANGED] += 1
        else:
            seen.add(fold(text))
            found.append((at, text, name))
    return found


def _by_branch(folder: str | None, new: Sequence[Row], reasons: list[str | None]) -> list[str | None]:
    """The reasons, with those of a branch that gives another label."""
    if folder is None or not new:
        return reasons
    answers = branches.load(folder).predict(new)
    return [reason or (meaning.BRANCH if answer.value != row["label"] else None) for reason, answer, row in zip(reasons, answers, new)]


def _measured(
    rows: Sequence[Row],
    labels: np.ndarray | None,
    own: np.ndarray,
    made: np.ndarray,
    source: np.ndarray,
    parts: Split,
    settings: AugmentSettings,
) -> tuple[tuple[Comparison, float] | None, list[str]]:
    """The gain and the value without, where it can be measured; and what is to be said of it."""
    if not settings.folds or not len(made):
        return None, [] if len(made) else ["no new row was let in: lower `meaning`, or use another method."]
    task = parts.train.task
    if task == "classify" and labels is None:
        return None, ["with several labels a row the gain is not measured: tune with and without, and compare."]
    spec = names.task(task).TaskSpec(task=task)
    if task == "classify":
        spec = replace(spec, labels=tuple(sorted({row["label"] for row in rows})))
    truth = labels if labels is not None else np.array([row["label"] for row in rows], dtype=np.float64)
    if len(truth) < 2 * settings.folds:
        return None, [f"{len(truth)} training rows are too few to hold some out: the gain was not measured."]
    return gain(own, truth, made, source, spec, folds=settings.folds, seed=settings.seed), []

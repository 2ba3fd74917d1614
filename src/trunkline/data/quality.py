"""`check`: what is wrong with the rows before any time is spent on training, each finding with what to do about it.

Reads Rows or a Split; knows nothing of models. `require` turns errors into one DataError; `drop_leaks` takes out of train (and
validation) what stands in a later part too. Two rows are the same when `split.text_key` is: NFKC, casefold, white space.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from trunkline.data.cells import fold
from trunkline.data.preferences import check_pairs
from trunkline.data.split import PARTS, Split, labels_of, text_key
from trunkline.errors import DataError
from trunkline.types import Row, Rows

IMBALANCE = 20  # largest class : smallest class
LONG_TEXT = 10_000  # characters
_SHOWN = 10
_GIVE_AWAY_ROWS = 5_000  # looked at for words that give a label away
_WORD = re.compile(r"[a-z0-9_]{2,}|[\u3400-\u9fff]{2}", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """One thing noticed. "error": training on this gives numbers that mean nothing; "warning": look at it."""

    level: str
    what: str
    rows: tuple[str, ...]
    do: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}" + "".join(f"\n    {row}" for row in self.rows) + f"\n    -> {self.do}"


def check(data: Split | Rows) -> list[Finding]:
    """All findings, errors first.

    >>> [finding.what for finding in check(Rows(({"text": "hello", "label": "a"},), "classify"))]
    ["there is one class only: 'a'", 'classes with fewer than two rows: 1']
    """
    parts = data.parts() if isinstance(data, Split) else {"rows": data}
    rows = [row for part in parts.values() for row in part]
    task = next(iter(parts.values())).task
    found = [*_empty(parts, data.unwanted if isinstance(data, Split) else ())]
    if rows and task in ("classify", "regress"):  # elsewhere a text may well have several answers
        found += [*(_classes(rows) if task == "classify" else _constant(rows)), *_conflicts(rows)]
    if rows and task == "reward":
        found += [Finding(*noticed) for noticed in check_pairs(rows)]
    found += _long(rows)
    if isinstance(data, Split) and data.train:
        # what a user had earlier is what the next item is guessed from: there a group in two parts is no leak
        found += [*(() if task == "recommend" else (*_leaks(data), *_groups(data))), *_unknown_labels(data)]
    if rows and task == "classify":
        found += [*_spellings(rows), *_give_aways(rows)]
    return sorted(found, key=lambda finding: finding.level)


def require(findings: Sequence[Finding]) -> None:
    """Raises: one DataError with all errors (up to ten). Warnings pass."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        listed = "\n".join(str(finding).removeprefix("error: ") for finding in errors[:_SHOWN])
        raise DataError(f"The data cannot be trained on ({len(errors)} error{'s' if len(errors) > 1 else ''}):\n{listed}{more}")


def drop_leaks(data: Split) -> Split:
    """The split without the rows of train that stand in validation or test too, nor those of validation that stand in test.

    `notes` says how many went.
    """
    test = {text_key(row) for row in data.test}
    validation = tuple(row for row in data.validation if text_key(row) not in test)
    later = test | {text_key(row) for row in validation}
    train = tuple(row for row in data.train if text_key(row) not in later)
    gone = {"train": len(data.train) - len(train), "validation": len(data.validation) - len(validation)}
    notes = [f"{count:,} rows were taken out of {name}: their text stands in a later part too." for name, count in gone.items() if count]
    kept_train, kept_validation = replace(data.train, rows=train), replace(data.validation, rows=validation)
    return replace(data, train=kept_train, validation=kept_validation, notes=(*data.notes, *notes))


def _empty(parts: dict[str, Rows], unwanted: tuple[str, ...]) -> Iterator[Finding]:
    for name, part in parts.items():
        if not part and name not in unwanted:
            yield Finding("error", f"{name} has no rows", (), "give more rows, another share (validation=, test=), or a file for this part")


def _classes(rows: list[Row]) -> Iterator[Finding]:
    counts = Counter(label for row in rows for label in labels_of(row, "classify"))
    if len(counts) < 2:
        one = f"there is one class only: {next(iter(counts))!r}" if counts else "no row has a label"
        yield Finding("error", one, (), "give rows of at least two classes, or another label column (label=)")
    single = sorted(label for label, count in counts.items() if count < 2)
    if single:
        do = "add rows, merge these classes into others, or take them out: one row cannot be both learned from and measured on"
        yield Finding("error", f"classes with fewer than two rows: {len(single):,}", tuple(map(repr, single[:_SHOWN])), do)
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    if least and most > IMBALANCE * least:
        rare = tuple(f"{label!r}: {count:,} rows" for label, count in counts.most_common()[: -_SHOWN - 1 : -1])
        do = "use class weights, read macro F1 and not accuracy, and collect more of the rare classes"
        yield Finding("warning", f"the largest class has {most:,} rows, the smallest {least:,}", rare, do)


def _constant(rows: list[Row]) -> Iterator[Finding]:
    if len({row.get("label") for row in rows}) < 2:
        yield Finding(
            "error", f"every row has the same number as its label: {rows[0].get('label')!r}", (), "give another label column (label=)"
        )


def _conflicts(rows: list[Row]) -> Iterator[Finding]:
    labels: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        labels[text_key(row)][repr(row.get("label"))] = None
    bad = [(key, found) for key, found in labels.items() if len(found) > 1]
    if bad:
        shown = tuple(f"{_readable(key)}: {', '.join(found)}"[:200] for key, found in bad[:_SHOWN])
        do = "decide which label is right, or take these rows out: no model can get all of them right"
        yield Finding("warning", f"texts that stand there with different labels: {len(bad):,}", shown, do)


def _long(rows: list[Row]) -> Iterator[Finding]:
    long = [row for row in rows if len(row["text"]) + len(row.get("text_b", "")) > LONG_TEXT]
    if long:
        shown = tuple(f"{len(row['text']):,} characters: {row['text'][:60]!r}" for row in long[:_SHOWN])
        do = "a model reads the first max_tokens tokens only: raise max_tokens, or cut these texts to what matters"
        yield Finding("warning", f"texts over {LONG_TEXT:,} characters: {len(long):,}", shown, do)


def _leaks(data: Split) -> Iterator[Finding]:
    keys = {name: {text_key(row) for row in part} for name, part in data.parts().items()}
    for early, late in _pairs():
        shared = keys[early] & keys[late]
        if shared:
            shown = tuple(_readable(key) for key in sorted(shared)[:_SHOWN])
            out = f"let the repeated rows be taken out of {early} (--drop-leaks; in Python trunkline.data.quality.drop_leaks)"
            do = f"{out}, or correct the files: what was learned by heart is no test"
            yield Finding("error", f"texts that stand in {early} and in {late}: {len(shared):,}", shown, do)


def _groups(data: Split) -> Iterator[Finding]:
    groups = {name: {row["group"] for row in part if "group" in row} for name, part in data.parts().items()}
    for early, late in _pairs():
        shared = groups[early] & groups[late]
        if shared:
            do = "split by='group', or correct the files: rows of one group are too alike to test one another"
            yield Finding(
                "error", f"groups that stand in {early} and in {late}: {len(shared):,}", tuple(map(repr, sorted(shared)[:_SHOWN])), do
            )


def _pairs() -> Iterable[tuple[str, str]]:
    return ((early, late) for place, early in enumerate(PARTS) for late in PARTS[place + 1 :])


def _unknown_labels(data: Split) -> Iterator[Finding]:
    task = data.train.task
    known = {label for row in data.train for label in labels_of(row, task)}
    for name in ("validation", "test"):
        counts = Counter(label for row in data.parts()[name] for label in labels_of(row, task) if label not in known)
        if counts:
            shown = tuple(f"{label!r}: {count:,} rows" for label, count in counts.most_common(_SHOWN))
            listed = ", ".join(sorted(known)[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
            do = f"correct the spelling, take these rows out, or add such rows to train. Known: {listed}"
            yield Finding("error", f"labels of {name} that train does not have: {len(counts):,}", shown, do)


def _spellings(rows: list[Row]) -> Iterator[Finding]:
    spelled: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for label in labels_of(row, "classify"):
            spelled[fold(label)].add(label)
    twice = [sorted(labels) for labels in spelled.values() if len(labels) > 1]
    if twice:
        do = "if they mean the same, write them the same; now they are different classes"
        yield Finding("warning", "labels that differ only in case, width or white space", tuple(map(repr, twice[:_SHOWN])), do)


def _give_aways(rows: list[Row]) -> Iterator[Finding]:
    """Words that stand in 95% of a label's rows and in next to no others: a trace of how the data was made, more often than not."""
    single = [row for row in rows[:: -(-len(rows) // _GIVE_AWAY_ROWS)] if isinstance(row.get("label"), str)]
    sizes = Counter(row["label"] for row in single)
    total: Counter[str] = Counter()
    within: dict[str, Counter[str]] = defaultdict(Counter)
    for row in single:
        words = _words(fold(row["text"]))
        total.update(words)
        within[row["label"]].update(words)
    shown = [
        f"{word!r} in {count:,} of {sizes[label]:,} rows of {label!r}, in {total[word] - count:,} others"
        for label, counts in sorted(within.items())
        for word, count in counts.most_common(50)
        if sizes[label] >= 20 and count >= 0.95 * sizes[label] and count >= 0.98 * total[word]
    ]
    if shown and len(sizes) > 1:
        do = "see whether this word will be there in real use; if it comes from how the data was made, take it out of the texts"
        yield Finding("warning", f"words that alone give a label away: {len(shown):,}", tuple(shown[:_SHOWN]), do)


def _readable(key: str) -> str:
    return repr(key.replace("\x1f", " | ")[:80])


def _words(text: str) -> set[str]:
    words = set(_WORD.findall(text))
    if not text.isascii():  # pairs of Chinese characters that start at an odd place
        words.update(_WORD.findall(text[1:]))
    return words

"""Several methods on the same rows, split and states, in one table. Above `tune`, which it calls once for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.data.split import Split
from trunkline.errors import OptionError
from trunkline.evaluation.interval import Comparison, paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute, suited
from trunkline.evaluation.wording import duration, number, with_interval
from trunkline.model.backbone import AUTO, Backbone, Depth
from trunkline.train.settings import Settings
from trunkline.train.tune import as_read, checked, stored, tune
from trunkline.types import Rows


@dataclass(frozen=True)
class Entry:
    """One method. validation: what it was chosen by; measured: value, low and high of the main metric on the test rows (the validation rows where
    there are none); trained: parameters; bytes: of what a branch saves; seconds: of tuning once, without encoding; against: the best minus
    this one, on the same rows (None for the best itself).
    """

    method: str
    validation: float
    measured: dict[str, float]
    trained: int
    bytes: int
    seconds: float
    against: Comparison | None = None


@dataclass(frozen=True)
class Compared:
    """The branches by method, as they were asked for, and the table. `best` is the method that is best on the validation rows."""

    metric: str
    best: str
    branches: dict[str, Branch]
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """The table and the verdict as plain JSON values."""
        return {
            "metric": self.metric,
            "best": self.best,
            "depth": self.branches[self.best].depth,
            "methods": [{**vars(entry), "against": vars(entry.against) if entry.against else None} for entry in self.entries],
        }

    def __str__(self) -> str:
        """The table for a terminal, and below it which method is best and whether that is shown."""
        head = ["method", METRICS[self.metric].title, "on validation", "trained", "bytes", "seconds", f"{self.best} against it"]
        lines = [" | ".join(cells) for cells in _in_columns([head, *map(self._cells, self.entries)])]
        lines.insert(1, "-+-".join("-" * len(cell) for cell in lines[0].split(" | ")))
        depth = self.branches[self.best].depth
        lines += [f"All at depth {depth}, on the same split. In brackets: 95% intervals.", "", self.verdict()]
        return "\n".join(line.rstrip() for line in lines)

    def verdict(self) -> str:
        """Which method is best by validation, and from which others it is shown to differ on the rows that are measured."""
        best = next(entry for entry in self.entries if entry.method == self.best)
        said = f"Best on the validation rows: {self.best} ({METRICS[self.metric].title} {number(self.metric, best.validation)})."
        others = {
            word: [e.method for e in self.entries if e.against and e.against.verdict == word]
            for word in ("better", "no difference shown", "worse")
        }
        found = []
        for word, text in (
            ("better", "shown to be better than {}"),
            ("worse", "shown to be worse than {}"),
            ("no difference shown", "no difference shown from {}"),
        ):
            if others[word]:
                found.append(text.format(", ".join(others[word])))
        return f"{said} On the rows that are measured: {'; '.join(found)}."

    def _cells(self, entry: Entry) -> list[str]:
        verdict = "" if entry.against is None else f"{number(self.metric, entry.against.difference)}, {entry.against.verdict}"
        value = with_interval(self.metric, entry.measured)
        size = f"{entry.bytes:,}"
        return [entry.method, value, number(self.metric, entry.validation), f"{entry.trained:,}", size, duration(entry.seconds), verdict]


def compare(
    rows: Rows | Split, model: str | Path | Backbone | None = None, *, methods: Sequence[str] = ("full", "lora", "bitfit", "probe"),
    depth: Depth = AUTO, settings: Settings | None = None, out: str | Path | None = None,
) -> Compared:  # fmt: skip
    """Tune with each of several methods on the same split and states, and put them into one table.

    methods: each as `tune` takes it, with options as in "lora:rank=8"
    depth: one for all; "auto" searches with the first method that learns more than a head, and the others take what it found
    out: each branch is saved in the folder of its method's name below it; a run that was stopped goes on

    Raises: as `tune`; OptionError for fewer than two methods, or one that is given twice.
    """
    methods = [method.strip() for method in methods]
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise OptionError(f"methods={','.join(methods)!r}: give at least two different methods, as in 'full,lora,bitfit'.")
    settings = settings or Settings()
    parts, _ = checked(rows, settings)
    branches: dict[str, Branch] = {}
    heads_last = sorted(
        methods, key=lambda one: one.startswith("probe")
    )  # a head alone is the same at all depths: it has none to search for
    for method in heads_last:
        place = Path(out) / folder_of(method) if out else None
        branches[method] = tune(parts, model, method=method, depth=depth, settings=settings, out=place)
        depth, model = branches[method].depth, branches[method].backbone  # of all branches one set of frozen weights is kept
        settings = as_read(settings, branches[method].spec)
    return _table({method: branches[method] for method in methods}, parts, settings)


def folder_of(method: str) -> str:
    """The folder name of a method with its options.

    >>> folder_of("lora:rank=8:dropout=0.1")
    'lora-rank-8-dropout-0.1'
    """
    return method.replace(":", "-").replace("=", "-").replace("+", "-")


def _table(branches: dict[str, Branch], parts: Split, settings: Settings) -> Compared:
    first = next(iter(branches.values()))
    watched = settings.metric or names.task(first.task).METRICS[0]
    metric = suited(names.task(first.task).METRICS, first.spec.kind)[0]
    sign = 1 if METRICS[watched].higher_is_better else -1
    chosen_by = _answers(branches, parts.validation)
    reached = {method: float(compute([watched], *one)[watched]) for method, one in chosen_by.items()}
    best = max(branches, key=lambda method: sign * reached[method])
    measured = _answers(branches, parts.test) if len(parts.test) else chosen_by
    entries = []
    for method, branch in branches.items():
        entry = _entry(method, branch, reached[method], metric)
        if method != best:
            entry = replace(entry, against=paired(metric, *measured[method], measured[best][1]))
        entries.append(entry)
    return Compared(metric, best, branches, tuple(entries))


def _entry(method: str, branch: Branch, reached: float, metric: str) -> Entry:
    report: Any = branch.report
    tuned = next(result for result in report.results if result["name"] == "tuned")
    size = len(safetensors.torch.save({name: p.detach().cpu().contiguous() for name, p in branch.network.learned().items()}))
    return Entry(
        method, reached, tuned["metrics"][metric], report.model["trained"], size, report.cost["seconds"]["tune"] / len(report.seeds)
    )


def _answers(branches: dict[str, Branch], rows: Rows) -> dict[str, tuple[Any, Any]]:
    """By method: truth and scores on some rows."""
    found = {}
    for method, branch in branches.items():
        items = branch.prepare(rows)
        source, _ = stored(branch.backbone, branch.depth, {"rows": items}, branch.states)
        found[method] = truth_and_scores(branch.spec, items, branch.answers(items, source))
    return found


def _in_columns(rows: list[list[str]]) -> list[list[str]]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [[cell.ljust(width) for cell, width in zip(row, widths)] for row in rows]

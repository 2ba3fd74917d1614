"""The verb `evaluate`: how good a branch is on labelled rows, with intervals."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trunkline import names
from trunkline.errors import DataError
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.measure import drawn, remarks, samples, tables, truth_and_scores, written
from trunkline.evaluation.metrics import suited
from trunkline.evaluation.report import Report
from trunkline.types import Rows

if TYPE_CHECKING:
    from trunkline.branch import Branch


def evaluate(branch: Branch, rows: Rows) -> Report:
    """The branch's metrics on `rows`, with 95% intervals, and what it gets wrong.

    Raises: DataError when there are no rows, or a label is not one of the branch's.
    """
    if not len(rows):
        raise DataError(f"{rows.source}: no rows to measure on.")
    started = time.perf_counter()
    items = branch.prepare(rows)
    truth, scores = truth_and_scores(branch.spec, items, branch.answers(items))
    known = names.task(branch.task).METRICS
    found, shown = bootstrap(suited(known, branch.spec.kind), truth, scores), tables(branch.spec, rows, truth, scores)
    if (of_texts := suited(known, "texts")) and branch.spec.kind != "texts" and items[0].gold is not None:
        at = drawn(rows)
        references, texts = written(branch, rows, items, at)
        found |= bootstrap(of_texts, references, texts)
        shown["samples"] = samples([rows[i] for i in at], references, texts)
    seconds = time.perf_counter() - started
    notes = [*rows.notes, *remarks(branch.spec, items), *_learned_from(branch, rows)]
    return Report(
        task=branch.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"source": rows.source, "rows": {"test": len(rows)}, "fingerprint": rows.fingerprint, "notes": notes},
        model={"name": branch.backbone.name, "id": branch.backbone.id, "depth": branch.depth, "method": branch.method},
        results=[{"name": "tuned", "metrics": found, "seconds": seconds}],
        **shown,
    )


def _learned_from(branch: Branch, rows: Rows) -> list[str]:
    """What is to be said where the rows are those that the branch was tuned on."""
    if branch.report is None or branch.report.data.get("source") != rows.source:
        return []
    return [f"{rows.source}: is what this branch was tuned on, so it knows most of these rows. Measure on rows that it never saw."]

"""The verb `evaluate`: how good a branch is on labelled rows, with intervals."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline import names
from trunkline.errors import DataError
from trunkline.evaluation.calibration import reliability
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.metrics import compute, confusion, per_class, suited
from trunkline.evaluation.report import Report, confident_errors
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
    truth = np.stack([np.asarray(item.target) for item in branch.prepare(rows)])
    scores = np.stack([answer.scores for answer in branch.predict(rows)])
    seconds = time.perf_counter() - started
    kind = "number" if scores.ndim == 1 else "multi" if truth.ndim == 2 else "single"
    labels: Any = getattr(branch.spec, "labels", ())
    return Report(
        task=branch.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"source": rows.source, "rows": {"test": len(rows)}, "fingerprint": rows.fingerprint, "notes": rows.notes},
        model={"name": branch.backbone.name, "id": branch.backbone.id, "depth": branch.depth, "method": branch.method},
        results=[{"name": "tuned", "metrics": bootstrap(suited(names.task(branch.task).METRICS, kind), truth, scores), "seconds": seconds}],
        per_class=per_class(truth, scores, labels) if labels else [],
        confusion={"labels": list(labels), "matrix": confusion(truth, scores)} if kind == "single" else None,
        scatter=None if labels else {"truth": truth, "predicted": scores},
        calibration={
            "temperature": branch.spec.temperature,
            "ece_after": compute(["ece"], truth, scores)["ece"],
            "bins": reliability(truth, scores),
        }
        if labels
        else None,
        errors=confident_errors(rows, truth, scores, labels),
    )

"""From answers to what a report shows of them: truth and scores in the shapes of the task's kind, and the tables that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.evaluation.calibration import reliability
from trunkline.evaluation.metrics import KINDS, compute, confusion, per_class
from trunkline.evaluation.report import confident_errors
from trunkline.types import Answer, Item, Row

if TYPE_CHECKING:
    from trunkline.branch import Branch

SHOWN = 20
"""Wrong answers in a report."""
WRITTEN = 50
"""Rows for which texts are written and compared, where the metrics of a task read texts: writing costs much more than reading."""


def truth_and_scores(spec: Any, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[Any, Any]:
    """What metrics read, of items with a truth and the answers for them: arrays, or lists where the kind is one of KINDS.

    A kind that can only say how good an answer is beside all others (a ranking) has a `collect(items, answers)` of its own.
    """
    if hasattr(KINDS.get(spec.kind), "collect"):
        found: tuple[Any, Any] = KINDS[spec.kind].collect(items, answers)
        return found
    truth = [item.target if item.gold is None else item.gold for item in items]
    scores = [answer.scores for answer in answers]
    return (truth, scores) if spec.kind in KINDS else (np.stack([np.asarray(one) for one in truth]), np.stack(scores))


def drawn(rows: Sequence[Row], count: int = WRITTEN) -> list[int]:
    """The places of at most so many rows, drawn at random, the same ones each time, in their order."""
    return sorted(np.random.default_rng(0).permutation(len(rows))[:count].tolist())


def written(branch: Branch, rows: Sequence[Row], items: Sequence[Item], at: Sequence[int]) -> tuple[list[Any], list[str]]:
    """The reference texts of some of the rows, and what the branch writes when it is given the rows without their labels.

    rows, items: all of them, in one order; at: the places of those to be answered
    """
    asked = [{name: value for name, value in rows[i].items() if name != "label"} for i in at]
    return [items[i].gold for i in at], [answer.scores for answer in branch.answers(branch.prepare(asked))]


def samples(
    rows: Sequence[Row], references: Sequence[Sequence[str]], after: Sequence[str], before: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Some written answers to read, for `Report.samples`."""
    told = before or [""] * len(after)
    shown = list(zip(rows, references, told, after))[:SHOWN]
    return [{"text": row["text"], "label": right[0], "before": was, "predicted": said} for row, right, was, said in shown]


def remarks(spec: Any, items: Sequence[Item]) -> list[str]:
    """What must be known to read the figures of these items, where the kind has something to say (among how many a ranking is)."""
    return list(KINDS[spec.kind].notes(items)) if hasattr(KINDS.get(spec.kind), "notes") else []


def tables(spec: Any, rows: Sequence[Row], truth: Any, scores: Any) -> dict[str, Any]:
    """The fields of a Report that show right and wrong answers: per_class, confusion, scatter, calibration, errors."""
    if spec.kind in KINDS:
        kind = KINDS[spec.kind]
        each = kind.per_type(truth, scores) if hasattr(kind, "per_type") else []
        sure = kind.probabilities(scores) if hasattr(kind, "probabilities") else None  # of two answers; the first is the right one
        claimed = {} if sure is None else {"calibration": _calibration(spec, np.zeros(len(sure), dtype=np.int64), sure)}
        return {"per_class": each, "errors": kind.errors(rows, truth, scores, SHOWN)} | claimed
    labels = getattr(spec, "labels", ())
    return {
        "per_class": per_class(truth, scores, labels) if labels else [],
        "confusion": {"labels": list(labels), "matrix": confusion(truth, scores)} if spec.kind == "single" else None,
        "scatter": None if labels else {"truth": truth, "predicted": scores},
        "calibration": _calibration(spec, truth, scores) if labels else None,
        "errors": confident_errors(rows, truth, scores, labels, count=SHOWN),
    }


def _calibration(spec: Any, truth: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """How far the probabilities can be believed: with the temperature, and (worked backwards from them) without it."""
    logs = np.clip(scores, 1e-12, 1 - 1e-12, dtype=np.float64)
    np.log(logs, out=logs)
    if spec.kind != "multi":
        logs -= logs.max(1, keepdims=True)
        logs *= spec.temperature
        raw = np.exp(logs, out=logs)
        raw /= raw.sum(1, keepdims=True)
    else:
        raw = 1 / (1 + np.exp(-spec.temperature * (logs - np.log(np.clip(1 - scores, 1e-12, 1)))))
    return {
        "temperature": spec.temperature,
        "ece_before": compute(["ece"], truth, raw)["ece"],
        "ece_after": compute(["ece"], truth, scores)["ece"],
        "bins": reliability(truth, scores),
        "bins_before": reliability(truth, raw),
    }

"""What is said of an answer in JSON, by the kind of the task: labels with probabilities, spans with offsets, numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trunkline.errors import OptionError
from trunkline.types import Answer

DIGITS = 6


def said(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    """The answer as JSON. top: how many labels are shown with their probabilities at most."""
    found = _FORMS[spec.kind](answer, spec, top)
    if answer.probability is not None:
        found["probability"] = round(float(answer.probability), DIGITS)
    return found


def scope(distance: float | None) -> dict[str, Any]:
    """Whether a text lies outside of what the branch learned from, and how far; null of a branch that has no bounds."""
    return {"out_of_scope": None if distance is None else distance > 1, "distance": None if distance is None else round(distance, DIGITS)}


def is_finite(found: Any) -> bool:
    """Whether all numbers in an answer are numbers: JSON has neither NaN nor infinity."""
    if isinstance(found, dict | list | tuple):
        return all(map(is_finite, found.values() if isinstance(found, dict) else found))
    return not isinstance(found, float) or math.isfinite(found)


def check(spec: Any) -> None:
    """Raises: OptionError for a task whose answers have no form here."""
    if spec.kind not in _FORMS:
        raise OptionError(
            f"task={spec.task!r}: its answers are texts, which /v1/predict does not give. It is served as a model that writes."
        )


def _labels(answer: Answer, spec: Any, top: int) -> list[dict[str, Any]]:
    order = np.argsort(-np.asarray(answer.scores), kind="stable")[:top]
    return [{"label": spec.labels[at], "probability": round(float(answer.scores[at]), DIGITS)} for at in order]


def _single(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"label": answer.value, "labels": _labels(answer, spec, top)}


def _multi(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"value": answer.value, "labels": _labels(answer, spec, max(top, len(answer.value)))}


def _number(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"number": float(answer.value)}


def _entities(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"entities": answer.value}


def _span(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"answer": {name: one for name, one in answer.value.items() if name in ("text", "start", "end")} or None}


def _ranking(answer: Answer, spec: Any, top: int) -> dict[str, Any]:
    return {"score": None if answer.value is None else round(float(answer.value), DIGITS)}


_FORMS: dict[str, Callable[[Answer, Any, int], dict[str, Any]]] = {
    "single": _single,
    "multi": _multi,
    "number": _number,
    "entities": _entities,
    "spans": _span,
    "ranks": _ranking,
    "preferences": _number,
}

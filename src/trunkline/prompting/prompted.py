"""The noun of prompting: a model with a prompt, which answers as a branch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trunkline.branch import row_of
from trunkline.evaluation.report import Report
from trunkline.prompting.search import Trial
from trunkline.prompting.server import ByServer
from trunkline.prompting.shots import Shots
from trunkline.prompting.template import Template
from trunkline.tasks.tag import named
from trunkline.types import Answer, Row, Rows


@dataclass(repr=False)
class Prompted:
    """`spec`: what the task knows (its labels); `scorer`: one of scorers.py, server.py or extract.py; `trials`: what a search tried, where there was one."""

    model: str
    spec: Any
    template: Template
    shots: Shots
    calibrate: str
    scorer: Any
    report: Report | None = None
    trials: list[Trial] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Prompted({self.what}, {self.model})"

    @property
    def what(self) -> str:
        """The prompt in a few words."""
        shown = f"{self.shots.count} {self.shots.pick}" if self.shots.count else "no"
        calibrated = "" if self.calibrate == "none" else f", {self.calibrate}"
        return f"template {self.template.name}, {shown} demonstrations{calibrated}"

    def predict(self, texts: str | Sequence[str | tuple[str, str] | Row] | Rows) -> list[Answer]:
        """One answer for each text, pair of texts, or row, in their order. `value` is None where a server's answer names no label."""
        given = [texts] if isinstance(texts, str) else list(texts)
        rows = [row_of(text, index) for index, text in enumerate(given)]
        scores = self.scores(rows)
        if self.spec.task == "tag":
            return [Answer(named(row["text"], spans), spans) for row, spans in zip(rows, scores)]
        found = [Answer(self.spec.labels[int(row.argmax())], row, float(row.max())) for row in scores]
        if not isinstance(self.scorer, ByServer):
            return found
        return [
            replace(answer, value=None if silent else answer.value, probability=None) for answer, silent in zip(found, unanswered(scores))
        ]

    def scores(self, rows: Sequence[Row]) -> Any:
        """What metrics read: (N, K) float64 in the order of `spec.labels`, or of each row the entities (start, end, type)."""
        if self.spec.task == "tag":
            return self.scorer.entities(rows, self.shots.choose(rows), self.shots.pool)
        if not rows:
            return np.empty((0, len(self.spec.labels)))
        return self.scorer.probabilities(rows, self.shots.choose(rows), self.shots.pool)


def unanswered(scores: np.ndarray) -> np.ndarray:
    """(N,) bool: rows (N, K) that favour no label."""
    found: np.ndarray = (scores == scores[:, :1]).all(axis=1)
    return found

"""Prompt search: which template and which demonstrations do best on validation rows, within a budget of time.

All candidates answer the same few rows, the better half goes on to twice as many, and so on. The winner's figure on the rows that it was
chosen by is too good; the report's figures are of the test rows. Source: Jamieson and Talwalkar 2016 (successive halving), figure 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trunkline.errors import DataError
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.types import Row

FIRST = 16
"""Validation rows that every candidate answers; those that go on answer twice as many each time."""


@dataclass(frozen=True)
class Trial:
    """One candidate: what it is, how many rows it answered, and the metric with its interval on those."""

    what: str
    rows: int
    value: float
    low: float
    high: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def race(
    candidates: Sequence[tuple[str, Callable[[Sequence[Row]], Any]]],
    rows: Sequence[Row],
    truth: Any,
    *,
    metric: str = "accuracy",
    seconds: float = 300.0,
) -> tuple[int, list[Trial]]:
    """The place of the best candidate, and a trial for each of them.

    candidates: a name, and what gives for rows what the metric reads: probabilities (n, K), or lists of entities
    rows: validation rows, in any order (they are answered in the order given)
    seconds: no new round begins after these; the first one always ends
    Raises: DataError where there are no rows to choose by.
    """
    if not len(rows):
        raise DataError("there are no validation rows to choose a prompt by. Give some, or name one template and one way to show rows.")
    sign, started = 1 if METRICS[metric].higher_is_better else -1, time.perf_counter()
    scores: list[list[Any]] = [[] for _ in candidates]
    spent, values = [0.0] * len(candidates), np.full(len(candidates), -np.inf)
    alive, done, upto = list(range(len(candidates))), 0, min(FIRST, len(rows))
    while True:
        for at in alive:
            begun = time.perf_counter()
            scores[at].append(candidates[at][1](rows[done:upto]))
            spent[at] += time.perf_counter() - begun
            values[at] = sign * compute([metric], truth[:upto], _joined(scores[at]))[metric]
        done = upto
        alive = sorted(sorted(alive, key=lambda at: -values[at])[: (len(alive) + 1) // 2])  # of equals the one that was named first
        if len(alive) == 1 or done == len(rows) or time.perf_counter() - started > seconds:
            break
        upto = min(2 * done, len(rows))
    trials = [_trial(name, one, truth, metric, took) for (name, _), one, took in zip(candidates, scores, spent)]
    return max(alive, key=lambda at: values[at]), trials


def _joined(parts: Sequence[Any]) -> Any:
    """What several rounds gave, as one: arrays, or lists of entities."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [one for part in parts for one in part]


def _trial(name: str, scores: list[Any], truth: Any, metric: str, seconds: float) -> Trial:
    all_of = _joined(scores)
    found = bootstrap([metric], truth[: len(all_of)], all_of)[metric]
    return Trial(name, len(all_of), found.value, found.low, found.high, seconds)

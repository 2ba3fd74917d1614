"""What a branch has to beat, by the kind of its answers: the baselines of evaluation/baselines/, and the model as it was before tuning."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from trunkline.branch import Branch
from trunkline.data.split import Split
from trunkline.evaluation.baselines.labels import Result, baselines
from trunkline.evaluation.features import untuned
from trunkline.evaluation.measure import truth_and_scores
from trunkline.states.collate import Source
from trunkline.types import Item


@dataclass(frozen=True)
class Measured:
    """The branch, and the rows as they were split and prepared; `part` ("test" or "validation") is what is measured on."""

    branch: Branch
    parts: Split
    items: dict[str, list[Item]]
    source: Source | None
    part: str


def before(on: Measured) -> list[Result]:
    """The results that stand beside the branch's own, in the order of the table."""
    return BASELINES.get(on.branch.spec.kind, _labels)(on)


def _labels(on: Measured) -> list[Result]:
    """The constant answer, TF-IDF, and a linear model on the untuned states."""
    rows, branch = on.parts.parts(), on.branch
    features = {name: untuned(branch.backbone, branch.depth, items, on.source) for name, items in on.items.items() if items}
    features["test"] = features[on.part]
    return baselines(rows["train"], rows[on.part], branch.spec, validation=rows["validation"], features=features)


def fresh(branch: Branch) -> Branch:
    """The branch as it was before tuning: every method starts as the plain model."""
    return Branch.new(branch.backbone, branch.spec, branch.method, branch.config, branch.depth, branch.states)


def _as_it_was(on: Measured) -> list[Result]:
    """The same task done by the model before tuning: every method starts as the plain model."""
    started, items = time.perf_counter(), on.items[on.part]
    _, scores = truth_and_scores(on.branch.spec, items, fresh(on.branch).answers(items, on.source))
    return [Result("untuned", time.perf_counter() - started, scores)]


BASELINES: dict[str, Callable[[Measured], list[Result]]] = {"likelihood": _as_it_was}
"""The kinds whose baselines are others than those of labels and numbers."""

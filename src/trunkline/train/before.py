"""What a branch has to beat, by the kind of its answers: the baselines of evaluation/baselines/, and the model as it was before tuning."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.data.split import Split
from trunkline.errors import MissingExtra
from trunkline.evaluation.baselines import entities, preferences, ranks, spans
from trunkline.evaluation.baselines.labels import Result, baselines
from trunkline.evaluation.features import untuned, word_states
from trunkline.evaluation.measure import truth_and_scores
from trunkline.states.collate import Source
from trunkline.types import Item


@dataclass(frozen=True)
class Measured:
    """The branch, and the rows as they were split and prepared; `part` ("test" or "validation") is what is measured on.

    precision: of the matrix products of the untuned layers, as in training
    """

    branch: Branch
    parts: Split
    items: dict[str, list[Item]]
    source: Source | None
    part: str
    precision: torch.dtype = torch.float32


def before(on: Measured) -> list[Result]:
    """The results that stand beside the branch's own, in the order of the table."""
    return BASELINES.get(on.branch.spec.kind, _labels)(on)


def _labels(on: Measured) -> list[Result]:
    """The constant answer, TF-IDF, and a linear model on the untuned states."""
    rows, branch = on.parts.parts(), on.branch
    features = {
        name: untuned(branch.backbone, branch.depth, items, on.source, precision=on.precision) for name, items in on.items.items() if items
    }
    features["test"] = features[on.part]
    return baselines(rows["train"], rows[on.part], branch.spec, validation=rows["validation"], features=features)


def fresh(branch: Branch) -> Branch:
    """The branch as it was before tuning: the plain model, whatever the method (a prompt changes it before the first step)."""
    return Branch.new(branch.backbone, branch.spec, "probe", names.method("probe").Config(), branch.depth, branch.states)


def _as_it_was(on: Measured) -> list[Result]:
    """The same task done by the model before tuning: nothing is fitted, not even a linear head."""
    started, items = time.perf_counter(), on.items[on.part]
    _, scores = truth_and_scores(on.branch.spec, items, fresh(on.branch).answers(items, on.source))
    return [Result("before", time.perf_counter() - started, scores)]


def _ranks(on: Measured) -> list[Result]:
    """Words alone, or popularity and matrix factorisation; and the vectors of the model before tuning."""
    abouts = {name: [item.about for item in items] for name, items in on.items.items()}
    asked, held, found = abouts[on.part], abouts["validation"], list[Result]()
    train = on.parts.train
    plain: list[Callable[[], Result]] = [lambda: ranks.bm25(asked, held)]
    if on.branch.task == "recommend":
        plain = [lambda: ranks.popularity(train, asked, held), lambda: ranks.als(train, asked, held)]
    for baseline in plain:
        try:
            found.append(baseline())
        except MissingExtra as error:
            warnings.warn(f"{error} The report goes without it.", stacklevel=2)
    return [*found, *_as_it_was(on)]


def _preferences(on: Measured) -> list[Result]:
    """The lengths of the answers, and a linear model on what the untuned states of the two answers differ in."""
    rows, branch = on.parts.parts(), on.branch

    def differing(part: str) -> np.ndarray:
        halves = [[replace(item, tokens=item.tokens[at : at + 1]) for item in on.items[part]] for at in (0, 1)]
        one, other = (untuned(branch.backbone, branch.depth, half, on.source, branch.spec.pooling, on.precision) for half in halves)
        return one - other

    states = preferences.untuned(differing("train"), differing(on.part), differing("validation"))
    return [preferences.lengths(rows["train"], rows[on.part]), states]


def _spans(on: Measured) -> list[Result]:
    """What of the passage has the most words of the question beside it; an untuned head points anywhere, and is no measure."""
    rows = on.parts.parts()
    return spans.span_baselines(rows["train"], rows[on.part], on.branch.spec, validation=rows["validation"])


def _entities(on: Measured) -> list[Result]:
    """A dictionary of the entities seen in training, and a linear model on the untuned states of words."""
    rows, branch = on.parts.parts(), on.branch
    plain = entities.entity_baselines(rows["train"], rows[on.part], branch.spec, validation=rows["validation"])
    started = time.perf_counter()
    looked_at = {name: [on.items[name][at] for at in entities.sampled(on.items[name])] for name in ("train", "validation")}
    looked_at["test"] = on.items[on.part]
    states = {
        name: word_states(branch.backbone, branch.depth, items, on.source, [item.about.slots // branch.spec.places for item in items])
        for name, items in looked_at.items()
        if items
    }
    found = entities.untuned_tagger(states, looked_at, branch.spec)
    return [*plain, replace(found, seconds=time.perf_counter() - started)]


BASELINES: dict[str, Callable[[Measured], list[Result]]] = {
    "entities": _entities,
    "likelihood": _as_it_was,
    "preferences": _preferences,
    "ranks": _ranks,
    "spans": _spans,
}
"""The kinds whose baselines are others than those of labels and numbers."""

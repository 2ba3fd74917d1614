"""What a branch has to beat, by the kind of its answers: the baselines of evaluation/baselines/, and the model as it was before tuning."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trunkline import names, storage
from trunkline.branch import Branch
from trunkline.data.split import Split
from trunkline.errors import MissingExtra
from trunkline.evaluation.baselines import entities, preferences, ranks, spans
from trunkline.evaluation.baselines.labels import Result, baselines, learned_from
from trunkline.evaluation.features import differences, read_by_head
from trunkline.evaluation.measure import truth_and_scores, written
from trunkline.memory import give_back
from trunkline.states.collate import Source
from trunkline.types import Item


@dataclass(frozen=True)
class Measured:
    """The branch as it was when training ended, and the rows as they were split and prepared; `part` ("test" or "validation") is measured on.

    precision: of the matrix products of the untuned layers, as in training
    """

    branch: Branch
    parts: Split
    items: Mapping[str, Sequence[Item]]
    source: Source | None
    part: str
    precision: torch.dtype = torch.float32


_KEPT: dict[tuple[Any, ...], dict[str, Any]] = {}
"""What was found for the last rows, model and cut: methods that are compared have the same to beat, and it is worked out once."""


def before(on: Measured) -> list[Result]:
    """The results that stand beside the branch's own, in the order of the table."""
    return _once(on, "results", lambda: BASELINES.get(on.branch.spec.kind, _labels)(on))


def written_before(on: Measured, at: Sequence[int]) -> list[str]:
    """What the model wrote before tuning for the rows at these places of the part that is measured on."""
    rows, items = on.parts.parts()[on.part], on.items[on.part]
    return _once(on, f"written {at}", lambda: written(fresh(on.branch), rows, items, at)[1])


def _once(on: Measured, what: str, work: Callable[[], list[Any]]) -> list[Any]:
    branch, rows = on.branch, on.parts.parts()
    key: tuple[Any, ...] = (branch.trunk_id, branch.depth, branch.states, storage.to_json(branch.spec.to_json()), on.part, on.precision)
    key += tuple((name, part.fingerprint) for name, part in rows.items())
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = {}
    if what not in _KEPT[key]:
        _KEPT[key][what] = work()
    return list(_KEPT[key][what])


def _labels(on: Measured) -> list[Result]:
    """The constant answer, TF-IDF, and a linear model on the untuned states."""
    rows, branch = on.parts.parts(), on.branch
    looked_at = {name: on.items[name] for name in {"validation", on.part}} | {"train": learned_from(on.items["train"])}
    features = {
        name: read_by_head(branch.backbone, branch.depth, items, on.source, branch.spec, on.precision)
        for name, items in looked_at.items()
        if items
    }
    features["test"] = features[on.part]
    give_back()
    found = baselines(rows["train"], rows[on.part], branch.spec, validation=rows["validation"], features=features)
    give_back()
    return found


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

    train, held, validation = (
        differences(branch.backbone, branch.depth, on.items[part], on.source, branch.spec.pooling, on.precision)
        for part in ("train", on.part, "validation")
    )
    states = preferences.untuned(train, held, validation)
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
    looked_at = {name: entities.sampled(on.items[name], branch.spec) for name in ("train", "validation")} | {"test": on.items[on.part]}
    vectors = {
        name: entities.word_vectors(branch.backbone, branch.depth, items, on.source, branch.spec)
        for name, items in looked_at.items()
        if items
    }
    found = entities.untuned_tagger(vectors, looked_at, branch.spec)
    return [*plain, replace(found, seconds=time.perf_counter() - started)]


BASELINES: dict[str, Callable[[Measured], list[Result]]] = {
    "entities": _entities,
    "likelihood": _as_it_was,
    "preferences": _preferences,
    "ranks": _ranks,
    "spans": _spans,
}
"""The kinds whose baselines are others than those of labels and numbers."""

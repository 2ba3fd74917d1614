"""Two texts can be read together, in one pass, or apart, one by one: which of both is better is tried like a depth, and takes half of the budget each.

Together (a cross-encoder) each word sees the other text, but the frozen layers seldom have learned to make use of that, so it
takes tuned layers. Apart (a bi-encoder) the head compares two vectors (model/heads/pooling.py): where a model was made to compare texts, that is
good without any tuned layer, and a text that stands in many pairs goes through the trunk once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from trunkline.branch import Branch
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.metrics import METRICS
from trunkline.evaluation.wording import number
from trunkline.model.backbone import ALL, AUTO, Backbone, Depth
from trunkline.states.collate import Source
from trunkline.train import depth as depths
from trunkline.train import few
from trunkline.train.depth import WIDE, Search, Trial
from trunkline.train.settings import PLAIN, Settings
from trunkline.types import Item

WAYS = ("apart", "together")


@dataclass(frozen=True)
class Reading:
    """The rows as one way of reading makes them: items of each part, and what makes a fresh branch for them."""

    items: Mapping[str, Sequence[Item]]
    make: Callable[[Depth, int], Branch]


def ways(spec: Any, depth: Depth, settings: Settings) -> tuple[str, ...]:
    """Which ways of reading come into question: one where it was told or there is one text a row; both where a depth is searched."""
    told = getattr(spec, "pairs", "together")
    if told != "auto":
        return (told,)
    if settings.objective.partition(":")[0] == "contrast":  # it has no use for two texts a row
        return ("together",)
    return WAYS if depth == AUTO else ("apart",) if depth == 0 else ("together",)


def search(
    backbone: Backbone, readings: Mapping[str, Reading], states: Callable[[Depth, list[Item]], Source | None], settings: Settings
) -> Search:  # fmt: skip
    """The depth and the learning rate, and of two readings the better one: where that is not clear, the one of the smaller depth."""
    found = {}
    for way, reading in readings.items():
        seldom = settings.objective == PLAIN and few.suits(reading.make(0, settings.seed), reading.items)
        how = few.search if seldom else partial(depths.search, share=1 / len(readings))
        found[way] = how(backbone, reading.items, reading.make, states, settings)
    if len(found) == 1:
        return next(iter(found.values()))
    best = max(found, key=lambda way: _goodness(found[way], _best(found[way])))
    shallow = min(found, key=lambda way: _size(found[way].depth))
    taken = best if _clear(found[best], found[shallow]) else shallow
    other = next(way for way in found if way != taken)
    told = ", ".join(f"{number(found[way].metric, _best(found[way]).value)} {way}" for way in (taken, other))
    why = f"pairs are read {taken} ({told}, on validation rows); {found[taken].why}"
    trials = tuple(replace(trial, pairs=way) for way in found for trial in found[way].trials)
    return replace(found[taken], pairs=taken, trials=trials, why=why, seconds=sum(one.seconds for one in found.values()))


def _best(found: Search) -> Trial:
    return max(found.trials, key=lambda trial: _goodness(found, trial))


def _goodness(found: Search, trial: Trial) -> float:
    return trial.value if METRICS[found.metric].higher_is_better else -trial.value


def _clear(best: Search, other: Search) -> bool:
    """Whether the best of one is more than one standard error of the difference better than the best of the other; their rows may differ."""
    error = (_error(best) ** 2 + _error(other) ** 2) ** 0.5
    return _goodness(best, _best(best)) - _goodness(other, _best(other)) > error


def _error(found: Search) -> float:
    """The standard error of the best trial's value."""
    trial = _best(found)
    if not len(trial.scores):  # a share of rows that were held out (few.py)
        return float((trial.value * (1 - trial.value) / max(1, found.rows[1])) ** 0.5)
    interval = bootstrap([found.metric], found.truth, trial.scores)[found.metric]
    return (interval.high - interval.low) / WIDE


def _size(depth: Depth) -> float:
    return float("inf") if depth == ALL else float(depth)

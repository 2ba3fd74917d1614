"""The search for a depth: the smallest that is about as good as the best, tried on some of the rows.

Depths are tried from the shallowest up, each trained as the real run would be, on states that are kept once, at the lowest cut;
states of higher cuts are computed from those. The search ends when two deeper cuts in a row have brought nothing, or when the
budget is used up. Of what was tried, the smallest depth within one standard error of the best is taken (Breiman et al. 1984, section
3.4.3: the one-standard-error rule), the error being that of the difference on the same validation rows. For that depth a third and three
times the learning rate are tried too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trunkline.branch import Branch, run
from trunkline.choices import duration
from trunkline.errors import TrainingError
from trunkline.evaluation.interval import paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS
from trunkline.model.backbone import ALL, Backbone, Depth, Lift
from trunkline.progress import Bar
from trunkline.states.collate import Source
from trunkline.states.held import HeldStates
from trunkline.train.fit import Data, Progress, fit
from trunkline.train.settings import Settings
from trunkline.train.start import solve_head
from trunkline.types import Item

TRAIN_ROWS, VALIDATION_ROWS = 2000, 1000
_PATIENCE = 2
"""So many deeper cuts in a row without a gain end the search."""
_RATES = (1 / 3, 3.0)
_WIDE = 3.92
"""A 95% interval is so many standard errors wide."""


@dataclass(frozen=True)
class Trial:
    """One depth with one learning rate: the metric on the validation rows, and the seconds that it took."""

    depth: Depth
    learning_rate: float
    value: float
    seconds: float
    scores: Any = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Search:
    """What was chosen, and why. rows: of train and validation that the trials used."""

    depth: Depth
    learning_rate: float
    metric: str
    trials: tuple[Trial, ...]
    rows: tuple[int, int]
    seconds: float
    why: str

    def to_json(self) -> dict[str, Any]:
        """For the report: all but the scores."""
        tried = [{k: v for k, v in asdict(trial).items() if k != "scores"} for trial in self.trials]
        return {**{k: v for k, v in asdict(self).items() if k != "trials"}, "trials": tried}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Search:
        """What `to_json` gave, without the scores."""
        trials, rows = tuple(Trial(**trial) for trial in values["trials"]), tuple(values["rows"])
        return cls(**{**values, "trials": trials, "rows": rows})


def candidates(backbone: Backbone) -> list[Depth]:
    """The depths that are tried, shallow first: 0, 1, 2, a quarter, a third and half of the layers, all."""
    layers = backbone.layers
    cuts: set[int] = {0} if backbone.family.whole_only else {0, 1, 2, layers // 4, layers // 3, layers // 2}
    whole = [ALL] if backbone.trunk_precision == "float32" else []  # what is trained whole has no trunk
    return [*(cut for cut in sorted(cuts) if cut <= layers), *whole]


def search(
    backbone: Backbone, items: dict[str, list[Item]], make: Callable[[Depth, int], Branch], states: Callable[[Depth, list[Item]], Source | None],
    settings: Settings,
) -> Search:  # fmt: skip
    """The depth and the learning rate for these items ("train", "validation").

    make: a fresh branch of a depth and a seed; states: the store with the states of some items at the cut of a depth.
    """
    return _Searching(backbone, items, make, states, settings).result()


class _Searching:
    def __init__(self, backbone: Backbone, items: dict[str, list[Item]], make: Any, states: Any, settings: Settings) -> None:
        self.started, self.budget = time.perf_counter(), duration("budget", settings.budget)
        self.backbone, self.make, self.settings = backbone, make, settings
        self.train, self.validation = _some(items["train"], TRAIN_ROWS), _some(items["validation"], VALIDATION_ROWS)
        self.depths = candidates(backbone)
        self.lowest = max(d for d in self.depths if isinstance(d, int))
        self.lower: Source = states(self.lowest, [*self.train, *self.validation])
        self.held: tuple[Depth, HeldStates] | None = None
        self.trials: list[Trial] = []
        self.metric: str = ""
        self.truth: Any = ()

    def result(self) -> Search:
        why = self.walk()
        best = max(self.trials, key=self.goodness)
        chosen = next(trial for trial in self.trials if trial is best or self.behind(trial, best) <= 1)
        why = f"the best of those tried; {why}" if chosen is best else f"within one standard error of depth {best.depth}, the best; {why}"
        if chosen.depth != 0:
            chosen = self.other_rates(chosen)
        spent = time.perf_counter() - self.started
        rows = len(self.train), len(self.validation)
        return Search(chosen.depth, chosen.learning_rate, self.metric, tuple(self.trials), rows, spent, why)

    def walk(self) -> str:
        """Try one depth after the other; says why it ended."""
        for depth in self.depths:
            if self.trials and self.left() < self.needed(depth):
                return f"the budget of {self.settings.budget} ended the search before depth {depth}"
            self.trials.append(self.trial(depth))
            values = [self.goodness(trial) for trial in self.trials]
            if len(values) - 1 - int(np.argmax(values)) >= _PATIENCE:
                return f"{_PATIENCE} deeper cuts brought nothing"
        return "all depths were tried"

    def other_rates(self, chosen: Trial) -> Trial:
        """The chosen depth with a smaller and a larger learning rate, where the budget allows; another must be clearly better."""
        best = chosen
        for factor in _RATES:
            if self.left() < chosen.seconds:
                break
            try:
                trial = self.trial(chosen.depth, chosen.learning_rate * factor)
            except TrainingError:
                continue  # a rate that does not train is no candidate
            self.trials.append(trial)
            if self.goodness(trial) > self.goodness(best) and self.behind(chosen, trial) > 1:
                best = trial
        return best

    def trial(self, depth: Depth, rate: float | None = None) -> Trial:
        started = time.perf_counter()
        branch = self.make(depth, self.settings.seed)
        rate = rate or self.settings.learning_rate or branch.config.learning_rate
        data = Data(self.train, self.validation, self.source(depth), branch.spec, self.backbone.tokenizer.pad_id)
        solved = solve_head(branch, data)
        with Bar(f"search: depth {depth}, rate {rate:.1g}", unit="steps") as bar:

            def show(progress: Progress, steps: int) -> None:
                bar.to(progress.step, steps, f"best {progress.best:.3f}" if progress.best is not None else "")

            seed = self.settings.seed
            progress = fit(branch.network, data, self.settings, learning_rate=rate, seed=seed, on_step=show, solved=solved)
        self.metric = next(iter(progress.history[-1]["metrics"]))
        answers = run(branch.network, branch.spec, self.validation, data.source, data.pad_id)
        self.truth, scores = truth_and_scores(branch.spec, self.validation, answers)
        return Trial(depth, rate, float(progress.best or 0.0), time.perf_counter() - started, scores)

    def source(self, depth: Depth) -> Source | None:
        if depth == ALL:
            return None
        if depth == self.lowest:
            return self.lower
        if self.held is None or self.held[0] != depth:  # the depth that is chosen is tried with other rates too
            tokens = [one for item in (*self.train, *self.validation) for one in item.tokens]
            self.held = depth, HeldStates(tokens, self.lower, Lift(self.backbone, self.lowest, depth), self.settings.states)
        return self.held[1]

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.started)

    def needed(self, depth: Depth) -> float:
        """A guess at the seconds of a trial, from the last one: in proportion to the layers, and the embeddings are one more."""
        size = {trial.depth: trial.seconds / _size(trial.depth, self.backbone.layers) for trial in self.trials}
        return list(size.values())[-1] * _size(depth, self.backbone.layers) if len(size) > 1 else 0.0

    def goodness(self, trial: Trial) -> float:
        return trial.value if METRICS[self.metric].higher_is_better else -trial.value

    def behind(self, trial: Trial, best: Trial) -> float:
        """By how many standard errors of the difference `trial` is behind `best`."""
        found = paired(self.metric, self.truth, trial.scores, best.scores)
        error = (found.high - found.low) / _WIDE
        return (self.goodness(best) - self.goodness(trial)) / error if error else float(self.goodness(best) > self.goodness(trial)) * 2


def _size(depth: Depth, layers: int) -> float:
    return layers + 1.0 if depth == ALL else int(depth) + 0.25


def _some(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many of the items, always the same ones, in their order."""
    picked = np.sort(np.random.default_rng(0).permutation(len(items))[:count])
    return [items[i] for i in picked]

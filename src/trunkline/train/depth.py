"""The search for a depth: the smallest that is about as good as the best, tried on some of the rows.

Depths are tried from the shallowest up, on states that are kept once, at the lowest cut; states of higher cuts are computed from those.
A few steps at the deepest cut tell how fast the machine is; from that follow rows and epochs of the trials, so that all cuts down to
half of the layers fit into the budget. Where all rows and epochs fit, a trial is the run itself, and that of the chosen depth is kept.
The search ends when two deeper cuts in a row have brought nothing and the last is not clearly better than the one before it, or when the budget is used
up. Where the budget ends it while each deeper cut was clearly better than the one before, the next one is taken, untried (of a head alone, which is
solved and needs no steps, the last need only not be behind). Else, of what was tried, the smallest
depth within one standard error of the best is taken (Breiman et al. 1984, section 3.4.3: the one-standard-error rule), the error being
that of the difference on the same validation rows. For that depth a third and three times the learning rate are tried too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from trunkline.branch import Branch, run
from trunkline.choices import duration
from trunkline.errors import TrainingError
from trunkline.evaluation.interval import paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.model.backbone import ALL, Backbone, Depth, Lift
from trunkline.progress import Bar
from trunkline.states.collate import Source
from trunkline.states.held import HeldStates
from trunkline.train.fit import Data, Progress, epochs, fit
from trunkline.train.settings import PLAIN, Settings
from trunkline.train.start import solve_head
from trunkline.types import Item

TRAIN_ROWS, VALIDATION_ROWS = 2000, 1000
_LADDER = (300, 400, 550, 750, 1000, 1400)
"""Training rows of the trials where not all fit into the budget: in steps, so that a moment's load on the machine changes nothing."""
_TRIAL_EPOCHS = 6
"""At most, where a trial is not the run itself: more rows tell more about a depth than more passes over fewer."""
_NEVER = 10**9
"""Steps between evaluations of a trial that is not the run itself: its weights are measured once, at its end, on all rows that there are to choose by."""
_TRIALS_SHARE = 0.8
"""Of what is left of the budget, for all cuts once; the rest is for the whole model or for other learning rates."""
_FORWARD = 1 / 3
"""What a row costs that is only read, of one that is learned from."""
_MEASURED_STEPS = 6
_PATIENCE = 2
"""So many deeper cuts in a row without a gain end the search."""
_RATES = (1 / 3, 3.0)
WIDE = 3.92
"""A 95% interval is so many standard errors wide."""


@dataclass(frozen=True)
class Trial:
    """One depth with one learning rate: the metric on the validation rows, the seconds that it took, and how pairs were read where both ways were tried."""

    depth: Depth
    learning_rate: float
    value: float
    seconds: float
    scores: Any = field(default=(), repr=False, compare=False)
    fitted: tuple[Branch, Progress] | None = field(default=None, repr=False, compare=False)
    pairs: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a report shows of it: all but the scores and the branch."""
        plain = {"depth": self.depth, "learning_rate": self.learning_rate, "value": self.value, "seconds": self.seconds}
        return plain | ({"pairs": self.pairs} if self.pairs else {})


@dataclass(frozen=True)
class Few:
    """How the branch is made: the strength of the head's regularisation (C), and whether its layers are tuned on pairs first."""

    strength: float
    pairs: bool


@dataclass(frozen=True)
class Search:
    """What was chosen, and why.

    rows: of train and validation that the trials used; pairs: how they are read, where both ways were tried (pairs.py);
    few: how the branch is made, where there are few rows a class (few.py);
    fitted: the branch and its progress, where the chosen trial was the whole run; truth: of the validation rows
    """

    depth: Depth
    learning_rate: float
    metric: str
    trials: tuple[Trial, ...]
    rows: tuple[int, int]
    seconds: float
    why: str
    pairs: str = ""
    few: Few | None = None
    fitted: tuple[Branch, Progress] | None = field(default=None, repr=False, compare=False)
    truth: Any = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """For the report: all but the scores and the branch."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("trials", "fitted", "truth")}
        return {**plain, "few": self.few and asdict(self.few), "trials": [trial.to_json() for trial in self.trials]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Search:
        """What `to_json` gave, without scores and branches."""
        trials, rows = tuple(Trial(**trial) for trial in values["trials"]), tuple(values["rows"])
        few = Few(**values["few"]) if values["few"] else None
        return cls(**{**values, "trials": trials, "rows": rows, "few": few})


def candidates(backbone: Backbone) -> list[Depth]:
    """The depths that are tried, shallow first: 0, 1, 2, a quarter, a third and half of the layers, all."""
    layers = backbone.layers
    cuts: set[int] = {0} if backbone.family.whole_only else {0, 1, 2, layers // 4, layers // 3, layers // 2}
    whole = [ALL] if backbone.trunk_precision == "float32" else []  # what is trained whole has no trunk
    return [*(cut for cut in sorted(cuts) if cut <= layers), *whole]


def search(
    backbone: Backbone, items: Mapping[str, Sequence[Item]], make: Callable[[Depth, int], Branch], states: Callable[[Depth, list[Item]], Source | None],
    settings: Settings, share: float = 1.0,
) -> Search:  # fmt: skip
    """The depth and the learning rate for these items ("train", "validation").

    make: a fresh branch of a depth and a seed; states: the store with the states of some items at the cut of a depth; share: of the budget
    """
    return _Searching(backbone, items, make, states, settings, share).result()


class _Searching:
    def __init__(
        self, backbone: Backbone, items: Mapping[str, Sequence[Item]], make: Any, states: Any, settings: Settings, share: float = 1.0
    ) -> None:
        self.started, self.budget, self.share = time.perf_counter(), share * duration("budget", settings.budget), share
        self.backbone, self.make, self.settings = backbone, make, settings
        self.depths = self.different()
        self.lowest = max(d for d in self.depths if isinstance(d, int))
        self.train, self.validation = some(items["train"], TRAIN_ROWS), some(items["validation"], VALIDATION_ROWS)
        self.whole = len(self.train) == len(items["train"]) and len(self.validation) == len(items["validation"])
        self.plan(states)
        self.lower: Source = states(self.lowest, [*self.train, *self.validation])
        self.held: tuple[Depth, HeldStates] | None = None
        self.trials: list[Trial] = []
        self.metric: str = ""
        self.truth: Any = ()

    def different(self) -> list[Depth]:
        """The depths at which something is learned; of a method that learns a head alone the shallowest, since the head reads the same states at all."""
        learned = {depth: list(self.make(depth, self.settings.seed).network.learned()) for depth in candidates(self.backbone)}
        found = [depth for depth, names in learned.items() if names]
        if found and all(name.startswith("head.") for depth in found for name in learned[depth]):
            return found[:1]
        return found or list(learned)

    def plan(self, states: Any) -> None:
        """As many rows and epochs for the trials as the budget allows; `whole` says whether a trial is the run itself."""
        if len(self.train) <= _LADDER[0] and self.whole:
            return
        seconds, cuts = self.measured(states), [int(depth) for depth in self.depths if depth != ALL]
        layers, lifted = sum(_size(cut, self.backbone.layers) for cut in cuts), sum(self.lowest - cut for cut in cuts)

        def fits(rows: int, passes: int, looks: int) -> bool:
            learned, read = layers * passes * rows, layers * looks * len(self.validation) + lifted * (rows + len(self.validation))
            return seconds * (learned + _FORWARD * read) <= _TRIALS_SHARE * self.left()

        passes = epochs(self.settings, len(self.train))
        if self.whole and fits(len(self.train), passes, passes + 1):
            return
        self.whole = False
        passes = min(_TRIAL_EPOCHS, passes)
        self.settings = replace(self.settings, epochs=passes, evaluate_every=_NEVER)
        ladder = [rows for rows in (*_LADDER, TRAIN_ROWS) if rows < len(self.train)]
        rows = next((rows for rows in (len(self.train), *reversed(ladder)) if fits(rows, passes, 1)), min([*ladder, len(self.train)]))
        self.train = some(self.train, rows)

    def measured(self, states: Any) -> float:
        """Seconds for one row and one layer in a step, the middle one of some steps at the deepest cut."""
        rows = self.train[: _MEASURED_STEPS * self.settings.batch_size]
        branch = self.make(self.lowest, self.settings.seed)
        data = Data(
            rows, self.validation[:1], states(self.lowest, [*rows, *self.validation[:1]]), branch.spec, self.backbone.tokenizer.pad_id
        )
        noted: list[float] = []
        settings = replace(self.settings, epochs=1, evaluate_every=None)
        fit(branch.network, data, settings, learning_rate=1e-9, seed=0, on_step=lambda progress, _: noted.append(progress.seconds))
        each = np.median(np.diff([0.0, *noted]))
        return float(each) / (self.settings.batch_size * _size(self.lowest, self.backbone.layers))

    def result(self) -> Search:
        why, deeper = self.walk()
        if deeper is not None:
            return self.found(Trial(deeper, self.trials[-1].learning_rate, 0.0, 0.0), why)
        if self.nothing():
            why = f"no trial learned anything ({why}), so nothing can be told of depths; half of the layers is taken untried"
            return self.found(Trial(self.lowest, self.trials[-1].learning_rate, 0.0, 0.0), why)
        best = max(self.trials, key=self.goodness)
        chosen = next(trial for trial in self.trials if trial is best or self.behind(trial, best) <= 1)
        why = f"the best of those tried; {why}" if chosen is best else f"within one standard error of depth {best.depth}, the best; {why}"
        return self.found(self.other_rates(chosen) if chosen.depth != 0 else chosen, why)

    def found(self, chosen: Trial, why: str) -> Search:
        spent, rows = time.perf_counter() - self.started, (len(self.train), len(self.validation))
        return Search(
            chosen.depth, chosen.learning_rate, self.metric, tuple(self.trials), rows, spent, why, fitted=chosen.fitted, truth=self.truth
        )

    def walk(self) -> tuple[str, Depth | None]:
        """Try one depth after the other; says why it ended, and which depth that was not tried is to be taken."""
        for depth in self.depths:
            if self.trials and self.left() < self.needed(depth):
                return self.cut_short(depth)
            self.trials.append(self.trial(depth))
            values = [self.goodness(trial) for trial in self.trials]
            behind_best = len(values) - 1 - int(np.argmax(values))
            if behind_best >= _PATIENCE and not self.rising(self.trials[-2:]) and not self.nothing():
                return f"{behind_best} deeper cuts brought nothing", None
        return "all depths were tried" if len(self.depths) > 1 else "a head alone is the same at all depths", None

    def cut_short(self, depth: Depth) -> tuple[str, Depth | None]:
        """That the budget ended the search before `depth`; it is taken all the same where each deeper cut was clearly better than the one before.

        The first of all need not be behind the second, only not ahead of the last: a head alone is solved, and a few steps say little against it.
        """
        told = f"the budget of {self.settings.budget} ended the search before depth {depth}"
        first, *deeper = self.trials
        tuned = deeper if len(deeper) > 1 and self.behind(deeper[-1], first) <= 1 else self.trials
        if len(tuned) < 2 or not self.rising(tuned):
            return told, None
        minutes = math.ceil((self.budget + 2 * self.needed(depth)) / self.share / 60)
        return (
            f"each deeper cut that was tried was clearly better than the one before, and {told}, which is taken untried. "
            f"To try it: --budget {minutes}m; for less time: --depth {self.trials[-1].depth}"
        ), depth

    def rising(self, trials: Sequence[Trial]) -> bool:
        """Whether each of them is clearly better than the one before."""
        return all(self.behind(shallow, deep) > 1 for shallow, deep in itertools.pairwise(trials))

    def nothing(self) -> bool:
        """Whether all trials have the least that the metric can be, as where few steps on few rows find no entity at all."""
        metric = METRICS[self.metric]
        return metric.higher_is_better and all(trial.value <= metric.bounds[0] for trial in self.trials)

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
        watched = self.validation if self.whole else self.validation[:1]
        data = Data(self.train, watched, self.source(depth), branch.spec, self.backbone.tokenizer.pad_id)
        solved = self.settings.objective == PLAIN and solve_head(branch, data)
        with Bar(f"search: depth {depth}, rate {rate:.1g}", unit="steps") as bar:

            def show(progress: Progress, steps: int) -> None:
                known = self.whole and progress.best is not None
                bar.to(progress.step, steps, f"best {progress.best:.3f}" if known else "")

            seed = self.settings.seed
            progress = fit(branch.network, data, self.settings, learning_rate=rate, seed=seed, on_step=show, solved=solved)
        self.metric = next(iter(progress.history[-1]["metrics"]))
        answers = run(branch.network, branch.spec, self.validation, data.source, data.pad_id)
        self.truth, scores = truth_and_scores(branch.spec, self.validation, answers)
        value = float(compute([self.metric], self.truth, scores)[self.metric])
        fitted = (branch, progress) if self.whole and not solved else None
        return Trial(depth, rate, value, time.perf_counter() - started, scores, fitted)

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
        error = (found.high - found.low) / WIDE
        return (self.goodness(best) - self.goodness(trial)) / error if error else float(self.goodness(best) > self.goodness(trial)) * 2


def _size(depth: Depth, layers: int) -> float:
    return layers + 1.0 if depth == ALL else int(depth) + 0.25


def some(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many of the items, always the same ones, in their order."""
    picked = np.sort(np.random.default_rng(0).permutation(len(items))[:count])
    return [items[i] for i in picked]

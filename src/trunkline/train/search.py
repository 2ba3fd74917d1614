"""The search for options: many settings are tried on the same states, and the best by the validation rows is tuned in full. Above `tune`.

Optuna proposes (the tree-structured Parzen estimator, Bergstra et al. 2011, and after each epoch the median of the trials before it, below which a
trial ends); every trial is the one loop on the same training rows. The text goes through the trunk once, for the lowest cut that is
tried; the states of higher cuts are computed from those. No test row is read before the winner is measured.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trunkline import choices, names, storage
from trunkline.branch import Branch
from trunkline.data.split import Split
from trunkline.errors import MissingExtra, OptionError, TrainingError
from trunkline.evaluation.metrics import METRICS
from trunkline.evaluation.wording import duration, number
from trunkline.model.backbone import ALL, AUTO, Backbone, Depth, Lift
from trunkline.progress import Bar
from trunkline.states.collate import Source
from trunkline.states.held import HeldStates
from trunkline.train import machine
from trunkline.train.depth import some
from trunkline.train.fit import Data, Progress, fit
from trunkline.train.settings import PLAIN, Settings
from trunkline.train.space import RATE, Range, Values, size, space_of
from trunkline.train.start import solve_head
from trunkline.train.tune import as_read, checked, maker, number_format, opened, spec_for, stored, tune
from trunkline.types import Item, Rows

MOST_ROWS = 10_000
"""So many training rows at most in a trial: their states stay in memory, at two cuts."""
_FIRST = 5
"""So many trials are never ended early: there is no median yet."""


@dataclass(frozen=True)
class Tried:
    """One trial: what was proposed, the metric on the validation rows (None: it did not train), seconds, and whether it ended early."""

    options: dict[str, Any]
    value: float | None
    seconds: float
    early: bool = False


@dataclass(frozen=True)
class Searched:
    """All trials in their order, the best of them, and the branch that was tuned with its options on all rows."""

    metric: str
    trials: tuple[Tried, ...]
    best: Tried
    seconds: float
    branch: Branch

    def to_json(self) -> dict[str, Any]:
        """The trials and the best as plain JSON values."""
        return {"metric": self.metric, "seconds": self.seconds, "best": asdict(self.best), "trials": [asdict(one) for one in self.trials]}

    def __str__(self) -> str:
        """The best ten trials as a table, and what was chosen."""
        ranked = sorted((one for one in self.trials if one.value is not None), key=lambda one: -_sign(self.metric) * float(one.value or 0))
        lines = [f"{METRICS[self.metric].title} on the validation rows, the best {min(10, len(ranked))} of {len(self.trials)} trials:"]
        lines += [f"  {number(self.metric, one.value)}  {said(one.options)}{'  (ended early)' if one.early else ''}" for one in ranked[:10]]
        failed, early = sum(one.value is None for one in self.trials), sum(one.early for one in self.trials)
        lines += [f"{early} ended early, {failed} did not train; {duration(self.seconds)} in all. Tuned with: {said(self.best.options)}."]
        lines += ["It is the best of many on the same validation rows, so what it got there is too good; the report has the test rows."]
        return "\n".join(lines)


def search_options(
    rows: Rows | Split, model: str | Path | Backbone | None = None, *, trials: int | str = 30, space: Mapping[str, str] | None = None,
    method: str = "full", depth: Depth = AUTO, settings: Settings | None = None, out: str | Path | None = None,
) -> Searched:  # fmt: skip
    """Try many settings on the validation rows, tune with the best, and measure that branch.

    trials: how many, or for how long, as in "10m"
    space: "low..high" or "one,other" by the name of a setting, "method" or "depth" (space.py); what is not told has a usual range, unless the
        settings say a value
    out: folder for the branch; a search that was stopped goes on from the trials that are kept beside it

    Raises: as `tune`; MissingExtra without Optuna; OptionError for a space that leaves nothing to try.
    """
    settings = settings or Settings()
    _optuna()  # now, and not when all is encoded
    count, seconds = _limits(trials)
    parts, _ = checked(rows, settings)
    machine.use_threads(settings.threads)
    backbone, parts = opened(model, parts, settings)
    settings = replace(settings, states=number_format(settings.states, backbone))
    spec = spec_for(backbone, parts.train, settings.task_options)
    if getattr(spec, "pairs", None) == "auto":
        settings = as_read(settings, replace(spec, pairs="together"))  # one way for all trials and for the branch
    options = space_of(space or {}, method, depth, settings, backbone)
    if size(options) < 2:
        raise OptionError(
            "space: every option has one value, so there is nothing to search. Give a range or several values, or leave --search out."
        )
    kept = Path(out).with_name(f"{Path(out).name}.search.json") if out else None
    about = {"rows": [part.fingerprint for part in parts.parts().values()], "backbone": backbone.id,
             "space": {name: str(each) for name, each in options.items()},
             "settings": {k: v for k, v in asdict(settings).items() if k not in ("threads", "seeds", "force")}}  # fmt: skip
    found = _Search(backbone, parts, options, settings, kept, about)
    found.run(min(count, size(options)), seconds)
    best = found.best()
    how, told = split_options(best.options, settings)
    branch = tune(parts, backbone, **how, settings=told, out=out)
    report: Any = branch.report
    branch = replace(branch, report=replace(report, search=found.to_report(best)))
    if out and kept:
        branch.save(out)
        kept.unlink(missing_ok=True)
    return Searched(found.metric, tuple(found.trials), best, found.seconds, branch)


def split_options(options: Mapping[str, Any], settings: Settings) -> tuple[dict[str, Any], Settings]:
    """Method and depth, and the settings with the rest of the options in them."""
    told = dict(options)
    return {"method": told.pop("method"), "depth": told.pop("depth")}, replace(settings, **told)


def said(options: Mapping[str, Any]) -> str:
    """Options as a person writes them.

    >>> said({"method": "full", "depth": 2, "learning_rate": 0.00031})
    'method=full depth=2 learning_rate=0.00031'
    """
    return " ".join(f"{name}={f'{value:.2g}' if isinstance(value, float) else value}" for name, value in options.items())


class _Search:
    """The trials of one search, and what they share."""

    def __init__(
        self, backbone: Backbone, parts: Split, space: dict[str, Values], settings: Settings, kept: Path | None, about: dict[str, Any]
    ) -> None:  # fmt: skip
        self.backbone, self.parts, self.space, self.settings, self.kept, self.about = backbone, parts, space, settings, kept, about
        make = maker(backbone, parts, space["method"][0], settings)  # type: ignore[index]
        items = {name: make(0, 0).prepare(part) for name, part in (("train", parts.train), ("validation", parts.validation))}
        self.train: list[Item] = some(items["train"], MOST_ROWS)
        self.validation: Sequence[Item] = items["validation"]
        self.metric = settings.metric or names.task(parts.train.task).METRICS[0]
        cuts = [each for each in space["depth"] if each != ALL]  # type: ignore[union-attr]
        self.lowest = max(cuts, default=ALL)
        self.lower = stored(backbone, self.lowest, {"some": [*self.train, *self.validation]}, settings.states)[0]
        self.held: tuple[Depth, HeldStates] | None = None
        self.solved: dict[tuple[str, Depth], float | None] = {}  # a head's exact solution is the same whatever else is proposed
        self.trials, self.seconds = self.restored()

    def restored(self) -> tuple[list[Tried], float]:
        """The trials of a search that was stopped, where it was this one."""
        if not self.kept or not self.kept.is_file():
            return [], 0.0
        before = storage.from_json(self.kept.read_bytes(), str(self.kept))
        if before["about"] != self.about:
            warnings.warn(f"{self.kept}: holds a search on other rows, space or settings, and is begun anew.", stacklevel=4)
            return [], 0.0
        return [Tried(**one) for one in before["trials"]], before["seconds"]

    def run(self, count: float, seconds: float) -> None:
        """Trials until there are so many, or so much time was spent."""
        optuna = _optuna()
        spread = {name: _distribution(optuna, values) for name, values in self.space.items()}
        study = self.study(optuna, spread)
        with Bar("search", unit="trials") as bar:
            while len(self.trials) < count and (self.seconds < seconds or not self.trials):
                started = time.perf_counter()
                trial = study.ask(spread)
                tried = self.tried(trial, self.absolute(trial.params), started)
                self.trials.append(tried)
                study.tell(trial, None if tried.early else tried.value, state=_state(optuna, tried))
                self.seconds += tried.seconds
                if self.kept:
                    kept = {"about": self.about, "trials": [asdict(one) for one in self.trials], "seconds": self.seconds}
                    storage.write_file(self.kept, storage.to_json(kept))
                best = "" if tried.value is None else f"best {number(self.metric, self.best().value)}"
                done, total = (len(self.trials), count) if math.isfinite(count) else (self.seconds, seconds)
                bar.to(done, total, best)

    def study(self, optuna: Any, spread: dict[str, Any]) -> Any:
        """An Optuna study that knows the trials that are there."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="maximize" if METRICS[self.metric].higher_is_better else "minimize",
            sampler=optuna.samplers.TPESampler(seed=self.settings.seed + len(self.trials)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=1),
        )
        for one in self.trials:
            params = {name: self.relative(one.options, name) for name in self.space}
            value = None if one.early else one.value
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spread, value=value, state=_state(optuna, one)))
        return study

    def absolute(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with a learning rate in place of a factor of what the method suggests."""
        if RATE not in options:
            return options
        rate = options[RATE] * _suggests(options["method"])
        return {name: value for name, value in options.items() if name != RATE} | {"learning_rate": rate}

    def relative(self, options: dict[str, Any], name: str) -> Any:
        return options["learning_rate"] / _suggests(options["method"]) if name == RATE else options[name]

    def tried(self, trial: Any, options: dict[str, Any], started: float) -> Tried:
        """One run of the loop with these options."""
        how, told = split_options(options, self.settings)
        if told.objective == PLAIN and (how["method"], how["depth"]) in self.solved:
            return Tried(options, self.solved[how["method"], how["depth"]], time.perf_counter() - started)
        branch = maker(self.backbone, self.parts, how["method"], told)(how["depth"], told.seed)
        data = Data(self.train, self.validation, self.source(how["depth"]), branch.spec, self.backbone.tokenizer.pad_id)
        noted = [0]

        def step(progress: Progress, steps: int) -> None:
            for entry in progress.history[noted[0] :]:
                noted[0] += 1
                trial.report(sum(entry["metrics"].values()) / len(entry["metrics"]), noted[0])
            if noted[0] and not progress.done and trial.should_prune():
                progress.done = ended[0] = True

        ended = [False]
        try:
            solved = told.objective == PLAIN and solve_head(branch, data)
            rate = told.learning_rate or branch.config.learning_rate
            progress = fit(branch.network, data, told, learning_rate=rate, seed=told.seed, on_step=step, solved=solved)
            if solved:
                self.solved[how["method"], how["depth"]] = progress.best
        except (TrainingError, OptionError) as error:
            if isinstance(error, OptionError) and not self.trials:
                raise  # not the fault of what was proposed
            return Tried(options, None, time.perf_counter() - started)
        return Tried(options, progress.best, time.perf_counter() - started, ended[0])

    def source(self, depth: Depth) -> Source | None:
        if depth == ALL:
            return None
        if depth == self.lowest:
            return self.lower
        if self.held is None or self.held[0] != depth:
            tokens = [one for item in (*self.train, *self.validation) for one in item.tokens]
            self.held = depth, HeldStates(tokens, self.lower, Lift(self.backbone, self.lowest, depth), self.settings.states)  # type: ignore[arg-type]
        return self.held[1]

    def best(self) -> Tried:
        """The trial with the best value. Raises: TrainingError where none trained."""
        trained = [one for one in self.trials if one.value is not None]
        if not trained:
            raise TrainingError(f"none of {len(self.trials)} trials trained: look at the rows, or at the space (smaller learning rates).")
        return max(trained, key=lambda one: _sign(self.metric) * float(one.value or 0))

    def to_report(self, best: Tried) -> dict[str, Any]:
        """As a report holds a search (report.py), the trials from best to worst."""
        order = sorted((one for one in self.trials if one.value is not None), key=lambda one: -_sign(self.metric) * float(one.value or 0))
        trials = [
            {
                "depth": one.options["depth"],
                "learning_rate": one.options.get("learning_rate", self.settings.learning_rate) or _suggests(one.options["method"]),
                "value": one.value,
                "seconds": one.seconds,
                "told": said({k: v for k, v in one.options.items() if k not in ("depth", "learning_rate")}),
            }
            for one in order
        ]
        why = f"the best of {len(self.trials)} trials of options, with {said(best.options)}"
        chosen = trials[0] if trials else {}
        return {"depth": chosen["depth"], "learning_rate": chosen["learning_rate"], "metric": self.metric, "why": why, "few": None,
                "seconds": self.seconds, "rows": [len(self.train), len(self.validation)], "trials": trials}  # fmt: skip


def _limits(trials: int | str) -> tuple[float, float]:
    """How many trials and how many seconds at most. Raises: OptionError."""
    if isinstance(trials, str) and not trials.isdigit():
        return math.inf, choices.duration("search", trials)
    choices.between("search", int(trials), 1, 100_000)
    return int(trials), math.inf


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "search", "Searching options") from error
    return optuna


def _distribution(optuna: Any, values: Values) -> Any:
    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if values.whole:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _state(optuna: Any, tried: Tried) -> Any:
    states = optuna.trial.TrialState
    return states.FAIL if tried.value is None else states.PRUNED if tried.early else states.COMPLETE


def _suggests(method: str) -> float:
    name, options = choices.split_choice(method)
    return float(choices.build(names.method(name).Config, options, f"method {name!r}").learning_rate)


def _sign(metric: str) -> int:
    return 1 if METRICS[metric].higher_is_better else -1

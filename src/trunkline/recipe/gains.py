"""What each step of a recipe gained against the one before it, on rows that none of them learned from; and the table of it all.

What a step's branch says of a measure's rows is kept in the recipe's folder by content, so nothing is measured twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from trunkline import names, storage
from trunkline.branch import load
from trunkline.console import table
from trunkline.evaluation.interval import bootstrap_mean, paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.recipe.schema import Recipe, Step, place_of, rows_of, sum_of
from trunkline.train.before import fresh


@dataclass(frozen=True)
class Gain:
    """A step on one measure: its value, and what it gained against the one before it; None where there is nothing before."""

    measure: str
    metric: str
    step: str
    value: float
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Overview:
    """The whole recipe at a glance. steps: name, verb, seconds, skipped, headline of each."""

    steps: list[dict[str, Any]]
    gains: list[Gain]

    def to_json(self) -> bytes:
        return storage.to_json({"steps": self.steps, "gains": [asdict(gain) for gain in self.gains]})

    def __str__(self) -> str:
        told = [
            [s["name"], s["verb"], "skipped: done before" if s["skipped"] else f"{s['seconds']:.1f} s", s["headline"]] for s in self.steps
        ]
        shown = table(["step", "verb", "took", "what came out"], told)
        if not self.gains:
            return shown
        each = [[g.measure, g.metric, g.step, f"{g.value:.3f}", _gained(g)] for g in self.gains]
        return f"{shown}\n\n{table(['measured on', 'metric', 'step', 'value', 'against the step before'], each)}"


def gains(recipe: Recipe, made: Mapping[str, str]) -> list[Gain]:
    """Each measure of each step that made a branch of its task, against the one before; the first against the model before tuning."""
    found: list[Gain] = []
    for name, told in recipe.measures.items():
        task = told.get("task", "generate")
        before: tuple[Any, Any] | None = None
        for step in recipe.steps:
            if step.verb == "evaluate" or json.loads((place_of(recipe, step) / "branch.json").read_text())["task"] != task:
                continue
            content = sum_of(recipe.path.parent / told["file"])
            key = storage.sha256(
                storage.to_json({**told, "file": content, "of": made[step.name], "reward": made.get(str(told.get("reward"))[1:])})
            )
            if before is None:
                before = _scores(recipe, told, step, f"{key}-before", untuned=True)
                found.append(_gain(name, told, "model before tuning", before, None))
            now = _scores(recipe, told, step, key)
            found.append(_gain(name, told, step.name, now, before))
            before = now
    return found


def _scores(recipe: Recipe, told: Mapping[str, Any], step: Step, key: str, *, untuned: bool = False) -> tuple[Any, Any]:
    """Truth and scores of a step's branch on a measure's rows, or what was kept of them."""
    kept = recipe.out / "measured" / f"{key}.json"
    if kept.is_file():
        values = storage.from_json(kept.read_bytes(), str(kept))
        return values["truth"], np.array(values["scores"])
    branch = load(place_of(recipe, step))
    branch = fresh(branch) if untuned else branch
    rows = rows_of(recipe, told, branch.task)
    rows = replace(rows, rows=rows.rows[: told.get("rows", len(rows))])
    if told.get("reward"):
        judge, asked = load(recipe.out / told["reward"][1:]), [{k: v for k, v in row.items() if k != "label"} for row in rows]
        said = [answer.value for answer in branch.answers(branch.prepare(asked))]
        judged = [{k: v for k, v in row.items() if k != "rejected"} | {"text_b": answer or " "} for row, answer in zip(asked, said)]
        truth, scores = [0] * len(rows), [answer.value for answer in judge.predict(judged)]
    else:
        items = branch.prepare(rows)
        known, found = truth_and_scores(branch.spec, items, branch.answers(items))
        # how likely a text is says all by itself; its tokens are no truth that a metric reads
        truth = [0] * len(rows) if branch.spec.kind == "likelihood" else [np.asarray(one).tolist() for one in known]
        scores = [np.asarray(one, dtype=np.float64).tolist() for one in found]
    storage.write_file(kept, storage.to_json({"truth": truth, "scores": scores}))
    return truth, np.array(scores)


def _gain(name: str, told: Mapping[str, Any], step: str, now: tuple[Any, Any], before: tuple[Any, Any] | None) -> Gain:
    if told.get("reward"):
        value = float(now[1].mean())
        if before is None:
            return Gain(name, "mean reward", step, value)
        gained = bootstrap_mean(now[1] - before[1])
        verdict = "better" if gained.low > 0 else "worse" if gained.high < 0 else "no difference shown"
        return Gain(name, "mean reward", step, value, gained.value, gained.low, gained.high, verdict)
    metric = names.task(told.get("task", "generate")).METRICS[0]
    value = compute([metric], *now)[metric]
    if before is None:
        return Gain(name, METRICS[metric].title, step, value)
    found = paired(metric, now[0], before[1], now[1])
    return Gain(name, METRICS[metric].title, step, value, found.difference, found.low, found.high, found.verdict)


def _gained(gain: Gain) -> str:
    return "" if gain.gain is None else f"{gain.verdict}: {gain.gain:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"

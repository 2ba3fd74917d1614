"""`run`: a recipe of named steps, each a verb with its arguments and what earlier steps made, and one table of what each step gained.

    out: runs/support
    measure:
      held-out chats: {file: held.jsonl}
      reward: {file: prompts.jsonl, reward: $judge, rows: 50}
    steps:
      sft: {tune: {file: chats.jsonl, task: generate, method: lora, depth: 8}}
      judge: {tune: {file: pairs.jsonl, task: reward, model: smollm2, depth: 8}}
      policy: {align: {file: pairs.jsonl, goal: dpo, start: $sft}}

Files are relative to the recipe. `$name` stands for what an earlier step made. A finished step is skipped while its verb, arguments, files and
what it began from are the same, by their content; one that was stopped goes on from its checkpoint. There is no code in a recipe, only values.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import __version__, choices, names, storage
from trunkline.alignment.align import align, reads
from trunkline.branch import KIND, Branch, load
from trunkline.console import table
from trunkline.data.options import lines_of, read_options
from trunkline.data.quality import drop_leaks
from trunkline.data.read import read
from trunkline.data.split import Split, split
from trunkline.errors import DataError, OptionError, TrunklineError, unknown
from trunkline.evaluation.evaluate import evaluate
from trunkline.evaluation.interval import bootstrap_mean, paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.train.before import fresh
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

_READING = {
    **dict.fromkeys(("text", "text_b", "label", "id", "group", "time", "encoding", "separator", "multi_label_separator", "skip_bad"), str | None),
    "header": bool,
}  # fmt: skip
_DATA = {"file": str, "validation_file": str | None, "test_file": str | None, "drop_leaks": bool}
_SETTINGS = {name: hint for name, hint in typing.get_type_hints(Settings).items() if name in {f.name for f in fields(Settings)}}
_MADE = {"model": str | None, "method": str, "depth": int | str | None}
VERBS: dict[str, dict[str, Any]] = {
    "tune": {**_DATA, **_READING, **_SETTINGS, **_MADE, "task": str},
    "align": {**_DATA, **_READING, **_SETTINGS, **_MADE, "goal": str, "start": str | None},
    "evaluate": {"file": str, **_READING, "branch": str},
}
"""What each verb may be told in a recipe, and the type of each."""
_NEEDED = {"tune": ("file",), "align": ("file",), "evaluate": ("file", "branch")}
_MEASURE = {"file": str, "task": str, "reward": str, "rows": int, **_READING}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_REFERENCE = re.compile(r"\$([A-Za-z0-9_-]+)")
_SHOWN = 10


@dataclass(frozen=True)
class Step:
    """A name, a verb, its arguments as they stand in the recipe, and the line."""

    name: str
    verb: str
    arguments: dict[str, Any]
    line: int


@dataclass(frozen=True)
class Recipe:
    """What a file says, checked. measures: by name, what every branch that writes is compared on."""

    path: Path
    out: Path
    steps: tuple[Step, ...]
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)


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


def run(path: str | Path, *, on_step: Callable[[Step, bool], None] | None = None) -> Overview:
    """Carry out a recipe, or what of it is not done yet; recipe.json and recipe.txt in its folder hold the overview.

    on_step: called with each step before it begins, and whether it is skipped
    Raises: DataError with path:line for a recipe that is not right (up to ten problems together); what the verbs raise, with the step's name.
    """
    recipe = read_recipe(path)
    recipe.out.mkdir(parents=True, exist_ok=True)
    made, told = dict[str, str](), list[dict[str, Any]]()
    for step in recipe.steps:
        started, key = time.perf_counter(), _key(recipe, step, made)
        kept = _finished(recipe, step, key)
        if on_step:
            on_step(step, kept is not None)
        try:
            headline = kept["headline"] if kept else _carry_out(recipe, step)
        except TrunklineError as error:
            raise type(error)(f"{recipe.path}:{step.line}: step {step.name!r}: {error}") from error
        seconds = kept["seconds"] if kept else time.perf_counter() - started
        made[step.name] = _artefact(recipe, step)
        if not kept:
            about = {"key": key, "artefact": made[step.name], "headline": headline, "seconds": seconds}
            storage.write_file(recipe.out / f"{step.name}.done.json", storage.to_json(about))
        told.append({"name": step.name, "verb": step.verb, "seconds": seconds, "skipped": bool(kept), "headline": headline})
    overview = Overview(told, _gains(recipe, made))
    storage.write_file(recipe.out / "recipe.json", overview.to_json())
    storage.write_file(recipe.out / "recipe.txt", f"{overview}\n".encode())
    return overview


def read_recipe(path: str | Path) -> Recipe:
    """A recipe, every key and value checked. Raises: DataError with path:line of up to ten problems."""
    path = Path(path)
    values = read_options(path)
    checked = _Check(path, lines_of(path))
    for key in values.keys() - {"out", "measure", "steps"}:
        checked.unknown((key,), "key", key, ("out", "measure", "steps"))
    steps = values.get("steps")
    if not isinstance(steps, dict) or not steps:
        checked.add(("steps",), "there are no steps. Write `steps:` and below it a name for each, with its verb")
        steps = {}
    found: list[Step] = []
    for name, value in steps.items():
        step = checked.step(name, value, [one.name for one in found if one.verb != "evaluate"])
        found += [step] if step else []
    measures = values.get("measure") or {}
    if not isinstance(measures, dict):
        checked.add(("measure",), "is no mapping of names to what is measured")
        measures = {}
    for name, value in measures.items():
        checked.measure(name, value, [one.name for one in found])
    out = values.get("out", f"runs/{path.stem}")
    if not isinstance(out, str):
        checked.add(("out",), f"out={out!r}: write a folder")
    checked.done()
    return Recipe(path, path.parent / out, tuple(found), measures)


class _Check:
    """Problems of a recipe with their lines, all gathered before any is raised."""

    def __init__(self, path: Path, lines: Mapping[tuple[str, ...], int]) -> None:
        self.path, self.lines, self.problems = path, lines, list[tuple[int, str]]()

    def line(self, keys: tuple[str, ...]) -> int:
        return next((self.lines[keys[:size]] for size in range(len(keys), 0, -1) if keys[:size] in self.lines), 1)

    def add(self, keys: tuple[str, ...], what: str) -> None:
        self.problems.append((self.line(keys), what))

    def unknown(self, keys: tuple[str, ...], kind: str, name: str, known: Any) -> None:
        self.add(keys, str(unknown(kind, name, known)))

    def step(self, name: str, value: Any, earlier: Sequence[str]) -> Step | None:
        at = ("steps", name)
        if not _NAME.fullmatch(name):
            self.add(at, f"the step's name {name!r}: use letters, digits, - and _, beginning with a letter")
        if not isinstance(value, dict) or len(value) != 1:
            self.add(at, f"step {name!r}: give one verb, with its arguments below it: {', '.join(VERBS)}")
            return None
        ((verb, arguments),) = value.items()
        if verb not in VERBS:
            self.unknown((*at, verb), f"step {name!r}: verb", verb, VERBS)
            return None
        if not isinstance(arguments, dict):
            self.add((*at, verb), f"step {name!r}: {verb} has no arguments. It needs {', '.join(_NEEDED[verb])}")
            return None
        self.arguments((*at, verb), f"step {name!r}", arguments, VERBS[verb], _NEEDED[verb], earlier)
        return Step(name, verb, arguments, self.line(at))

    def measure(self, name: str, value: Any, steps: Sequence[str]) -> None:
        at = ("measure", name)
        if not isinstance(value, dict):
            self.add(at, f"measure {name!r}: say at least which file: {{file: held.jsonl}}")
            return
        self.arguments(at, f"measure {name!r}", value, _MEASURE, ("file",), steps)
        if not str(value.get("reward", "$")).startswith("$"):
            self.add((*at, "reward"), f"measure {name!r}: reward={value['reward']!r}: write $ and the step that makes the judge")

    def arguments(
        self, at: tuple[str, ...], who: str, given: Mapping[str, Any], known: Mapping[str, Any], needed: Sequence[str], earlier: Sequence[str]
    ) -> None:  # fmt: skip
        for key in needed:
            if key not in given:
                self.add(at, f"{who}: {key} is missing")
        for key, value in given.items():
            if key not in known:
                self.unknown((*at, key), f"{who}: key", key, known)
                continue
            try:
                converted = choices.convert(value, known[key], f"{who}: {key}")
                if key in _SETTINGS and converted is not None:
                    Settings(**{key: converted})
                if key == "task" and "branch" not in known:
                    names.task(choices.split_choice(converted)[0])
                if key == "goal":
                    reads(converted)
            except OptionError as error:
                self.add((*at, key), str(error) if str(error).startswith(who) else f"{who}: {error}")
            for name in _REFERENCE.findall(value) if isinstance(value, str) else ():
                if name not in earlier:
                    self.add(
                        (*at, key), f"{who}: ${name} is no earlier step that makes a branch. There are: {', '.join(earlier) or 'none'}"
                    )
            if key in ("file", "validation_file", "test_file") and isinstance(value, str) and not (self.path.parent / value).exists():
                self.add((*at, key), f"{who}: {key}={value!r}: no such file beside the recipe")

    def done(self) -> None:
        if self.problems:
            listed = "\n".join(f"{self.path}:{line}: {what.rstrip('.')}." for line, what in sorted(self.problems)[:_SHOWN])
            more = f"\nand {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
            raise DataError(listed + more)


def _key(recipe: Recipe, step: Step, made: Mapping[str, str]) -> str:
    """SHA-256 of all that decides what a step makes: verb, arguments, the content of files, and of what earlier steps made."""
    told: dict[str, Any] = {"verb": step.verb, "version": __version__.rpartition(".")[0]}
    for key, value in step.arguments.items():
        if key in ("threads", "checkpoint_seconds", "device", "force"):
            continue  # they change how fast, and not what
        said = _REFERENCE.sub(lambda found: made[found[1]], value) if isinstance(value, str) else value
        told[key] = _content(recipe.path.parent / value) if key in ("file", "validation_file", "test_file") else said
    return hashlib.sha256(storage.to_json(told)).hexdigest()


def _content(path: Path) -> str:
    if not path.is_dir():
        return storage.sha256_file(path)
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return hashlib.sha256("".join(f"{one.relative_to(path)} {storage.sha256_file(one)}\n" for one in files).encode()).hexdigest()


def _place(recipe: Recipe, step: Step) -> Path:
    return recipe.out / (f"{step.name}.json" if step.verb == "evaluate" else step.name)


def _artefact(recipe: Recipe, step: Step) -> str:
    """What a step made, by its content: of a branch what it learned and what it is, without the report, which holds times."""
    place = _place(recipe, step)
    if step.verb == "evaluate":
        return storage.sha256_file(place)
    files, _ = storage.read_folder(place, KIND)
    return hashlib.sha256(files["branch.safetensors"] + files["branch.json"]).hexdigest()


def _finished(recipe: Recipe, step: Step, key: str) -> dict[str, Any] | None:
    """What was noted of a step that is done, where nothing it depends on has changed and what it made is still there, whole."""
    note = recipe.out / f"{step.name}.done.json"
    try:
        about: dict[str, Any] = storage.from_json(note.read_bytes(), str(note))
        return about if about["key"] == key and about["artefact"] == _artefact(recipe, step) else None
    except (OSError, ValueError, KeyError, TypeError, TrunklineError):
        return None


def _carry_out(recipe: Recipe, step: Step) -> str:
    """Do a step; gives the sentence that says what came out."""
    told = {k: _REFERENCE.sub(lambda f: str(recipe.out / f[1]), v) if isinstance(v, str) else v for k, v in step.arguments.items()}
    if step.verb == "evaluate":
        branch = load(told["branch"])
        report = evaluate(branch, _rows(recipe, told, branch.task))
        storage.write_file(_place(recipe, step), report.to_json())
        return report.headline()
    task, _, options = told.get("task", "classify").partition(":")
    values = {k: choices.convert(v, _SETTINGS[k], k) for k, v in told.items() if k in _SETTINGS} | (
        {"task_options": options} if options else {}
    )
    settings = Settings(**values)
    data = _parts(recipe, told, reads(told.get("goal", "dpo")) if step.verb == "align" else task, settings)
    asked: dict[str, Any] = {k: told[k] for k in ("model", "method", "depth", "goal", "start") if told.get(k) is not None}
    made: Branch = (align if step.verb == "align" else tune)(data, settings=settings, out=_place(recipe, step), **asked)
    return made.report.headline() if made.report else ""


def _rows(recipe: Recipe, told: Mapping[str, Any], task: str, name: str = "file") -> Rows:
    return read(recipe.path.parent / told[name], task, **{k: v for k, v in told.items() if k in _READING})


def _parts(recipe: Recipe, told: Mapping[str, Any], task: str, settings: Settings) -> Rows | Split:
    rows = _rows(recipe, told, task)
    given = {part: _rows(recipe, told, task, f"{part}_file") for part in ("validation", "test") if told.get(f"{part}_file")}
    if not given and not told.get("drop_leaks"):
        return rows
    shares = {part: given.get(part, getattr(settings, part)) for part in ("validation", "test")}
    parts = split(rows, by=settings.split, seed=settings.seed, **shares)
    return drop_leaks(parts) if told.get("drop_leaks") else parts


def _gains(recipe: Recipe, made: Mapping[str, str]) -> list[Gain]:
    """Each measure of each step that made a branch of its task, against the one before; the first against the model before tuning."""
    found: list[Gain] = []
    for name, told in recipe.measures.items():
        task = told.get("task", "generate")
        before: tuple[Any, Any] | None = None
        for step in recipe.steps:
            if step.verb == "evaluate" or json.loads((_place(recipe, step) / "branch.json").read_text())["task"] != task:
                continue
            content = _content(recipe.path.parent / told["file"])
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
    branch = load(_place(recipe, step))
    branch = fresh(branch) if untuned else branch
    rows = _rows(recipe, told, branch.task)
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

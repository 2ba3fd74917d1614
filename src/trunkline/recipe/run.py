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
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trunkline import __version__, choices, storage
from trunkline.alignment.align import align, reads
from trunkline.branch import KIND, Branch, load
from trunkline.data.quality import drop_leaks
from trunkline.data.split import Split, split
from trunkline.errors import TrunklineError
from trunkline.evaluation.evaluate import evaluate
from trunkline.recipe.gains import Overview, gains
from trunkline.recipe.schema import REFERENCE, SETTINGS, Recipe, Step, place_of, read_recipe, rows_of, sum_of
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows


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
    overview = Overview(told, gains(recipe, made))
    storage.write_file(recipe.out / "recipe.json", overview.to_json())
    storage.write_file(recipe.out / "recipe.txt", f"{overview}\n".encode())
    return overview


def _key(recipe: Recipe, step: Step, made: Mapping[str, str]) -> str:
    """SHA-256 of all that decides what a step makes: verb, arguments, the content of files, and of what earlier steps made."""
    told: dict[str, Any] = {"verb": step.verb, "version": __version__.rpartition(".")[0]}
    for key, value in step.arguments.items():
        if key in ("threads", "checkpoint_seconds", "device", "force"):
            continue  # they change how fast, and not what
        said = REFERENCE.sub(lambda found: made[found[1]], value) if isinstance(value, str) else value
        told[key] = sum_of(recipe.path.parent / value) if key in ("file", "validation_file", "test_file") else said
    return hashlib.sha256(storage.to_json(told)).hexdigest()


def _artefact(recipe: Recipe, step: Step) -> str:
    """What a step made, by its content: of a branch what it learned and what it is, without the report, which holds times."""
    place = place_of(recipe, step)
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
    told = {k: REFERENCE.sub(lambda f: str(recipe.out / f[1]), v) if isinstance(v, str) else v for k, v in step.arguments.items()}
    if step.verb == "evaluate":
        branch = load(told["branch"])
        report = evaluate(branch, rows_of(recipe, told, branch.task))
        storage.write_file(place_of(recipe, step), report.to_json())
        return report.headline()
    task, _, options = told.get("task", "classify").partition(":")
    values = {k: choices.convert(v, SETTINGS[k], k) for k, v in told.items() if k in SETTINGS} | (
        {"task_options": options} if options else {}
    )
    settings = Settings(**values)
    data = _parts(recipe, told, reads(told.get("goal", "dpo")) if step.verb == "align" else task, settings)
    asked: dict[str, Any] = {k: told[k] for k in ("model", "method", "depth", "goal", "start") if told.get(k) is not None}
    made: Branch = (align if step.verb == "align" else tune)(data, settings=settings, out=place_of(recipe, step), **asked)
    return made.report.headline() if made.report else ""


def _parts(recipe: Recipe, told: Mapping[str, Any], task: str, settings: Settings) -> Rows | Split:
    rows = rows_of(recipe, told, task)
    given = {part: rows_of(recipe, told, task, f"{part}_file") for part in ("validation", "test") if told.get(f"{part}_file")}
    if not given and not told.get("drop_leaks"):
        return rows
    shares = {part: given.get(part, getattr(settings, part)) for part in ("validation", "test")}
    parts = split(rows, by=settings.split, seed=settings.seed, **shares)
    return drop_leaks(parts) if told.get("drop_leaks") else parts

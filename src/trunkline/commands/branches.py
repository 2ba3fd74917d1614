"""Commands for branches: tune, prompt, align, measure, answer, export; recipes, the demo, and the models that are known."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from trunkline import choices, names
from trunkline.commands.shared import (
    ANY_MODEL,
    chosen,
    commands,
    depth_of,
    files_with,
    flags_of,
    listed,
    note_what_is_new,
    parts_of,
    read,
    reading,
    show,
)
from trunkline.errors import OptionError
from trunkline.model.standard import MODELS
from trunkline.prompting.settings import CALIBRATIONS, PICKS, TASKS, PromptSettings
from trunkline.train.settings import Settings


@commands.command()
@click.argument("file")
@click.option("--task", help=f"{listed(names.TASKS)}, with options as in classify:label_smoothing=0.1  [default: classify]")
@click.option("--model", help=f"a name that `trunkline models` lists, a folder, or a hub id  [default: {ANY_MODEL}]")
@click.option(
    "--method",
    help=f"{listed(names.METHODS)}, with options as in lora:rank=8:dropout=0.1; several with commas between them are compared  [default: full]",
)
@click.option("--depth", help="how many top layers are tuned, all, or auto: found by trials  [default: auto]")
@click.option("--search", help="try other settings first: so many (30), or for so long (10m), and tune with the best (docs/tune.md)")
@click.option("--space", multiple=True, help="what --search tries, as in learning_rate=1e-5..1e-2 or method=full,lora")
@click.option("--start", help="folder of a branch to go on from, with its model, labels, method and depth")
@click.option("--before", help="a file like FILE that the start was tuned on, so that it is not forgotten (docs/tune.md)")
@click.option("--out", help="folder for the branch; also where a stopped run goes on from")
@click.option(
    "--with", "others", multiple=True, help="another file that shares the tuned layers, as in reviews.csv:label=stars (docs/tune.md)"
)
@click.option("--sampling", help="how often each of several files comes up: root or rows  [default: root]")
@click.option("--alone", is_flag=True, help="tune each of several files by itself too, and put that beside")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--drop-leaks", is_flag=True, help="take rows out of train whose text stands in validation or test too")
@click.option("--config", help="a YAML or JSON file with any of these options; flags win over it")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@reading
@flags_of
def tune(file: str, config: str | None, as_json: bool, others: tuple[str, ...], space: tuple[str, ...], **told: Any) -> None:
    """Tune a branch on FILE (CSV, TSV, JSON, JSON Lines, Parquet): split, check, encode, train, measure, report."""
    told, settings = chosen(told, config)
    if told["search"]:
        _search(file, others, space, told, settings, as_json)
        return
    if space:
        raise OptionError("--space: says what a search tries. Give --search 30 too, or --search 10m.")
    if others:
        _together(file, others, told, settings, as_json)
        return
    if told["sampling"] or told["alone"]:
        raise OptionError("--sampling and --alone are for several files: name the others by --with FILE:label=COLUMN.")
    data = parts_of(file, told["task"], told, settings)
    asked = {k: told[k] for k in ("model", "method", "out", "start") if told[k]} | (
        {} if told["depth"] is None else {"depth": depth_of(told["depth"])}
    )
    if told["before"]:
        asked["before"] = read(told["before"], told["task"], told)
    if "," in asked.get("method", ""):
        _compare(data, settings, asked, as_json)
        return
    branch = import_module("trunkline.train.tune").tune(data, settings=settings, **asked)
    show(branch.report, as_json)
    note_what_is_new(branch.report, data.notes)
    if told["out"]:
        columns = "".join(f" --{name.replace('_', '-')} {told[name]}" for name in ("text", "text_b") if told[name])
        given = f"--file {file}{columns}" if told["text_b"] else '"..."'
        click.echo(
            f"\nSaved in {told['out']}. Look at {Path(told['out']) / 'report.html'}, or try:\n  trunkline predict {told['out']} {given}",
            err=True,
        )


def _search(
    file: str, others: tuple[str, ...], space: tuple[str, ...], told: dict[str, Any], settings: Settings, as_json: bool
) -> None:  # fmt: skip
    """`tune` with the best of many settings."""
    for option in (*(name for name in ("start", "before", "alone", "sampling") if told[name]), *(["with"] if others else [])):
        raise OptionError(f"--{option} and --search: a search is of one file and from the model itself. Leave one of the two out.")
    asked = {k: told[k] for k in ("model", "method", "out") if told[k]} | (
        {} if told["depth"] is None else {"depth": depth_of(told["depth"])}
    )
    tries: dict[str, str] = {}
    for one in space:
        name, equals, values = one.partition("=")
        if not equals or name in tries:
            raise OptionError(f"--space {one}: write option=low..high or option=one,other, each option once.")
        tries[name.replace("-", "_")] = values
    data = parts_of(file, told["task"], told, settings)
    search = import_module("trunkline.train.search").search_options
    found = search(data, trials=told["search"], space=tries, settings=settings, **asked)
    if as_json:
        click.echo(json.dumps({**json.loads(found.branch.report.to_json()), "searched": found.to_json()}, indent=2))
        return
    click.echo(f"{found}\n\n{found.branch.report}")
    if told["out"]:
        click.echo(f'\nSaved in {told["out"]}. Next:\n  trunkline predict {told["out"]} "..."', err=True)


def _compare(data: Any, settings: Settings, asked: dict[str, Any], as_json: bool) -> None:
    """`tune` with several methods: each is tuned on the same split and states, and one table is printed."""
    module, methods = import_module("trunkline.train.compare"), asked.pop("method").split(",")
    found = module.compare(data, asked.pop("model", None), methods=methods, settings=settings, **asked)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else str(found))
    if asked.get("out"):
        best = Path(asked["out"]) / module.folder_of(found.best)
        click.echo(f'\nSaved in {asked["out"]}, a folder for each method. Next:\n  trunkline predict {best} "..."', err=True)


def _together(file: str, others: tuple[str, ...], told: dict[str, Any], settings: Settings, as_json: bool) -> None:
    """`tune` with several files, which share the tuned layers: a branch and a report for each."""
    for option in ("start", "before"):
        if told[option]:
            raise OptionError(f"--{option}: tasks that share layers are tuned from the model itself. Leave out --{option} or --with.")
    parts: dict[str, Any] = {}
    for path, options in ((file, {**told, "name": None}), *(files_with(text, told) for text in others)):
        name = options["name"] or options["label"] or Path(path).stem
        if name in parts:
            raise OptionError(
                f"{path}: a part named {name!r} is there already, and each has a folder of its own. Write --with {path}:name=OTHER."
            )
        parts[name] = parts_of(path, options["task"], {**options, "several": True}, settings)
    asked = {k: told[k] for k in ("model", "method", "out", "sampling", "alone") if told[k]}
    asked |= {} if told["depth"] is None else {"depth": depth_of(told["depth"])}
    done = import_module("trunkline.train.together").tune_together(parts, settings=settings, **asked)
    if as_json:
        click.echo(json.dumps({name: json.loads(branch.report.to_json()) for name, branch in done.items()}, indent=2))
    else:
        click.echo("\n\n".join(f"{name}:\n{branch.report}" for name, branch in done.items()))
    if told["out"]:
        click.echo(
            f'Saved in {told["out"]}, a folder for each. Next:\n  trunkline predict {Path(told["out"]) / next(iter(done))} "..."', err=True
        )


@commands.command()
@click.argument("file")
@click.option("--model", help=f"a name that `trunkline models` lists, a folder, or a hub id  [default: {MODELS['decoder']}]")
@click.option("--task", default="classify", show_default=True, help="classify: a label of each text; tag: the entities in it")
@click.option("--template", help="a YAML or JSON file  [default: made from the labels' names]")
@click.option("--shots", default="0", show_default=True, help="how many training rows are shown as demonstrations")
@click.option("--pick", default="nearest", show_default=True, help=f"which rows: {listed(PICKS)}")
@click.option("--calibrate", default="none", show_default=True, help=f"against label bias: {listed(CALIBRATIONS)}")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--out", help="write the report page to this file")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@reading
@partial(flags_of, kind=PromptSettings)
def prompt(file: str, task: str, out: str | None, as_json: bool, **told: Any) -> None:
    """Answer FILE without any training. Several values, with commas between them: the best on validation rows is measured."""
    choices.one_of("--task", task, TASKS)
    names_of = [f.name for f in fields(PromptSettings)]
    settings = PromptSettings(**{name: told[name][0] if isinstance(told[name], tuple) else told[name] for name in names_of if told[name]})
    several = {name: (told[name] or "").split(",") for name in ("template", "pick", "calibrate")}
    several["template"] = [one or None for one in several["template"]]
    shots = [choices.convert(one, int, "--shots") for one in told["shots"].split(",")]
    found = import_module("trunkline.prompting.prompt").prompt(
        parts_of(file, task, told, settings), told["model"], shots=shots, settings=settings, **several
    )
    show(found.report, as_json)
    if out:
        import_module("trunkline.storage").write_file(Path(out), found.report.html().encode())
        click.echo(f"\nThe report page is in {out}.", err=True)


@commands.command()
@click.argument("folder")
@click.argument("texts", nargs=-1)
@click.option("--file", help="predict for every row of this file")
@click.option("--out", help="write the answers to this file (.csv or .jsonl) instead of the screen")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@reading
def predict(folder: str, texts: tuple[str, ...], file: str | None, out: str | None, model: str | None, as_json: bool, **told: Any) -> None:
    """Answer for TEXTS, or for every row of --file, with the branch in FOLDER."""
    if bool(texts) == bool(file):
        raise OptionError('give texts or --file, one of the two: trunkline predict runs/reviews "It stopped working"')
    branch = import_module("trunkline.branch").load(folder, model=model)
    rows = read(file, branch.task, told, labelled=False) if file else [{"text": text} for text in texts]
    import_module("trunkline.console").answers(rows, branch.predict(rows), Path(out) if out else None, as_json)


@commands.command()
@click.argument("folder")
@click.argument("file")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@click.option(
    "--code",
    type=int,
    help="FILE is programming problems, as HumanEval: write so many programs for each, run their tests (docs/tasks/text-data.md)",
)
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@reading
def evaluate(folder: str, file: str, model: str | None, code: int | None, as_json: bool, **told: Any) -> None:
    """Measure the branch in FOLDER on the labelled rows of FILE, with 95% intervals."""
    if code is not None:
        problems = import_module("trunkline.evaluation.programs.sandbox").read_problems(file)
        branch = import_module("trunkline.branch").load(folder, model=model)
        solved = import_module("trunkline.evaluation.programs.solve").solve(branch, problems, samples=code)
        for note in solved.data["notes"]:
            click.echo(f"note: {note}", err=True)
        show(solved, as_json)
        return
    branch = import_module("trunkline.branch").load(folder, model=model)
    rows = read(file, branch.task, told)
    found = import_module("trunkline.evaluation.evaluate").evaluate(branch, rows)
    for note in found.data["notes"][len(rows.notes) :]:  # those of the rows were said when they were read
        click.echo(f"note: {note}", err=True)
    show(found, as_json)


@commands.command()
@click.argument("folder")
@click.argument("file")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@click.option("--false-alarms", default=0.05, show_default=True, help="share of texts that belong which may be called out of scope")
@reading
def scope(folder: str, file: str, model: str | None, false_alarms: float, **told: Any) -> None:
    """Keep in FOLDER how far a text may lie from those of FILE, which its branch was tuned on: `serve` then says what is out of scope."""
    branch = import_module("trunkline.branch").load(folder, model=model)
    rows = read(file, branch.task, told)
    found = import_module("trunkline.quality.bounds").bound(folder, rows, false_alarms=false_alarms, model=branch.backbone)
    click.echo(f"Bounds of {len(found.clouds.means)} classes are kept in {folder}.\n\nNext:\n  trunkline serve {folder}", err=True)


@commands.command()
@click.argument("folder")
@click.argument("out")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
def export(folder: str, out: str, model: str | None) -> None:
    """Write what the branch in FOLDER learned as a PEFT adapter of the whole model, in the folder OUT."""
    import_module("trunkline.branch").load(folder, model=model).export(out)
    click.echo(f"Saved in {out}. How to load it with PEFT, and what the head does: {Path(out) / 'README.md'}", err=True)


@commands.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="print the list as JSON")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """The models that are known by name, where they come from, and what is on disk."""
    if context.invoked_subcommand is None:
        import_module("trunkline.console").models(import_module("trunkline.model.sources").known(), as_json)


@models.command("get")
@click.argument("name")
def models_get(name: str) -> None:
    """Fetch a model and keep it in the cache folder."""
    click.echo(import_module("trunkline.model.sources").get(name))


@commands.command()
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="which embedded data, and so which model"
)
@click.option("--out", help="folder for the branch  [default: runs/demo-LANGUAGE]")
def demo(language: str, out: str | None) -> None:
    """The whole job on the embedded customer-service messages: tune, measure, predict."""
    import_module("trunkline.train.demo").demo(language, Path(out or f"runs/demo-{language}"))


@commands.command()
@click.argument("file")
@click.option("--goal", default="dpo", show_default=True, help=f"{listed(names.GOALS)}, with options as in dpo:beta=0.2")
@click.option("--start", help="folder of a branch that writes, to go on from; it is the reference too")
@click.option(
    "--model", help=f"where there is no start: a model that is one by itself, under a fresh method  [default: {MODELS['decoder']}]"
)
@click.option("--method", help="of a fresh start: what learns  [default: lora]")
@click.option("--depth", help="of a fresh start: how many top layers  [default: a quarter of them]")
@click.option("--out", help="folder for the branch; also where a stopped run goes on from")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--tensorboard", help="folder for event files of goals on rewards, while the run goes on (docs/ppo.md)")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@reading
@flags_of
def align(file: str, goal: str, as_json: bool, **told: Any) -> None:
    """Take a branch that writes further: by the preferences in FILE, or by rewards for answers to its prompts."""
    module = import_module("trunkline.alignment.align")
    told, settings = chosen({**told, "task": None}, None)
    data = parts_of(file, module.reads(goal), told, settings)
    asked = {k: told[k] for k in ("start", "model", "method", "out", "tensorboard") if told[k]}
    asked |= {} if told["depth"] is None else {"depth": depth_of(told["depth"])}
    show(module.align(data, goal, settings=settings, **asked).report, as_json)
    if told["out"]:
        click.echo(f'\nSaved in {told["out"]}. Next:\n  trunkline predict {told["out"]} "..."', err=True)


@commands.command()
@click.argument("recipe")
@click.option("--json", "as_json", is_flag=True, help="print the overview as JSON")
def run(recipe: str, as_json: bool) -> None:
    """Carry out the steps of RECIPE (YAML) that are not done yet, and show what each gained. Run it again after a stop: it goes on."""

    def show(step: Any, skipped: bool) -> None:
        click.echo(f"{step.name}: {'done before' if skipped else step.verb}", err=True)

    found = import_module("trunkline.recipe.run").run(recipe, on_step=show)
    click.echo(found.to_json().decode() if as_json else str(found))

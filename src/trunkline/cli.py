"""The command line: `trunkline VERB THING --option value`. Each command reads its words and calls the function of its name.

Starts without torch: what computes is imported when a command runs. Results go to stdout (a table, or JSON with --json), progress
and notes to stderr. Exit: 0 done, 1 an error of ours (one line), 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from trunkline import __version__, choices, names
from trunkline.augmentation.settings import AugmentSettings
from trunkline.corpus.settings import CleanSettings
from trunkline.errors import OptionError, TrunklineError, unknown
from trunkline.prompting.settings import CALIBRATIONS, PICKS, PromptSettings
from trunkline.serving.settings import ServeSettings
from trunkline.train.settings import MODELS, Settings

_READING = {
    "text": "column with the text; guessed where not given",
    "text_b": "column with the second text of a pair",
    "label": "column with the label or the number; guessed where not given",
    "id": "column with an id: repeated rows are found by it",
    "group": "column with a group: a group is never divided between train and test",
    "time": "column with a time, for --split time",
    "encoding": "encoding of the file; found where not given",
    "separator": "what separates the cells; found where not given",
    "multi_label_separator": "what separates several labels in one cell",
    "skip_bad": "go on in spite of bad rows, and write them to this file",
}


_MODELS = f"{MODELS['encoder']}, or where a task writes {MODELS['decoder']} or {MODELS['encoder-decoder']}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def main() -> NoReturn:
    """The entry point: runs a command and turns our errors into one line and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make a busy machine up to 25 times slower
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, _stop)
    try:
        commands(prog_name="trunkline", standalone_mode=False)
        sys.exit(0)
    except TrunklineError as error:
        click.echo(f"trunkline: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:  # click makes an Abort of both, and keeps which as its cause
        by, code = (" by SIGTERM", 143) if isinstance(error.__cause__ or error, _TerminatedError) else ("", 130)
        click.echo(f"trunkline: stopped{by}. What was finished is kept: run the same command again to go on.", err=True)
        sys.exit(code)


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, handled wherever Ctrl-C is."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def commands() -> None:
    """Tune, measure and use branches on a frozen language model.

    \b
    trunkline demo                                          the whole job on the data that comes with it
    trunkline tune reviews.csv --label stars --out runs/reviews
    trunkline predict runs/reviews "It stopped working after two days"
    """


def _reading(command: Callable[..., None]) -> Callable[..., None]:
    """The options of how a file is read, the same for every command that reads one."""
    for name, text in reversed(_READING.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, help=text)(command)
    return click.option("--no-header", is_flag=True, help="the first line is a row; columns are then named 0, 1, 2, ...")(command)


def _settings(command: Callable[..., None], only: Collection[str] = (), kind: Any = Settings) -> Callable[..., None]:
    """One flag for each field of Settings (or for some), with its help and its default; no default stands here."""
    hints = typing.get_type_hints(kind)
    for field in reversed(fields(kind)):
        if field.name == "task_options" or (only and field.name not in only):
            continue  # written behind the task: --task classify:label_smoothing=0.1
        shown = "none" if field.default is None else field.default
        convert = _converter(field.name, hints[field.name])
        if hints[field.name] is bool:
            command = click.option(f"--{field.name.replace('_', '-')}", field.name, is_flag=True, help=str(field.metadata["help"]))(command)
            continue
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            metavar="VALUE",
            callback=convert,
            help=f"{field.metadata['help']}  [default: {shown}]",
        )(command)
    return command


def _converter(name: str, hint: Any) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def convert(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        return None if value is None else (choices.convert(value, hint, f"--{name.replace('_', '-')}"),)

    return convert


def _chosen(told: dict[str, Any], config: str | None) -> tuple[dict[str, Any], Settings]:
    """What is no setting (task, model, depth, how to read, ...), and the settings: from the option file, and from flags, which win."""
    from_file = import_module("trunkline.data.options").read_options(config) if config else {}
    known = {f.name for f in fields(Settings)}
    for key in from_file:
        if key not in known | told.keys():
            raise unknown(f"{config}: key", key, known | told.keys())
    given = {**from_file, **{k: v[0] if isinstance(v, tuple) else v for k, v in told.items() if v is not None and v is not False}}
    others = {k: choices.convert(given.get(k), _hint(k, told), f"{config}: {k}") for k in told.keys() - known}
    others["task"], _, options = (others["task"] or "classify").partition(":")
    values = {k: v for k, v in given.items() if k in known} | ({"task_options": options} if options else {})
    return others, choices.build(Settings, values, "setting")


def _hint(key: str, told: dict[str, Any]) -> Any:
    """The type of an option that is no setting: a switch has False where it was not given."""
    return bool | None if isinstance(told[key], bool) else int | str | None if key == "depth" else str | None


def _read(path: str, task: str, told: dict[str, Any], *, labelled: bool = True, say: bool = True) -> Any:
    known = {k: v for k, v in told.items() if k in _READING and v is not None}
    rows = import_module("trunkline.data.read").read(path, task, header=not told.get("no_header"), labelled=labelled, **known)
    for note in rows.notes if say else ():
        click.echo(f"note: {note}", err=True)
    return rows


@commands.command()
@click.argument("file")
@click.option("--task", help=f"{_listed(names.TASKS)}, with options as in classify:max_tokens=64  [default: classify]")
@click.option("--model", help="also count the tokens of this model, and what would be cut")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--drop-leaks", is_flag=True, help="take rows out of train whose text stands in validation or test too")
@click.option(
    "--apply", "changes", help="a file of changes that `trunkline check` wrote and a person decided on: make those, and write --out"
)
@click.option("--out", help="where the changed rows are written (.csv or .jsonl)")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@_reading
@partial(_settings, only=("validation", "test", "split", "seed"))
def prepare(file: str, changes: str | None, out: str | None, as_json: bool, **told: Any) -> None:
    """Show what is understood of FILE before anything is trained: rows, labels, lengths, the split, and what looks wrong."""
    if bool(changes) != bool(out):
        raise OptionError("--apply and --out go together: --apply changes.csv --out cleaned.csv")
    if changes and out:
        _apply(file, changes, out, told)
        return
    told, settings = _chosen(told, None)
    data = _parts(file, told["task"], told, settings, say=False)
    module = import_module("trunkline.data.prepare")
    if not hasattr(data, "parts"):
        by = {"validation": settings.validation, "test": settings.test, "by": settings.split, "seed": settings.seed}
        data = import_module("trunkline.data.split").split(data, **by)
    found = module.prepare(data)
    if told["model"]:
        found = import_module("trunkline.train.lengths").in_tokens(found, told["model"], task_options=settings.task_options)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else str(found))
    words = [word for word in sys.argv[1:] if word != "--json"]
    words = ["trunkline", "tune", *words[words.index("prepare") + 1 :], *found.remedies, "--out", module.runs_folder(file)]
    click.echo(f"\nNext:\n  {shlex.join(words)}", err=True)


def _apply(file: str, changes: str, out: str, told: dict[str, Any]) -> None:
    """`prepare --apply`: the decided changes, and nothing else."""
    module = import_module("trunkline.quality.changes")
    rows = module.apply(_read(file, (told["task"] or "classify").partition(":")[0], told), changes)
    module.save(rows, out)
    click.echo(rows.notes[-1])
    click.echo(f"\nSaved in {out}. Next:\n  {shlex.join(['trunkline', 'check', out])}", err=True)


@commands.command()
@click.argument("file")
@click.option("--against", help="the rows that will be measured on: what stands in both is a leak")
@click.option("--task", default="classify", show_default=True, help=_listed(names.TASKS))
@click.option("--model", default=MODELS["encoder"], show_default=True, help="whose states say what a text means; none: words alone")
@click.option("--out", help="folder for check.html, changes.csv and check.json  [default: runs/NAME-check]")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="of the page")
@click.option("--seed", default=0, show_default=True, help="which rows are held out together, and which are drawn")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@_reading
def check(
    file: str, against: str | None, task: str, model: str, out: str | None, language: str, seed: int, as_json: bool, **told: Any
) -> None:
    """Look for what is wrong in FILE, row by row: copies, leaks, wrong labels, odd texts, personal data. Nothing is changed."""
    rows = _read(file, task, told)
    other = _read(against, task, told) if against else None
    found_by = None if model == "none" else import_module("trunkline.quality.vectors").vectors(rows, other or (), model=model, seed=seed)
    found = import_module("trunkline.quality.check").check(rows, found_by, against=other, seed=seed)
    folder = Path(out or import_module("trunkline.data.prepare").runs_folder(file) + "-check")
    told_to = {"label": told["label"], "text": told["text"], "text-b": told["text_b"], "id": told["id"]}
    flags = [word for name, value in told_to.items() if value for word in (f"--{name}", value)]
    flags += ["--task", task] if task != "classify" else []
    command = shlex.join(["trunkline", "prepare", file, *flags, "--apply", str(folder / "changes.csv"), "--out", "cleaned.csv"])
    import_module("trunkline.quality.page").save(found, folder, language, command=command)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else str(found))
    click.echo(
        f"\nLook at {folder / 'check.html'}. Write yes beside what you want in {folder / 'changes.csv'}, then:\n  {command}", err=True
    )


@commands.command("label")
@click.argument("file")
@click.option("--labels", "known", help="the labels to choose from, with commas between them; people may add some")
@click.option("--branch", help="folder of a branch whose answers are suggested")
@click.option("--model", default=MODELS["encoder"], show_default=True, help="whose states decide what comes next")
@click.option("--strategy", default="safe", show_default=True, help="what comes next: docs/label.md lists them")
@click.option("--people", default=1, show_default=True, help="how many people should label each row")
@click.option("--out", help="folder of annotations.jsonl and labelled.csv  [default: runs/NAME-label]")
@click.option("--port", default=0, show_default=True, help="0: a free one")
@click.option("--import", "imported", help="an export of Label Studio or doccano, to take labels over from")
@click.option("--export", help="also write this file when done: .json for Label Studio, .jsonl for doccano")
@_reading
def label_(
    file: str, known: str | None, branch: str | None, model: str, strategy: str, people: int, out: str | None, port: int,
    imported: str | None, export: str | None, **told: Any,
) -> None:  # fmt: skip
    """Label the rows of FILE on a page on this machine, those first that are worth most. Goes on where it was stopped."""
    if export and Path(export).suffix not in (".json", ".jsonl"):
        raise OptionError(f"--export {export}: name a .json file (Label Studio) or a .jsonl file (doccano).")
    rows = _read(file, "classify", told, labelled=False)
    folder = Path(out or import_module("trunkline.data.prepare").runs_folder(file) + "-label")
    module = import_module("trunkline.labelling.label")
    loaded = import_module("trunkline.branch").load(branch) if branch else None
    chosen = tuple(name.strip() for name in (known or "").split(",") if name.strip())
    done = module.label(
        rows, folder, model=model, names=chosen, branch=loaded, strategy=strategy, people=people, port=port, imported=imported
    )
    if export:
        module.export(rows, folder, export)
    click.echo(f"{len(done):,} of {len(rows):,} rows have a label.")
    if len(done):
        click.echo(f"\nNext:\n  {shlex.join(['trunkline', 'check', str(folder / module.LABELLED)])}", err=True)


@commands.command()
@click.argument("file")
@click.option("--task", help=f"{_listed(names.TASKS)}, with options as in classify:label_smoothing=0.1  [default: classify]")
@click.option("--model", help=f"a name that `trunkline models` lists, a folder, or a hub id  [default: {_MODELS}]")
@click.option(
    "--method",
    help=f"{_listed(names.METHODS)}, with options as in lora:rank=8:dropout=0.1; several with commas between them are compared  [default: full]",
)
@click.option("--depth", help="how many top layers are tuned, all, or auto: found by trials  [default: auto]")
@click.option("--start", help="folder of a branch to go on from, with its model, labels, method and depth")
@click.option("--before", help="a file like FILE that the start was tuned on, so that it is not forgotten (docs/tune.md)")
@click.option("--out", help="folder for the branch; also where a stopped run goes on from")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--drop-leaks", is_flag=True, help="take rows out of train whose text stands in validation or test too")
@click.option("--config", help="a YAML or JSON file with any of these options; flags win over it")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@_reading
@_settings
def tune(file: str, config: str | None, as_json: bool, **told: Any) -> None:
    """Tune a branch on FILE (CSV, TSV, JSON, JSON Lines, Parquet): split, check, encode, train, measure, report."""
    told, settings = _chosen(told, config)
    data = _parts(file, told["task"], told, settings)
    asked = {k: told[k] for k in ("model", "method", "out", "start") if told[k]} | (
        {} if told["depth"] is None else {"depth": _depth(told["depth"])}
    )
    if told["before"]:
        asked["before"] = _read(told["before"], told["task"], told)
    if "," in asked.get("method", ""):
        _compare(data, settings, asked, as_json)
        return
    branch = import_module("trunkline.train.tune").tune(data, settings=settings, **asked)
    _show(branch.report, as_json)
    if told["out"]:
        click.echo(
            f'\nSaved in {told["out"]}. Look at {Path(told["out"]) / "report.html"}, or try:\n  trunkline predict {told["out"]} "..."',
            err=True,
        )


def _compare(data: Any, settings: Settings, asked: dict[str, Any], as_json: bool) -> None:
    """`tune` with several methods: each is tuned on the same split and states, and one table is printed."""
    module, methods = import_module("trunkline.train.compare"), asked.pop("method").split(",")
    found = module.compare(data, asked.pop("model", None), methods=methods, settings=settings, **asked)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else str(found))
    if asked.get("out"):
        best = Path(asked["out"]) / module.folder_of(found.best)
        click.echo(f'\nSaved in {asked["out"]}, a folder for each method. Next:\n  trunkline predict {best} "..."', err=True)


def _depth(told: str | int) -> str | int:
    text = str(told)
    if text in ("all", "auto"):
        return text
    if not text.lstrip("-").isdigit():
        raise OptionError(f"depth={told!r}: use a number of layers, 'all' or 'auto'.")
    return int(text)


def _parts(file: str, task: str, told: dict[str, Any], settings: Settings | PromptSettings, *, say: bool = True) -> Any:
    """The rows of FILE, or a split where the user gave files of their own for the other parts."""
    rows = _read(file, task, told, say=say)
    given = {part: _read(told[f"{part}_file"], task, told, say=say) for part in ("validation", "test") if told.get(f"{part}_file")}
    if not given and not told.get("drop_leaks"):
        return rows
    module = import_module("trunkline.data.split")
    shares = {part: given.get(part, getattr(settings, part)) for part in ("validation", "test")}
    made = module.split(rows, by=settings.split, seed=settings.seed, **shares)
    return import_module("trunkline.data.quality").drop_leaks(made) if told.get("drop_leaks") else made


def _show(report: Any, as_json: bool) -> None:
    click.echo(report.to_json().decode() if as_json else str(report))


@commands.command()
@click.argument("file")
@click.option("--model", help=f"a name that `trunkline models` lists, a folder, or a hub id  [default: {MODELS['decoder']}]")
@click.option("--template", help="a YAML or JSON file  [default: made from the labels' names]")
@click.option("--shots", default="0", show_default=True, help="how many training rows are shown as demonstrations")
@click.option("--pick", default="nearest", show_default=True, help=f"which rows: {_listed(PICKS)}")
@click.option("--calibrate", default="none", show_default=True, help=f"against label bias: {_listed(CALIBRATIONS)}")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--out", help="write the report page to this file")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@_reading
@partial(_settings, kind=PromptSettings)
def prompt(file: str, out: str | None, as_json: bool, **told: Any) -> None:
    """Answer FILE without any training. Several values, with commas between them: the best on validation rows is measured."""
    names_of = [f.name for f in fields(PromptSettings)]
    settings = PromptSettings(**{name: told[name][0] if isinstance(told[name], tuple) else told[name] for name in names_of if told[name]})
    several = {name: (told[name] or "").split(",") for name in ("template", "pick", "calibrate")}
    several["template"] = [one or None for one in several["template"]]
    shots = [choices.convert(one, int, "--shots") for one in told["shots"].split(",")]
    found = import_module("trunkline.prompting.prompt").prompt(
        _parts(file, "classify", told, settings), told["model"], shots=shots, settings=settings, **several
    )
    _show(found.report, as_json)
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
@_reading
def predict(folder: str, texts: tuple[str, ...], file: str | None, out: str | None, model: str | None, as_json: bool, **told: Any) -> None:
    """Answer for TEXTS, or for every row of --file, with the branch in FOLDER."""
    if bool(texts) == bool(file):
        raise OptionError('give texts or --file, one of the two: trunkline predict runs/reviews "It stopped working"')
    branch = import_module("trunkline.branch").load(folder, model=model)
    rows = _read(file, branch.task, told, labelled=False) if file else [{"text": text} for text in texts]
    import_module("trunkline.console").answers(rows, branch.predict(rows), Path(out) if out else None, as_json)


@commands.command()
@click.argument("folder")
@click.argument("file")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@_reading
def evaluate(folder: str, file: str, model: str | None, as_json: bool, **told: Any) -> None:
    """Measure the branch in FOLDER on the labelled rows of FILE, with 95% intervals."""
    branch = import_module("trunkline.branch").load(folder, model=model)
    found = import_module("trunkline.evaluation.evaluate").evaluate(branch, _read(file, branch.task, told))
    _show(found, as_json)


@commands.command()
@click.argument("folder")
@click.argument("out")
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
def export(folder: str, out: str, model: str | None) -> None:
    """Write what the branch in FOLDER learned as a PEFT adapter of the whole model, in the folder OUT."""
    import_module("trunkline.branch").load(folder, model=model).export(out)
    click.echo(f"Saved in {out}. How to load it with PEFT, and what the head does: {Path(out) / 'README.md'}", err=True)


@commands.command()
@click.argument("file")
@click.option("--out", required=True, help="write all rows to this .jsonl or .csv file, each with its split; then: tune OUT --split given")
@click.option("--task", default="classify", show_default=True, help="classify or regress")
@click.option("--model", default="minilm", show_default=True, help="whose states judge what new rows mean")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@_reading
@partial(_settings, kind=AugmentSettings)
def augment(file: str, out: str, task: str, model: str, as_json: bool, **told: Any) -> None:
    """Make new training rows of FILE's training rows, keep those that mean the same, and measure whether they help."""
    settings = AugmentSettings(**{name: value[0] for name, value in told.items() if isinstance(value, tuple)})
    made = import_module("trunkline.augmentation.augment").augment(_read(file, task, told), model, settings=settings)
    import_module("trunkline.augmentation.write").write(made, Path(out))
    click.echo(json.dumps(made.to_json(), ensure_ascii=False, indent=2) if as_json else str(made))
    click.echo(f"\n{len(made.new):,} new rows are in {out}. Next:\n  trunkline tune {out} --task {task} --split given", err=True)


@commands.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, help="folder for the result; also where a stopped run goes on from")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@partial(_settings, kind=CleanSettings)
def clean(files: tuple[str, ...], out: str, as_json: bool, **told: Any) -> None:
    """Clean large text FILES (.txt, .jsonl, .parquet; .gz, .zst): repair, filter, deduplicate, and count every drop."""
    settings = CleanSettings(**{name: value[0] for name, value in told.items() if value is not None})
    report = import_module("trunkline.corpus.clean").clean(files, out, settings)
    click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else str(report))
    click.echo(f"\nSaved in {out}. What was dropped, and why: {Path(out) / 'samples.jsonl'}", err=True)


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


@commands.group()
def feedback() -> None:
    """What was served and what people said of it: look at a store, export it to learn from, forget a person, back it up.

    STORE is the path of a file, or postgresql://user@host/database.
    """


@feedback.command("stats")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="print the counts as JSON")
def feedback_stats(store: str, as_json: bool) -> None:
    """Count what is in STORE, by branch."""
    with _feedback(store) as opened:
        found = opened.stats()
    click.echo(json.dumps(found, indent=2) if as_json else import_module("trunkline.console").feedback(found))


@feedback.command("export")
@click.argument("store")
@click.option("--form", default="rows", show_default=True, help="rows for tune; pairs or liked answers for align")
@click.option("--branch", help="of this branch only")
@click.option("--upto", type=int, help="of entries up to this number, to make an earlier export again")
@click.option("--out", required=True, help="the file to write, JSON Lines")
def feedback_export(store: str, form: str, branch: str | None, upto: int | None, out: str) -> None:
    """Write what people said as training data."""
    with _feedback(store) as opened:
        made = import_module("trunkline.feedback.export").export(opened, form, branch=branch, upto=upto)
    import_module("trunkline.storage").write_file(Path(out), made.to_bytes())
    click.echo(f"{len(made.rows):,} rows from entries up to {made.last:,} written to {out}. SHA-256 {made.id}", err=True)
    if form == "rows" and made.rows:
        click.echo(f"\nNext:\n  trunkline tune {shlex.quote(out)} --id id --group group --out runs/next", err=True)


@feedback.command("verify")
@click.argument("store")
@click.argument("ids", nargs=-1)
def feedback_verify(store: str, ids: tuple[str, ...]) -> None:
    """Read all of STORE and compare every hash; and that IDS, which somebody kept, are in its history."""
    with _feedback(store) as opened:
        found = opened.verify(ids)
    click.echo(
        f"{found.events:,} events, {found.entries:,} entries, {found.forgotten:,} of them forgotten: all as written. Last: {found.head}"
    )


@feedback.command("forget")
@click.argument("store")
@click.argument("person")
@click.option("--states", "branches", multiple=True, help="folder of a branch whose stored states go too; may be given several times")
@click.option("--yes", is_flag=True, help="do not ask")
def feedback_forget(store: str, person: str, branches: tuple[str, ...], yes: bool) -> None:
    """Remove for good all that was said by or about PERSON. Exports and backups made before still hold it: make them anew."""
    if not yes:
        click.confirm(f"Remove all that {person!r} said, or that is about them, from {store}? It cannot be undone.", abort=True)
    loaded = [import_module("trunkline.branch").load(folder) for folder in branches]
    remove = import_module("trunkline.feedback.states").forget_states if loaded else None
    with _feedback(store) as opened:
        count = opened.forget(
            person, who=getpass.getuser(), states=lambda found: [remove(one, found) for one in loaded] if remove else None
        )
    click.echo(f"{count:,} entries are forgotten. Exports and backups that were made before still hold them: make them anew.")


@feedback.command("backup")
@click.argument("store")
@click.argument("out")
def feedback_backup(store: str, out: str) -> None:
    """Copy STORE into the new file OUT while others write to it, and verify the copy."""
    found = import_module("trunkline.feedback.backup").backup(store, out)
    click.echo(f"{found.events:,} events copied to {out} and verified. Last: {found.head}")


@contextmanager
def _feedback(place: str) -> Iterator[Any]:
    """An existing feedback store, closed at the end."""
    if "://" not in place and not Path(place).is_file():
        raise OptionError(f"{place}: does not exist, and so is no feedback store. `trunkline serve ... --feedback FILE` makes one.")
    opened = import_module("trunkline.feedback.store").FeedbackStore(place)
    try:
        yield opened
    finally:
        opened.close()


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
@click.option("--goal", default="dpo", show_default=True, help=f"{_listed(names.GOALS)}, with options as in dpo:beta=0.2")
@click.option("--start", help="folder of a branch that writes, to go on from; it is the reference too")
@click.option(
    "--model", help=f"where there is no start: a model that is one by itself, under a fresh method  [default: {MODELS['decoder']}]"
)
@click.option("--method", help="of a fresh start: what learns  [default: lora]")
@click.option("--depth", help="of a fresh start: how many top layers  [default: a quarter of them]")
@click.option("--out", help="folder for the branch; also where a stopped run goes on from")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@_reading
@_settings
def align(file: str, goal: str, as_json: bool, **told: Any) -> None:
    """Take a branch that writes further: by the preferences in FILE, or by rewards for answers to its prompts."""
    module = import_module("trunkline.alignment.align")
    told, settings = _chosen({**told, "task": None}, None)
    data = _parts(file, module.reads(goal), told, settings)
    asked = {k: told[k] for k in ("start", "model", "method", "out") if told[k]}
    asked |= {} if told["depth"] is None else {"depth": _depth(told["depth"])}
    _show(module.align(data, goal, settings=settings, **asked).report, as_json)
    if told["out"]:
        click.echo(f'\nSaved in {told["out"]}. Next:\n  trunkline predict {told["out"]} "..."', err=True)


@commands.command()
@click.argument("recipe")
@click.option("--json", "as_json", is_flag=True, help="print the overview as JSON")
def run(recipe: str, as_json: bool) -> None:
    """Carry out the steps of RECIPE (YAML) that are not done yet, and show what each gained. Run it again after a stop: it goes on."""

    def show(step: Any, skipped: bool) -> None:
        click.echo(f"{step.name}: {'done before' if skipped else step.verb}", err=True)

    found = import_module("trunkline.recipe").run(recipe, on_step=show)
    click.echo(found.to_json().decode() if as_json else str(found))


@commands.command()
@click.argument("folders", nargs=-1)
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@partial(_settings, kind=ServeSettings)
def serve(folders: tuple[str, ...], model: str | None, **told: Any) -> None:
    """Serve the branches in FOLDERS over HTTP, each under the name of its folder, until Ctrl-C or SIGTERM."""
    settings = ServeSettings(**{name: value[0] for name, value in told.items() if isinstance(value, tuple)})
    module = import_module("trunkline.serving.serve")
    store = import_module("trunkline.feedback.store").FeedbackStore(settings.feedback) if settings.feedback else None
    module.log_to_stderr()
    module.serve(folders, settings=settings, model=model, store=store, say=click.echo)


@commands.command()
@click.argument("file")
@click.option("--name", required=True, help="who the key is for: shown in logs, kept with feedback")
@click.option("--scope", "scopes", multiple=True, help="infer, feedback or admin; may be given several times  [default: infer]")
def keys(file: str, name: str, scopes: tuple[str, ...]) -> None:
    """Add an API key for `serve` to FILE, and print it: FILE keeps its SHA-256 only, so it is not seen again."""
    click.echo(import_module("trunkline.serving.edge.keys").add_key(Path(file), name, scopes or ("infer",)))


if __name__ == "__main__":
    main()

"""What commands share: the group that they belong to, flags made from settings, and reading what a user named."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from trunkline import __version__, choices
from trunkline.errors import OptionError, unknown
from trunkline.model.standard import ENCODER, MODELS
from trunkline.prompting.settings import PromptSettings
from trunkline.train.settings import Settings

READING = {
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

ANY_MODEL = f"{ENCODER}; where a task writes {MODELS['decoder']} or {MODELS['encoder-decoder']}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def commands() -> None:
    """Tune, measure and use branches on a frozen language model.

    \b
    trunkline demo                                          the whole job on the data that comes with it
    trunkline tune reviews.csv --label stars --out runs/reviews
    trunkline predict runs/reviews "It stopped working after two days"
    """


def listed(words: Iterable[str]) -> str:
    """The words as in: a, b or c."""
    *first, last = words
    return f"{', '.join(first)} or {last}"


def reading(command: Callable[..., None]) -> Callable[..., None]:
    """The options of how a file is read, the same for every command that reads one."""
    for name, text in reversed(READING.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, help=text)(command)
    return click.option("--no-header", is_flag=True, help="the first line is a row; columns are then named 0, 1, 2, ...")(command)


def flags_of(command: Callable[..., None], only: Collection[str] = (), kind: Any = Settings) -> Callable[..., None]:
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
        if value is None:
            return None
        flag = f"--{name.replace('_', '-')}"
        try:
            return (choices.convert(value, hint, flag),)
        except OptionError:
            if any(f"{flag}-file" in other.opts for other in context.command.params) and Path(value).exists():
                raise OptionError(f"{flag}={value!r}: {flag} is a share of the rows, as 0.2. A file is told by {flag}-file.") from None
            raise

    return convert


def chosen(told: dict[str, Any], config: str | None) -> tuple[dict[str, Any], Settings]:
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


def read(path: str, task: str, told: dict[str, Any], *, labelled: bool = True, say: bool = True) -> Any:
    """The rows of a file, read as the reading options say; what was noticed goes to stderr, with the file's name where there are several."""
    known = {k: v for k, v in told.items() if k in READING and v is not None}
    rows = import_module("trunkline.data.read").read(path, task, header=not told.get("no_header"), labelled=labelled, **known)
    for note in rows.notes if say else ():
        click.echo(f"note: {f'{path}: ' if told.get('several') else ''}{note}", err=True)
    return rows


def depth_of(told: str | int) -> str | int:
    """A depth as it was written. Raises: OptionError."""
    text = str(told)
    if text in ("all", "auto"):
        return text
    if not text.lstrip("-").isdigit():
        raise OptionError(f"depth={told!r}: use a number of layers, 'all' or 'auto'.")
    return int(text)


def parts_of(file: str, task: str, told: dict[str, Any], settings: Settings | PromptSettings, *, say: bool = True) -> Any:
    """The rows of FILE, or a split where the user gave files of their own for the other parts."""
    rows = read(file, task, told, say=say)
    given = {part: read(told[f"{part}_file"], task, told, say=say) for part in ("validation", "test") if told.get(f"{part}_file")}
    if not given and not told.get("drop_leaks"):
        return rows
    module = import_module("trunkline.data.split")
    shares = {part: given.get(part, getattr(settings, part)) for part in ("validation", "test")}
    made = module.split(rows, by=settings.split, seed=settings.seed, **shares)
    return import_module("trunkline.data.quality").drop_leaks(made) if told.get("drop_leaks") else made


def files_with(text: str, told: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """FILE:option=value as a file and what was told of it: its task, its name, how it is read, files of its own for the other parts."""
    path, options = choices.split_choice(text)
    known = {"task": "classify", "name": None, "validation_file": None, "test_file": None, "no_header": False, **dict.fromkeys(READING)}
    for key in options:
        if key not in known:
            raise unknown(f"--with {text}: option", key, known)
    given = {key: choices.convert(value, bool if key == "no_header" else str, f"--with {text}: {key}") for key, value in options.items()}
    return path, {**known, **given, "drop_leaks": told["drop_leaks"]}


def show(report: Any, as_json: bool) -> None:
    """The report, as JSON or as a table."""
    click.echo(report.to_json().decode() if as_json else str(report))


def note_what_is_new(report: Any, said: Collection[str]) -> None:
    """The notes of a report but for those that were said when its rows were read, and how they were split."""
    for note in report.data["notes"]:
        if note not in said and not note.startswith("split "):
            click.echo(f"note: {note}", err=True)

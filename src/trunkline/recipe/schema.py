"""What a recipe may say, and reading one: every key and value is checked, and what is wrong is told with its line, all of it together.

`VERBS` is the table of what each verb may be told; a recipe becomes a `Recipe` of `Step`s. There is no code in a recipe, only values.
"""

from __future__ import annotations

import hashlib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trunkline import choices, names, storage
from trunkline.alignment.align import reads
from trunkline.data.options import lines_of, read_options
from trunkline.data.read import read
from trunkline.errors import DataError, OptionError, unknown
from trunkline.train.settings import Settings
from trunkline.types import Rows

READING = {
    **dict.fromkeys(("text", "text_b", "label", "id", "group", "time", "encoding", "separator", "multi_label_separator", "skip_bad"), str | None),
    "header": bool,
}  # fmt: skip
_DATA = {"file": str, "validation_file": str | None, "test_file": str | None, "drop_leaks": bool}
SETTINGS = {name: hint for name, hint in typing.get_type_hints(Settings).items() if name in {f.name for f in fields(Settings)}}
_MADE = {"model": str | None, "method": str, "depth": int | str | None}
VERBS: dict[str, dict[str, Any]] = {
    "tune": {**_DATA, **READING, **SETTINGS, **_MADE, "task": str},
    "align": {**_DATA, **READING, **SETTINGS, **_MADE, "goal": str, "start": str | None},
    "evaluate": {"file": str, **READING, "branch": str},
}
"""What each verb may be told in a recipe, and the type of each."""
_NEEDED = {"tune": ("file",), "align": ("file",), "evaluate": ("file", "branch")}
_MEASURE = {"file": str, "task": str, "reward": str, "rows": int, **READING}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
REFERENCE = re.compile(r"\$([A-Za-z0-9_-]+)")
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
                if key in SETTINGS and converted is not None:
                    Settings(**{key: converted})
                if key == "task" and "branch" not in known:
                    names.task(choices.split_choice(converted)[0])
                if key == "goal":
                    reads(converted)
            except OptionError as error:
                self.add((*at, key), str(error) if str(error).startswith(who) else f"{who}: {error}")
            for name in REFERENCE.findall(value) if isinstance(value, str) else ():
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


def rows_of(recipe: Recipe, told: Mapping[str, Any], task: str, name: str = "file") -> Rows:
    """The rows of a file that a step or a measure names, read as it says. Raises: as `read`."""
    return read(recipe.path.parent / told[name], task, **{k: v for k, v in told.items() if k in READING})


def sum_of(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    if not path.is_dir():
        return storage.sha256_file(path)
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return hashlib.sha256("".join(f"{one.relative_to(path)} {storage.sha256_file(one)}\n" for one in files).encode()).hexdigest()


def place_of(recipe: Recipe, step: Step) -> Path:
    """Where what a step makes is put: a branch's folder, or the file of a report."""
    return recipe.out / (f"{step.name}.json" if step.verb == "evaluate" else step.name)

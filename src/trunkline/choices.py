"""A name with options, written as `name:option=value:option=value`, into a frozen dataclass of the right types.

lora:rank=16:dropout=0.1        a method and its Config
classify:label_smoothing=0.1    a task and what its TaskSpec may be told
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from trunkline.errors import OptionError, unknown

T = TypeVar("T")
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def split_choice(text: str) -> tuple[str, dict[str, str]]:
    r"""The name and the options of a choice. A colon within a value is written with a backslash before it.

    >>> split_choice("lora:rank=16:dropout=0.1")
    ('lora', {'rank': '16', 'dropout': '0.1'})
    >>> split_choice(r"seq2seq:prefix=summarize\: ")
    ('seq2seq', {'prefix': 'summarize: '})
    """
    name, *parts = (part.replace("\\:", ":") for part in re.split(r"(?<!\\):", text))
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise OptionError(f"{text!r}: {part!r} is not option=value. Write for example 'lora:rank=16:dropout=0.1'.")
        if key.replace("-", "_") in options:
            raise OptionError(f"{text!r}: {key!r} is given twice.")
        options[key.replace("-", "_")] = value
    return name, options


def build(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `kind` with these options, strings turned into the types of its fields.

    Raises: OptionError for an option that `kind` does not have (with the nearest name), one that is a setting of the whole run, or a value of
    another type.
    """
    known = {f.name: f for f in settable(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in _of_the_run(kind):
            flag = name.replace("_", "-")
            raise OptionError(
                f"{where}: {name}={value}: is a setting of the whole run. Give --{flag} {value}, or Settings({name}={value})."
            )
        if name not in known:
            raise unknown(f"{where} option", name, known)
        values[name] = convert(value, hints[name], f"{where}: {name}")
    return kind(**values)


def settable(kind: type) -> list[Field[Any]]:
    """The fields of a dataclass that a user may set: all but those marked as learned from the rows, or as taken from the settings of a run."""
    return [f for f in fields(kind) if not f.metadata.get("learned") and not f.metadata.get("setting")]


def _of_the_run(kind: type) -> set[str]:
    return {f.name for f in fields(kind) if f.metadata.get("setting")}


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; a string is read, anything else must already fit.

    >>> convert("16", int, "rank"), convert("none", float | None, "clip"), convert("yes", bool, "fast")
    (16, None, True)
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        if type(None) in options:
            return None
    for option in options:
        if option is bool and isinstance(value, str) and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        if option in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                number = option(value)
                if number == float(value) and abs(number) != float("inf"):
                    return number
            except (ValueError, OverflowError):  # not a number, or too large for one
                continue
        if option in (str, bool) and isinstance(value, option):
            return value
    names = " or ".join(getattr(o, "__name__", str(o)).replace("NoneType", "none") for o in options)
    raise OptionError(f"{where}={value!r}: use a value of type {names}.")


def one_of(name: str, value: str, allowed: typing.Iterable[str]) -> None:
    """Raise an OptionError unless `value` is one of `allowed`."""
    if value not in set(allowed):
        raise unknown(name, value, allowed)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise an OptionError unless low <= value <= high (a NaN never is)."""
    if not low <= value <= high:
        raise OptionError(f"{name}={value}: use {low} to {high}.")


def duration(name: str, value: str) -> float:
    """The seconds of a length of time written as 90s, 5m or 1h.

    >>> duration("budget", "5m")
    300.0
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = value[:-1], value[-1:]
    if unit in units and number.replace(".", "", 1).isdigit():
        return float(number) * units[unit]
    raise OptionError(f"{name}={value!r}: write a length of time as 90s, 5m or 1h.")

"""What a search for options tries: for each option a list of values, or a range. Beside `search`."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trunkline import choices, names
from trunkline.choices import convert
from trunkline.errors import OptionError, unknown
from trunkline.model.backbone import ALL, AUTO, Backbone, Depth
from trunkline.train.depth import candidates
from trunkline.train.settings import Settings

TUNED = (
    "learning_rate", "head_learning_rate", "epochs", "batch_size", "optimizer", "weight_decay", "schedule", "warmup", "clip", "dropout",
    "objective",
)  # fmt: skip
"""The settings that may be searched: those that say how is learned, and not on which rows, states or machine."""
_RATES = ("learning_rate", "head_learning_rate", "weight_decay")
_USUAL = {"batch_size": "16,32,64", "weight_decay": "0.001..0.1", "dropout": "0.0..0.3"}
RATE = "times_learning_rate"
_TIMES = 10.0
"""Where no learning rate is told, from a tenth to ten times what the method suggests."""


@dataclass(frozen=True)
class Range:
    """From low to high, both included; log: by their logarithms; whole: whole numbers only."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


Values = Range | tuple[Any, ...]


def space_of(told: Mapping[str, str], method: str, depth: Depth, settings: Settings, backbone: Backbone) -> dict[str, Values]:
    """What each option may be: as told, and for the usual options that nothing was told of, in settings or here, a usual range.

    told: "low..high" or "one,other,..." by the name of a setting, "method" or "depth"; where no learning
        rate is told, RATE is a factor of what each method suggests. An option with one value only is no question, but stands here too.

    Raises: OptionError for an option that cannot be searched, or a range that is none.
    """
    for name in told:
        if name not in (*TUNED, "method", "depth"):
            raise unknown("space option", name, (*TUNED, "method", "depth"))
    space: dict[str, Values] = {"method": tuple(told.get("method", method).split(","))}
    for one in space["method"]:  # type: ignore[union-attr]
        choices.build(names.method(choices.split_choice(one)[0]).Config, choices.split_choice(one)[1], f"method {one!r}")
    if "depth" in told or depth != AUTO:
        space["depth"] = tuple(backbone.check_depth(_depth(each)) for each in str(told.get("depth", depth)).split(","))
    else:
        space["depth"] = tuple(each for each in candidates(backbone) if each != ALL)
    if settings.learning_rate is None and "learning_rate" not in told:
        space[RATE] = Range(1 / _TIMES, _TIMES, log=True)
    plain = {f.name: f.default for f in fields(Settings)}
    usual = {name: text for name, text in _USUAL.items() if getattr(settings, name) == plain[name]}
    return space | {name: values_of(name, text) for name, text in {**usual, **told}.items() if name in TUNED}


def values_of(name: str, text: str) -> Values:
    """The values of one setting, from text.

    >>> values_of("batch_size", "16,32"), str(values_of("learning_rate", "1e-5..1e-3"))
    ((16, 32), '1e-05..0.001')
    """
    hint = typing.get_type_hints(Settings)[name]
    if ".." not in text or name == "objective":
        return tuple(convert(each, hint, f"space: {name}") for each in text.split(","))
    low, high = (convert(end, float, f"space: {name}") for end in text.split("..", 1))
    whole = float not in (hint, *typing.get_args(hint))
    if str in (hint, *typing.get_args(hint)) or not low < high or (name in _RATES and low <= 0) or (whole and (low % 1 or high % 1)):
        raise OptionError(
            f"space: {name}={text}: write low..high, two numbers that fit it with low below high, or values with commas between."
        )
    return Range(low, high, log=name in _RATES, whole=whole)


def size(space: Mapping[str, Values]) -> float:
    """How many different settings there are; infinite where one is a range of broken numbers."""
    sizes: Sequence[float] = [
        (each.high - each.low + 1 if each.whole else math.inf) if isinstance(each, Range) else len(each) for each in space.values()
    ]
    return math.prod(sizes)


def _depth(text: str) -> Depth:
    return int(text) if text.lstrip("-").isdigit() else text

"""Choices as people write them: what is read, and every way of being wrong, each with what is allowed."""

from dataclasses import dataclass, field

import pytest

from trunkline import names
from trunkline.choices import between, build, convert, one_of, settable, split_choice
from trunkline.errors import OptionError


@dataclass(frozen=True)
class Config:
    rank: int = 8
    dropout: float = 0.0
    clip: float | None = 1.0
    name: str = "x"
    fast: bool = False
    labels: tuple[str, ...] = field(default=(), metadata={"learned": True})


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("full", "full", {}),
        ("lora:rank=16:dropout=0.1", "lora", {"rank": "16", "dropout": "0.1"}),
        ("lora:target-modules=a", "lora", {"target_modules": "a"}),
        ("x:a=", "x", {"a": ""}),
        ("x:a=b=c", "x", {"a": "b=c"}),
        ("", "", {}),
    ],
)
def test_a_choice_is_a_name_and_its_options(text, name, options):
    assert split_choice(text) == (name, options)


@pytest.mark.parametrize("text", ["lora:rank", "lora:", "lora:=16", "lora:rank=1:", "lora::rank=1"])
def test_what_is_not_option_and_value_is_refused_with_an_example(text):
    with pytest.raises(OptionError, match=r"is not option=value. Write for example 'lora:rank=16:dropout=0.1'"):
        split_choice(text)


@pytest.mark.parametrize("text", ["x:a=1:a=2", "x:a-b=1:a_b=1"])
def test_an_option_given_twice_is_refused(text):
    with pytest.raises(OptionError, match="is given twice"):
        split_choice(text)


def test_strings_become_what_the_fields_are():
    given = {"rank": "16", "dropout": "1e-1", "clip": "none", "name": "7", "fast": "Yes"}
    assert build(Config, given, "method 'x'") == Config(16, 0.1, None, "7", True)
    assert build(Config, {}, "x") == Config()


def test_an_unknown_option_is_refused_with_the_nearest_and_the_list():
    with pytest.raises(OptionError) as caught:
        build(Config, {"rnk": 1}, "method 'x'")
    assert str(caught.value) == "method 'x' option='rnk': unknown. Did you mean 'rank'? Allowed: clip, dropout, fast, name, rank."


def test_what_is_learned_from_the_rows_cannot_be_told():
    assert [f.name for f in settable(Config)] == ["rank", "dropout", "clip", "name", "fast"]
    with pytest.raises(OptionError, match="labels"):
        build(Config, {"labels": "a"}, "x")


@pytest.mark.parametrize("goal", ["ppo", "rloo", "grpo", "ift"])
@pytest.mark.parametrize("option", ["seed", "checkpoint_seconds"])
def test_what_the_settings_of_a_run_say_is_refused_as_an_option_of_a_goal(goal, option):
    """It was taken and then silently overwritten by the settings."""
    with pytest.raises(OptionError, match=rf"{option}=7: is a setting of the whole run. Give --{option.replace('_', '-')} 7"):
        build(names.goal(goal).Config, {option: "7"}, f"goal {goal!r}")
    assert option not in [f.name for f in settable(names.goal(goal).Config)]


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        ("16", int, 16), (16, int, 16), (16.0, int, 16), ("-3", int, -3), ("0.1", float, 0.1), (1, float, 1.0), ("1e-5", float, 1e-5),
        ("none", float | None, None), ("None", int | None, None), (None, int | None, None), ("7", int | None, 7), ("true", bool, True),
        ("OFF", bool, False), (True, bool, True), ("none", str | None, None), ("none", str, "none"), ("true", str, "true"), ("", str, ""),
        ("3", int | str, 3), ("all", int | str, "all"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_type(value, hint, wanted):
    got = convert(value, hint, "x")
    assert got == wanted
    assert type(got) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1.5", int), (1.5, int), ("x", int), ("", int), ("", float), ("nan", float), (float("nan"), float), ("inf", float), ("-inf", float),
        (float("inf"), int), (float("nan"), int), ("1e999", float), ("1" * 5000, int), (10**400, int), (10**400, float), ("0x10", int),
        (True, int), (False, float), ("maybe", bool), (1, bool), (0, bool), ("none", int), (None, int), (None, str), (5, str), ([], int),
        ({}, str), ([1], float | None), (b"1", int),
    ],
    ids=lambda part: repr(part)[:20],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(value, hint):
    with pytest.raises(OptionError, match=r"where.*use a value of type"):
        convert(value, hint, "where")


def test_the_message_names_all_types_that_are_allowed():
    with pytest.raises(OptionError, match=r"rate='x': use a value of type float or none\."):
        convert("x", float | None, "rate")


def test_one_of_and_between():
    one_of("schedule", "linear", ("linear", "cosine"))
    with pytest.raises(OptionError, match=r"schedule='liner': unknown. Did you mean 'linear'"):
        one_of("schedule", "liner", ("linear", "cosine"))
    for value in (0, 0.5, 1):
        between("share", value, 0, 1)
    for value in (-1e-9, 1.1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=r"share=.*: use 0 to 1\."):
            between("share", value, 0, 1)

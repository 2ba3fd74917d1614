"""The documents say what is true: README's code runs and prints what stands below it, commands and options exist, links lead somewhere.

python -m tests.test_documents      writes the tables of docs/tune.md and the output in both READMEs anew (on the real model; minutes)
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest

import trunkline as tl
from trunkline import choices, cli, names
from trunkline.commands import branches
from trunkline.errors import TrunklineError
from trunkline.model import sources
from trunkline.train.settings import Settings

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
QUICK = Settings(epochs=1)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(code: str) -> str:
    """What a block of Python prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def shape(output: str) -> list[str]:
    """The words of an output: its numbers are another machine's, its widths follow them, and a line on the machine itself counts not."""
    output = "\n".join(line for line in output.splitlines() if not line.startswith("On "))
    text = re.sub(r"\bmin\b|\bs\b|[^\w\s]", " ", re.sub(r"[−-]?[\d.,]+%?", " ", output))
    return [word for word in text.split() if word not in ("better", "worse", "no", "difference", "shown", "by", "points")]


def table(rows: list[tuple[str, str, str]], head: tuple[str, str, str]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [head, ("---",) * 3, *rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def default(value: Any) -> str:
    return "none" if value is None else "off" if value is False else f"`{value}`" if value != "" else ""


def option_tables() -> dict[str, str]:
    """The tables of docs/tune.md by name, from where each option is defined."""
    flags = [p for p in branches.tune.params if isinstance(p, click.Option)]
    own = {field.name for field in fields(Settings)}
    help_of = [(f"`{max(p.opts, key=len)}`", *_help(p.help or "")) for p in flags if p.name not in own]
    settings = [
        (f"`--{f.name.replace('_', '-')}`", default(f.default), str(f.metadata["help"]))
        for f in fields(Settings)
        if f.name != "task_options"
    ]
    methods = [
        (f"`{name}`", f"`{f.name}`", default(f.default)) for name in names.METHODS for f in choices.settable(names.method(name).Config)
    ]
    tasks = [(f"`{name}`", f"`{f.name}`", default(f.default)) for name in names.TASKS for f in choices.settable(names.task(name).TaskSpec)
             if f.name != "task" and f.default is not MISSING]  # fmt: skip
    return {
        "what": table([(flag, value, text) for flag, text, value in help_of], ("flag", "default", "what it is")),
        "settings": table(settings, ("flag", "default", "what it is")),
        "methods": table(methods, ("method", "option", "default")),
        "tasks": table(tasks, ("task", "option", "default")),
    }


def _help(text: str) -> tuple[str, str]:
    said, _, value = text.partition("  [default: ")
    return said, f"`{value.rstrip(']')}`" if value else ""


def with_tables(text: str) -> str:
    """The text with what stands between `<!-- table: NAME -->` and `<!-- end -->` made anew."""
    for name, made in option_tables().items():
        text, count = re.subn(
            rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)", lambda found, made=made: found[1] + made + found[2], text, flags=re.DOTALL
        )
        assert count == 1, name
    return text


def test_options_of_tune_are_all_described() -> None:
    assert read("docs/tune.md") == with_tables(read("docs/tune.md")), "run: python -m tests.test_documents --tables"


@pytest.mark.wide
@pytest.mark.parametrize("readme", READMES)
def test_readme_python_runs(readme: str, cache: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch) -> None:
    """On a tiny model and for one epoch: the calls are right, and what is printed has the form of what stands there."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(read(readme), "python")
    assert len(code.strip().splitlines()) <= 10
    assert code.count('model="minilm"') == 1
    small = code.replace('model="minilm"', f"model={str(tiny_folder('bert'))!r}, settings=tl.Settings(epochs=1)")
    printed = run(small)
    assert "tuned branch" in printed
    assert (tmp_path / "runs/messages/branch.safetensors").is_file()
    assert head_and_names(printed) == head_and_names(blocks(read(readme), "text")[0])


def head_and_names(output: str) -> list[str]:
    """The head of the table and the first cell of its rows."""
    head, _, *rows = output.splitlines()[:6]
    return [cell.strip() for cell in head.split("|")] + [row.split("|")[0].strip() for row in rows]


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.parametrize("readme", READMES)
def test_readme_output_is_real(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        sources.get("minilm")
    except TrunklineError as error:
        pytest.skip(f"minilm cannot be had here: {error}")
    (code,) = blocks(read(readme), "python")
    assert shape(run(code)) == shape(blocks(read(readme), "text")[0])


def test_both_readmes_hold_the_same_code() -> None:
    english, chinese = (read(name) for name in READMES)
    assert blocks(english, "python") == blocks(chinese, "python")
    assert blocks(english, "text") == blocks(chinese, "text")
    assert commands(english) == commands(chinese)


def commands(text: str) -> list[list[str]]:
    """The `trunkline ...` lines of the shell blocks, as words."""
    lines = [line for block in blocks(text, "(?:sh|bash)") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found and found[0].rpartition("/")[2] == "trunkline"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_parse(document: str) -> None:
    """Every command line in the documents is one that the command line takes."""
    for words in commands(read(document)):
        command: Any = cli.commands
        while isinstance(command, click.Group) and words:
            command, words = command.commands[words[0]], words[1:]
        context = command.make_context("trunkline", [word for word in words if word != "..."], resilient_parsing=False)
        assert context.command is command


def test_there_are_commands_to_check() -> None:
    assert len([words for document in DOCUMENTS for words in commands(read(document))]) > 8


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = read(document)
    local = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text) for link in link if link]
    assert not [link for link in local if "://" not in link and not (ROOT / document).parent.joinpath(link).exists()]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    told = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\bmake ([a-z-]+)`|^make ([a-z-]+)", read(document), re.MULTILINE)
        for name in name
    }
    assert {"test", "demo", "demo-zh", "check"} <= targets
    assert told - {""} <= targets


def test_architecture_names_every_file() -> None:
    """The annotated tree has a line for each file of the package, and for no other."""
    package = ROOT / "src" / "trunkline"
    there = {path.name for path in package.rglob("*.py") if path.name != "__init__.py" or path.parent == package}
    (tree,) = [block for block in blocks(read("ARCHITECTURE.md"), "text") if block.startswith("src/trunkline/")]
    told = re.findall(r"^\s+(\w+\.py)\s+\S", tree, re.MULTILINE)
    assert set(told) == there


@pytest.mark.wide
@pytest.mark.parametrize("example", ["classify", "regress", "tag", "span", "rank", "recommend", "compare", "serve"])
def test_examples_run(example: str, cache: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    source = read(f"examples/{example}.py")
    assert len(source.splitlines()) < 60
    main = runpy.run_path(str(ROOT / f"examples/{example}.py"))["main"]
    file = [str(tl.embedded("zh"))] if example == "classify" else [None]
    main(*file, str(tiny_folder("bert")), settings=QUICK)
    assert "tuned branch" in capsys.readouterr().out


@pytest.mark.parametrize(("example", "family"), [("seq2seq", "t5"), ("generate", "llama"), ("align", "llama")])
def test_examples_that_write_run(
    example: str, family: str, cache: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read(f"examples/{example}.py").splitlines()) < 60
    main = runpy.run_path(str(ROOT / f"examples/{example}.py"))["main"]
    split = "label" if example == "seq2seq" else "group"
    main(None, str(tiny_folder(family)), settings=Settings(epochs=1, split=split, task_options="max_new_tokens=8"))
    assert "tuned branch" in capsys.readouterr().out


def _write(name: str, text: str) -> None:
    (ROOT / name).write_text(text, encoding="utf-8")


def _refresh() -> None:
    _write("docs/tune.md", with_tables(read("docs/tune.md")))
    if "--tables" in sys.argv:
        return
    (code,) = blocks(read("README.md"), "python")
    model = sources.get("minilm")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(model, Path(folder, "cache", "models", "minilm"))
        os.environ["TRUNKLINE_CACHE"] = str(Path(folder, "cache"))  # with the model and without states: the times of a first run
        printed = run(code).rstrip()
    for name in READMES:
        text = read(name)
        _write(name, text.replace(blocks(text, "text")[0], printed + "\n", 1))


if __name__ == "__main__":
    _refresh()

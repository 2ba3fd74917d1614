"""The face is honest: what is promised is there, what is there is described, and no file or function grew past reading."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trunkline
from trunkline import errors

SOURCE = Path(errors.__file__).parent
ROOT = SOURCE.parents[1]
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES = 400, 50
LONG_FUNCTIONS = {
    "data/read.py:read": "each of its parameters is a flag, and stands on a line of its own with its explanation",
    "train/tune.py:tune": "the order of all stages, to be read in one place; half of it is its docstring",
}
"""Functions that may be longer, each with the reason. This list does not grow."""


@pytest.mark.parametrize("name", trunkline.__all__)
def test_names_resolve(name: str) -> None:
    assert getattr(trunkline, name) is not None
    assert name in dir(trunkline)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_mentions_every_name(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert not [name for name in trunkline.__all__ if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`|\btl\.{name}\b", text)]


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'tuen'; it has .*tune"):
        _ = trunkline.tuen


def test_version_is_the_package_s() -> None:
    assert f'version = "{trunkline.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"## [{trunkline.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_errors_have_one_root() -> None:
    raised = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(raised) > 5
    assert all(issubclass(kind, errors.TrunklineError) for kind in raised)
    assert {kind.exit_code for kind in raised} == {1, 2}


def test_importing_does_nothing() -> None:
    """Nothing is printed, warned of, or written to the environment by importing all of it, and no module hides a public name."""
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
    code = f"import os, importlib\nbefore = dict(os.environ)\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted(k for k in os.environ.keys() - before.keys() if not k.startswith(('KMP', 'TORCH', 'PYTORCH'))))"
    code += "\nimport trunkline as tl\nassert all(callable(getattr(tl, name)) for name in tl.__all__ if name != '__version__')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    if not text:
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring at the top"
    lacking = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and _is_public(n) and not ast.get_docstring(n)]
    assert not lacking, "public, without a docstring"
    long = {
        f"{path.relative_to(SOURCE)}:{node.name}": node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    }
    assert not {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}


def _is_public(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_")

"""The order of the layers: imports point down, never up and never to a sibling; and what is light stays light."""

import ast
import os
import re
import resource
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import trunkline.errors

SOURCE = Path(trunkline.errors.__file__).parent
ROOT = SOURCE.parents[1]
LAYERS = (
    ("errors", "types", "storage", "memory", "names", "choices", "progress", "console"),
    ("data", "model"),
    ("states",),
    ("tasks", "methods"),
    ("evaluation",),  # before branch and train: training needs metrics and the report, measuring needs no training
    ("branch",),
    ("train", "stream"),
    ("prompting",),
    ("quality",),
    ("labelling",),
    ("alignment",),
    ("recipe",),
    ("feedback",),
    ("serving",),
    ("corpus", "augmentation"),
    ("commands",),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
BY_NAME = {
    "__init__.py", "names.py", "commands/shared.py", "commands/rows.py", "commands/branches.py", "commands/service.py", "serving/app.py",
    "serving/serve.py",
}  # fmt: skip
"""The files that look modules of ours up by name, when they are used, so that starting is fast."""
THROUGH_TRANSFORMERS = {"gguf"}
"""Packages that no file of ours imports, and that `transformers` needs for what we ask of it."""
THROUGH_SQLALCHEMY = {"pg8000"}
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "faiss": "faiss-cpu",
    "rouge_score": "rouge-score",
    "prometheus_client": "prometheus-client",
}


def files() -> list[Path]:
    found = sorted(SOURCE.rglob("*.py"))
    assert len(found) > 50
    return found


def place(path: Path) -> str:
    """The layer's name of a file: its top folder, or its own name."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def ours(node: ast.AST) -> list[str]:
    """The modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] == "trunkline"]
    if isinstance(node, ast.ImportFrom) and node.module == "trunkline":
        return [f"trunkline.{alias.name}" for alias in node.names if alias.name != "__version__"]
    return [node.module] if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trunkline.") else []


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements that run when a module is imported; not what stands under TYPE_CHECKING."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from ast.walk(node) if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ()


def upward(where: str, module: str) -> str | None:
    """What is wrong with a file of layer `where` importing `module`, or None."""
    target = module.split(".")[1]
    if RANK[target] > RANK[where]:
        return f"up to {module}"
    return f"sideways to {module}" if target != where and RANK[target] == RANK[where] > 0 else None


def sibling(path: Path, module: str) -> bool:
    where = place(path)
    return where in ("tasks", "methods") and path.stem != "__init__" and module.startswith(f"trunkline.{where}.")


def problems(path: Path, code: str) -> list[str]:
    tree, found = ast.parse(code), []
    for node in at_import(tree):
        for module in ours(node) if path.name != "__init__.py" or path.parent != SOURCE else ():
            wrong = upward(place(path), module)
            found += [wrong] if wrong else []
            found += [f"to its sibling {module}"] if sibling(path, module) else []
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        found += [f"inside {function.name}: {module}" for node in ast.walk(function) for module in ours(node)]
    looked_up = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "import_module" in ast.unparse(n.func)]
    if looked_up and str(path.relative_to(SOURCE)) not in BY_NAME:
        found.append(f"import_module on line {looked_up[0].lineno}")
    return found


def test_every_file_is_in_a_layer() -> None:
    assert {place(path) for path in files()} - {"__init__"} == set(RANK)


def test_imports_point_down() -> None:
    assert not [f"{path.relative_to(SOURCE)}: {what}" for path in files() for what in problems(path, path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("types.py", "from trunkline.data.read import read"),
        ("data/read.py", "from trunkline.model import sources"),
        ("model/sources.py", "import trunkline.states.store"),
        ("tasks/regress.py", "from trunkline.tasks.classify import head"),
        ("tasks/regress.py", "from trunkline.methods import lora"),
        ("evaluation/report.py", "from trunkline.train.fit import fit"),
        ("evaluation/report.py", "try:\n    from trunkline import branch\nexcept ImportError:\n    pass"),
        ("branch.py", "def f():\n    from trunkline.errors import OptionError"),
        ("train/tune.py", "import importlib\ndef f():\n    importlib.import_module('trunkline.cli')"),
    ],
)
def test_gate_finds(file: str, code: str) -> None:
    assert problems(SOURCE / file, code)


def test_gate_lets_pass() -> None:
    code = "from typing import TYPE_CHECKING\nfrom trunkline import __version__, names\nif TYPE_CHECKING:\n    from trunkline.branch import Branch"
    assert not problems(SOURCE / "evaluation/evaluate.py", code)


def test_data_imports_no_torch() -> None:
    for path in (SOURCE / "data").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "peft", "tokenizers"}, path


def test_what_is_imported_is_declared() -> None:
    """Every package that the code imports stands in pyproject.toml, and every one that stands there is imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    written = [*project["dependencies"], *(line for name, lines in extras.items() if name != "dev" for line in lines)]
    declared = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in written}
    imported = set()
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    imported -= {*sys.stdlib_module_names, "trunkline"}
    assert {DISTRIBUTIONS.get(name, name) for name in imported} == declared - THROUGH_TRANSFORMERS - THROUGH_SQLALCHEMY


def fresh(*command: str) -> tuple[float, str]:
    """The median of the processor seconds of five runs (a busy machine does not change them), and what was printed."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent), done.stdout


HEAVY = "import sys; print([m for m in ('torch', 'transformers', 'numpy', 'rich', 'datasets') if m in sys.modules])"
SLACK = 2 if os.environ.get("CI") else 1


def test_import_is_light() -> None:
    seconds, printed = fresh("-c", f"import trunkline; {HEAVY}")
    assert printed.strip() == "[]"
    assert seconds < 0.2 * SLACK


@pytest.mark.parametrize("words", [["--help"], ["tune", "--help"]])
def test_help_is_light(words: list[str]) -> None:
    code = f"import sys\nfrom trunkline import cli\ntry:\n    cli.main()\nexcept SystemExit as end:\n    code = end.code\n{HEAVY}\nsys.exit(code)"
    seconds, printed = fresh("-c", code, *words)
    assert printed.startswith("Usage:")
    assert printed.rstrip().endswith("[]")
    assert seconds < 0.3 * SLACK


def test_reading_takes_no_torch() -> None:
    code = f"import trunkline as tl; tl.check(tl.split(tl.read(tl.embedded('en')))); {HEAVY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout

"""Bar A1: nothing in the package can load a pickle, run text as code, or trust code from a model. The gate reads the syntax trees."""

import ast
from pathlib import Path

import pytest

import trunkline.errors

SOURCE = Path(trunkline.errors.__file__).parent
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "picklescan"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {("torch", "load"), ("numpy", "load"), ("np", "load"), ("pd", "read_pickle"), ("yaml", "load"), ("yaml", "unsafe_load")}
FLAGS = {"allow_pickle", "trust_remote_code"}


def forbidden(tree: ast.AST) -> list[str]:
    """Each forbidden thing in a syntax tree, as "line: what"."""
    found = []
    for node in ast.walk(tree):
        for what in _forbidden(node):
            found.append(f"{getattr(node, 'lineno', 0)}: {what}")
    return found


def _forbidden(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        loads = [f"from {node.module} import {a.name}" for a in node.names if (node.module, a.name) in METHODS]
        return loads + ([f"from {node.module} import"] if (node.module or "").split(".")[0] in MODULES else [])
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in METHODS:
        return [f"{node.value.id}.{node.attr}"]
    if isinstance(node, ast.Call):
        named = [node.func.id] if isinstance(node.func, ast.Name) and node.func.id in CALLS else []
        dynamic = isinstance(node.func, ast.Attribute | ast.Name) and "import_module" in ast.dump(node.func)
        named += [f"import_module({a.value!r})" for a in node.args if dynamic and isinstance(a, ast.Constant) and a.value in MODULES]
        return named + [f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg in FLAGS and not _is_false(k.value)]
    return []


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_package_has_none() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 10
    found = [f"{path.relative_to(SOURCE)}:{what}" for path in files for what in forbidden(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import joblib.memory",
        "from cloudpickle import loads",
        "def f():\n    import dill",
        "import torch\nx = torch.load('f')",
        "from torch import load",
        "np.load('f', allow_pickle=True)",
        "read('f', allow_pickle=flag)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "eval('1')",
        "exec(text)",
        "compile(text, 'f', 'exec')",
        "__import__('os')",
        "importlib.import_module('pickle')",
        "import marshal, json",
        "import shelve as s",
        "load = torch.load",
        "yaml.load(text)",
    ],
)
def test_gate_finds(code: str) -> None:
    assert forbidden(ast.parse(code))


def test_gate_lets_pass() -> None:
    fine = "import json\nmodel.eval()\nre.compile('x')\nAutoModel.from_pretrained('x', trust_remote_code=False)\nyaml.safe_load(text)"
    assert not forbidden(ast.parse(fine))

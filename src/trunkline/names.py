"""The one table of names: tasks, methods and goals, by the module that holds each. To add one: its file, and a line here.

This is the only place that imports ours inside a function: a name is looked up when it is used, so that
`trunkline --help` starts without torch.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from trunkline.errors import unknown

TASKS = {
    "classify": "trunkline.tasks.classify",
    "regress": "trunkline.tasks.regress",
    "tag": "trunkline.tasks.tag",
    "span": "trunkline.tasks.span",
    "seq2seq": "trunkline.tasks.seq2seq",
    "generate": "trunkline.tasks.generate",
    "rank": "trunkline.tasks.rank",
    "recommend": "trunkline.tasks.recommend",
    "reward": "trunkline.tasks.reward",
}

METHODS = {
    "full": "trunkline.methods.full",
    "lora": "trunkline.methods.lora",
    "adalora": "trunkline.methods.adalora",
    "ia3": "trunkline.methods.ia3",
    "adapter": "trunkline.methods.adapter",
    "prefix": "trunkline.methods.prefix",
    "prompt": "trunkline.methods.prompt",
    "norm": "trunkline.methods.norm",
    "bitfit": "trunkline.methods.bitfit",
    "probe": "trunkline.methods.probe",
}

GOALS: dict[str, str] = {
    "dpo": "trunkline.alignment.dpo",
    "ipo": "trunkline.alignment.ipo",
    "kto": "trunkline.alignment.kto",
    "orpo": "trunkline.alignment.orpo",
    "ppo": "trunkline.alignment.ppo",
    "rloo": "trunkline.alignment.rloo",
    "grpo": "trunkline.alignment.grpo",
    "ift": "trunkline.alignment.ift",
    "rejection": "trunkline.alignment.rejection",
}
"""What alignment may be after. The module of a goal has `Config` (a frozen dataclass: the options of `--goal NAME:option=value`), READS (the task
that its rows are read for) and `align(start, parts, config, settings, out)`: from a branch that writes and a Split to the policy's branch."""


def task(name: str) -> ModuleType:
    """The module of a task, or of a goal that has the same five names and a `TaskSpec`. Raises: OptionError for a name that is not in the tables."""
    return goal(name) if name in GOALS else _module("task", name, TASKS)


def method(name: str) -> ModuleType:
    """The module of a method: `Config`, `graft`, `merge`. Raises: OptionError for a name that is not in the table."""
    return _module("method", name, METHODS)


def goal(name: str) -> ModuleType:
    """The module of a goal of alignment: `Config`, READS, `align`. Raises: OptionError for a name that is not in the table."""
    return _module("goal", name, GOALS)


def adapters() -> Any:
    """The module that writes PEFT adapters and reads them. It imports PEFT, and most runs have no adapter."""
    return import_module("trunkline.model.export")


def branch(folder: str) -> Any:
    """A saved branch, for a module that seldom needs one and starts without torch otherwise. Raises: ArtefactError as `branch.load`."""
    return import_module("trunkline.branch").load(folder)


def _module(kind: str, name: str, table: dict[str, str]) -> ModuleType:
    if name not in table:
        raise unknown(kind, name, table)
    return import_module(table[name])

"""Rows that a tiny model can learn, and the branch and data made of them, for the tests of the loop."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import ALL, load_backbone
from trunkline.train.fit import Data
from trunkline.train.settings import Settings
from trunkline.types import Rows

FIRST = ("refund", "package", "password")
WORDS = ("my", "card", "order", "please", "account", "today", "the", "for", "about", "who")


def make_rows(task: str = "classify", count: int = 48, most_words: int = 6) -> Rows:
    """Texts whose first word says the label."""
    chance, rows = random.Random(0), []
    for number in range(count):
        first = FIRST[number % len(FIRST)]
        text = " ".join([first, *chance.choices(WORDS, k=chance.randint(1, most_words))])
        rows.append({"text": text, "label": first if task == "classify" else float(number % len(FIRST)) - 1.0})
    return Rows(tuple(rows), task)


def make_branch(folder: Path, rows: Rows, *, method: str = "full", depth: Any = 1, seed: int = 0, **told: Any) -> Branch:
    """An untrained branch on a tiny model; `told` goes to the task, dropout is 0 unless told."""
    spec = names.task(rows.task).TaskSpec(**{"max_tokens": 64, "dropout": 0.0, **told})
    spec = replace(spec, **spec.learned_from(rows))
    torch.manual_seed(seed)
    return Branch.new(load_backbone(folder), spec, method, names.method(method).Config(), depth, "float32")


def make_data(branch: Branch, rows: Rows, source: Any = None, validation: int = 12) -> Data:
    """The rows as training data, with the first `validation` of them to choose by."""
    items = branch.prepare(rows)
    source = None if branch.depth == ALL else source or Remembered(branch.source())
    if source:
        source.read([tokens for item in items for tokens in item.tokens])  # once, so that no state depends on the order of reading
    return Data(items, items[:validation], source, branch.spec, branch.backbone.tokenizer.pad_id)


def settings(**told: Any) -> Settings:
    """Short and without dropout, unless told otherwise."""
    return Settings(
        **{"epochs": 3, "batch_size": 8, "dropout": 0.0, "threads": 1, "precision": "float32", "checkpoint_seconds": 0.0, **told}
    )


def weights(branch: Branch) -> dict[str, bytes]:
    return {name: p.detach().numpy().tobytes() for name, p in branch.network.learned().items()}


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def write_csv(path: Path, rows: Rows) -> Path:
    path.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)]) + "\n", encoding="utf-8")
    return path


class Remembered:
    """A source that asks another once for each text; `spoiled` says what becomes of the states of a text."""

    def __init__(self, source: Any, spoiled: dict[bytes, float] | None = None) -> None:
        self.source, self.spoiled, self.known = source, spoiled or {}, {}

    def read(self, tokens: Any) -> list[Any]:
        new = [one for one in tokens if one.key not in self.known]
        if new:
            for one, states in zip(new, self.source.read(new)):
                self.known[one.key] = states * self.spoiled.get(one.key, 1.0)
        return [self.known[one.key] for one in tokens]

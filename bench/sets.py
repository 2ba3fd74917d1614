"""The data sets that the benches of data work share, with one vector a row from stored states: the first run encodes, later ones read the cache.

banking77 (77 intents, minilm), sst2 (sentiment, e5-small), cold (Chinese, offensive or not, e5-small; 4,000 training rows by chance, or as many as
are asked for, and the first 2,000 test rows).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

import trunkline as tl
from trunkline.quality.duplicates import Vectors
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


@dataclass(frozen=True)
class Set:
    """train and test rows, their label ids (N,), the labels' names, and their vectors."""

    name: str
    train: Rows
    test: Rows
    labels: np.ndarray
    test_labels: np.ndarray
    names: list[str]
    vectors: Vectors


def load(name: str, rows: int | None = None) -> Set:
    """A set, with so many training rows drawn by chance (None: all of them, of COLD 4,000)."""
    model, train, test = {"banking77": _banking77, "sst2": _sst2, "cold": _cold}[name]()
    rows = rows or (4000 if name == "cold" else len(train))
    if rows < len(train):
        train = replace(train, rows=tuple(train[at] for at in Random(0).sample(range(len(train)), rows)))
    names = sorted({row["label"] for row in train})
    ids = {label: at for at, label in enumerate(names)}
    labels, others = (np.array([ids[row["label"]] for row in part]) for part in (train, test))
    return Set(name, train, test, labels, others, names, tl.vectors(train, test, model=model))


def _banking77() -> tuple[str, Rows, Rows]:
    return "minilm", *(tl.read(DATA / f"banking77/{part}.csv", text="text", label="category") for part in ("train", "test"))


def _sst2() -> tuple[str, Rows, Rows]:
    return "e5-small", *(tl.read(DATA / f"sst2/{part}.tsv", header=False, text="0", label="1") for part in ("train", "test"))


def _cold() -> tuple[str, Rows, Rows]:
    train, test = (tl.read(DATA / f"cold_zh_offensive/{part}.csv", text="TEXT", label="label") for part in ("train", "test"))
    return "e5-small", train, replace(test, rows=test.rows[:2000])

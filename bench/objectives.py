"""Objectives beside the plain loss, and going on from a branch, on few rows: test figures of every seed, and which differ from plain.

    python bench/objectives.py sst2 banking77 --rows 600 --seeds 3
    python bench/objectives.py --forgetting --seeds 3

Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data). Training rows are drawn by the seed; the test rows are the
official ones. --forgetting: Banking77 in two halves of its labels' rows by length (short texts first, then long ones): what is left of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from main_job import SETS

from trunkline.data.quality import drop_leaks
from trunkline.data.split import Split
from trunkline.evaluation.interval import paired
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

OBJECTIVES = ("plain", "rdrop:alpha=1", "mixup:alpha=0.2", "contrast:weight=0.3", "distil:teacher=TEACHER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=["banking77", "sst2"])
    parser.add_argument("--forgetting", action="store_true")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--teacher-depth", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {name: side_by_side(name, asked) for name in asked.sets}
    if asked.forgetting:
        found["forgetting"] = forgetting(asked)
    (asked.out / "objectives.json").write_text(json.dumps(found, indent=2))


def side_by_side(name: str, asked: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Accuracy and seconds of each objective by seed, printed with the paired interval of the last seed against plain."""
    load, model = SETS[name]
    whole = drop_leaks(load())
    found: dict[str, dict[str, list[float]]] = {}
    print(f"\n## {name}, {model}, {asked.rows} training rows, depth {asked.depth}, {len(whole.test):,} test rows", flush=True)
    for seed in range(asked.seeds):
        parts = replace(whole, train=some(whole.train, asked.rows, seed), validation=some(whole.validation, asked.rows // 4, seed))
        right: dict[str, np.ndarray] = {}
        with tempfile.TemporaryDirectory() as folder:
            told = settings(asked, seed)
            tune(parts, model, depth=asked.teacher_depth, settings=told, out=f"{folder}/teacher")
            for objective in OBJECTIVES:
                began = time.perf_counter()
                branch = tune(
                    parts, model, depth=asked.depth, settings=replace(told, objective=objective.replace("TEACHER", f"{folder}/teacher"))
                )
                entry = found.setdefault(objective, {"accuracy": [], "seconds": []})
                right[objective] = hits(branch, parts.test)
                entry["accuracy"].append(100 * float(right[objective].mean()))
                entry["seconds"].append(time.perf_counter() - began)
                print(f"  seed {seed} {objective:24} {entry['accuracy'][-1]:6.2f}   {entry['seconds'][-1]:6.1f} s", flush=True)
    for objective, entry in found.items():
        told_apart = ""
        if objective != "plain":
            truth = np.ones(len(right["plain"]), dtype=np.int64)
            scores = {key: np.stack([1 - right[key], right[key]], axis=1).astype(float) for key in ("plain", objective)}
            told_apart = f"   against plain, last seed: {paired('accuracy', truth, scores['plain'], scores[objective])}"
        print(f"{name:10} {objective:24} mean {mean(entry['accuracy']):6.2f}   {mean(entry['seconds']):6.1f} s{told_apart}", flush=True)
    return found


def forgetting(asked: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Tuned on short texts, then on long ones: accuracy on the short and the long test rows, by seed."""
    load, model = SETS["banking77"]
    whole = drop_leaks(load())
    limit = float(np.median([len(row["text"]) for row in whole.train]))
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(asked.seeds):
        short, long = (half(whole, limit, first, asked.rows * 3, seed) for first in (True, False))
        told = settings(asked, seed)
        first = tune(short, model, depth=asked.depth, settings=told)
        ways = {
            "first alone": first,
            "went on, plain": tune(long, settings=told, start=first),
            "went on, with rows of before": tune(long, settings=told, start=first, before=short.train),
            "went on, ewc": tune(long, settings=replace(told, objective="ewc:strength=1000"), start=first, before=short.train),
        }
        for name, branch in ways.items():
            entry = found.setdefault(name, {"short": [], "long": []})
            entry["short"].append(100 * float(hits(branch, short.test).mean()))
            entry["long"].append(100 * float(hits(branch, long.test).mean()))
            print(f"  seed {seed} {name:30} short {entry['short'][-1]:6.2f}   long {entry['long'][-1]:6.2f}", flush=True)
    for name, entry in found.items():
        print(f"forgetting {name:30} short {mean(entry['short']):6.2f}   long {mean(entry['long']):6.2f}", flush=True)
    return found


def settings(asked: argparse.Namespace, seed: int) -> Settings:
    return Settings(epochs=asked.epochs, threads=asked.threads, seed=seed, patience=None)


def half(whole: Split, limit: float, short: bool, count: int, seed: int) -> Split:
    parts = {name: replace(part, rows=tuple(r for r in part if (len(r["text"]) <= limit) == short)) for name, part in whole.parts().items()}
    return replace(whole, **{**parts, "train": some(parts["train"], count, seed)})


def hits(branch: object, rows: Rows) -> np.ndarray:
    answers = branch.predict([row["text"] for row in rows])  # type: ignore[attr-defined]
    return np.array([answer.value == row["label"] for answer, row in zip(answers, rows)], dtype=np.int64)


def some(rows: Rows, count: int, seed: int) -> Rows:
    """So many rows, of each label as near to its share as can be, and two at least."""
    by_label: dict[str, list[int]] = {}
    for at in random.Random(seed).sample(range(len(rows)), len(rows)):
        by_label.setdefault(rows[at]["label"], []).append(at)
    picked = [at for places in by_label.values() for at in places[: max(2, round(count * len(places) / len(rows)))]]
    return replace(rows, rows=tuple(rows[at] for at in sorted(picked)))


if __name__ == "__main__":
    main()

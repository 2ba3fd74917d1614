"""Does augmentation help with few rows? Banking77 and COLD, a head on the states with and without new rows, on official test rows.

    python bench/augment.py                                  # about eight minutes of processor time
    python bench/augment.py --sets banking77 --per-class 8 --seeds 3

For each seed some rows a class are drawn, each method makes one new row of each, the filter of `augment` lets some in, and a logistic regression on
the pooled states of the untuned model (what a branch of depth 0 is) is fitted with and without them; its strength is fixed, so that the rows are
all that differs. "all" has the rows of all methods, "all, unfiltered" also those that the filter left out. Accuracy on test rows (--test of them, the
same for all), mean over the seeds with the 95% t interval, and the mean difference to "without" with its interval over the same seeds.
"said" counts in how many seeds `augment`'s own measure, which sees no test row, found a gain, none, or harm, for "all".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import trunkline as tl
from trunkline.augmentation import augment as verb
from trunkline.augmentation import meaning
from trunkline.augmentation.gain import gain
from trunkline.augmentation.settings import AugmentSettings
from trunkline.data.cells import fold
from trunkline.evaluation.interval import seeds as over_seeds
from trunkline.evaluation.linear import STATES_C, fit_linear
from trunkline.model.backbone import load_backbone
from trunkline.quality.vectors import vectors
from trunkline.tasks.classify import TaskSpec

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
SETS: dict[str, dict[str, Any]] = {
    "banking77": {
        "model": "minilm",
        "columns": ("text", "category"),
        "folder": "banking77",
        "methods": "eda,aeda,keyboard,neighbour",
        "per_class": (8, 16),
    },
    "cold": {
        "model": "e5-small",
        "columns": ("TEXT", "label"),
        "folder": "cold_zh_offensive",
        "methods": "eda,aeda,homophone,neighbour",
        "per_class": (16, 64),
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--per-class", type=int, nargs="+", help="rows a class, instead of each set's own")
    parser.add_argument("--methods", help="instead of each set's own")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test", type=int, default=1000, help="test rows")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        for count in asked.per_class or SETS[name]["per_class"]:
            found = measured(name, count, asked)
            (asked.out / f"augment-{name}-{count}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            print(table(name, count, found), flush=True)
    return 0


def measured(name: str, count: int, asked: argparse.Namespace) -> dict[str, Any]:
    """The accuracies of every arm by seed, and what `augment` said itself."""
    train, test = (rows(name, part) for part in ("train", "test"))
    test = Random(0).sample(test, min(asked.test, len(test)))
    backbone = load_backbone(SETS[name]["model"])
    labels = tuple(sorted({row["label"] for row in train}))
    found: dict[str, list[float]] = defaultdict(list)
    said, let_in = [], []
    for seed in range(asked.seeds):
        chosen = drawn(train, count, seed)
        one = arms(chosen, test, backbone, asked.methods or SETS[name]["methods"], labels, seed)
        said.append(one.pop("said"))
        let_in.append(one.pop("let in"))
        for arm, accuracy in one.items():
            found[arm].append(accuracy)
        print(
            f"{name}, {count} rows a class, seed {seed}: {said[-1]}, " + ", ".join(f"{arm} {one[arm]:.4f}" for arm in one),
            file=sys.stderr,
            flush=True,
        )
    return {"arms": found, "said": said, "let_in": let_in}


def arms(
    chosen: list[dict[str, str]], test: list[dict[str, str]], backbone: Any, methods: str, labels: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Accuracy of each arm for one draw of rows."""
    settings = AugmentSettings(methods=methods, seed=seed)
    texts, seen = [row["text"] for row in chosen], {fold(row["text"]) for row in chosen}
    made: list[tuple[int, str, str]] = []
    for name in settings.names:
        candidates = verb._candidates(name, verb._maker(name, texts, backbone, settings), texts, settings)
        made += verb._fresh(name, candidates, seen, defaultdict(int))
    states = vectors(chosen, [{"text": text} for _, text, _ in made] + test, model=backbone)
    own, new, measured_on = states.rows, states.against[: len(made)], states.against[len(made) :]
    ids = {label: at for at, label in enumerate(labels)}
    truth, right = np.array([ids[row["label"]] for row in chosen]), np.array([ids[row["label"]] for row in test])
    source, method = np.array([at for at, _, _ in made]), np.array([name for _, _, name in made])
    stays = np.array([reason is None for reason in meaning.judged(own, truth, new, source, meaning.usual(own, truth))])
    spec = TaskSpec(task="classify", labels=labels)

    def accuracy(taken: np.ndarray) -> float:
        fitted = fit_linear(
            np.concatenate([own, new[taken]]), np.concatenate([truth, truth[source[taken]]]), spec, strengths=(STATES_C[1],)
        )
        return float((fitted.scores(measured_on).argmax(1) == right).mean())

    found: dict[str, Any] = {"without": accuracy(np.zeros(len(made), dtype=bool))}
    found |= {name: accuracy(stays & (method == name)) for name in settings.names}
    found |= {"all": accuracy(stays), "all, unfiltered": accuracy(np.ones(len(made), dtype=bool))}
    verdict = gain(own, truth, new[stays], source[stays], spec, folds=5, seed=seed)[0].verdict
    return {**found, "said": verdict, "let in": float(stays.mean())}


def drawn(train: list[dict[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    by = defaultdict(list)
    for row in train:
        by[row["label"]].append(row)
    return [row for label in sorted(by) for row in Random(f"{seed} {label}").sample(by[label], min(count, len(by[label])))]


def rows(name: str, part: str) -> list[dict[str, str]]:
    about = SETS[name]
    text, label = about["columns"]  # by name: COLD's test file has one more than its training file
    return [{"text": row["text"], "label": row["label"]} for row in tl.read(DATA / about["folder"] / f"{part}.csv", text=text, label=label)]


def table(name: str, count: int, found: dict[str, Any]) -> str:
    without = found["arms"]["without"]
    lines = [f"\n{name}, {count} rows a class, {len(without)} seeds", "| rows | accuracy | less without |", "|---|--:|--:|"]
    for arm, values in found["arms"].items():
        lines.append(
            f"| {arm} | {_shown(values)} | {'' if arm == 'without' else _shown([a - b for a, b in zip(values, without)], sign='+')} |"
        )
    counts = {verdict: found["said"].count(verdict) for verdict in dict.fromkeys(found["said"])}
    lines.append(
        f"The filter let in {100 * np.mean(found['let_in']):.0f}%. `augment` itself said: "
        + ", ".join(f"{v} {n}" for v, n in counts.items())
    )
    return "\n".join(lines)


def _shown(values: list[float], sign: str = "") -> str:
    one = over_seeds([100 * value for value in values])
    reach = "" if one.low is None else f" ({one.low:{sign}.2f} to {one.high:{sign}.2f})"
    return f"{one.mean:{sign}.2f}{reach}"


if __name__ == "__main__":
    raise SystemExit(main())

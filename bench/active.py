"""What to label next: test accuracy against the number of labels, each strategy beside chance, over seeds.

    python bench/active.py                                # Banking77, COLD and CLUENER, five seeds, about 40 minutes of the processor

A pool is 4,000 of the training rows without their labels, other ones for each seed. A strategy is asked for labels step by step; the probe on stored states
is fitted on what is labelled and measured on the official test rows. CLUENER (Chinese, entities of ten types): texts are labelled, their words count; F1 of whole
entities by the logistic regression on words' states, on its validation texts (its test texts have no labels). Area: the mean accuracy over the curve. Saved: with
how many fewer labels a strategy has the mean accuracy that chance has with the last number of labels (interpolated; "-" where it does not get there).
"""

from __future__ import annotations

import argparse
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sets import DATA, load

import trunkline as tl
from trunkline import names
from trunkline.evaluation.baselines.entities import answered, word_vectors
from trunkline.evaluation.interval import seeds
from trunkline.evaluation.kinds.entities import METRICS
from trunkline.labelling.curve import area
from trunkline.labelling.strategies import STRATEGIES, WORD_STRATEGIES, Pool, WordPool, choose
from trunkline.model.backbone import load_backbone

STEPS = {
    "banking77": (154, 231, 308, 462, 616, 800, 1000),
    "cold": (20, 50, 100, 200, 400, 700, 1000),
    "cluener": (50, 100, 200, 400, 700, 1000),
}
POOL = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(STEPS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        data = Entities() if name == "cluener" else Texts(name)
        known = WORD_STRATEGIES if name == "cluener" else STRATEGIES
        curves = {one: [curve(data, one, seed, STEPS[name]) for seed in range(asked.seeds)] for one in asked.strategies if one in known}
        print(table(name, curves), flush=True)
        (asked.out / f"active-{name}.json").write_text(json.dumps(curves, indent=2) + "\n", encoding="utf-8")


class Texts:
    """One label a text."""

    def __init__(self, name: str) -> None:
        self.data = load(name)

    def __len__(self) -> int:
        return len(self.data.labels)

    def pool(self, rows: np.ndarray, labelled: np.ndarray) -> Pool:
        return Pool(self.data.vectors.rows[rows], labelled, self.data.labels[rows[labelled]], len(self.data.names))

    def accuracy(self, pool: Any) -> float:
        return float((pool.probe.logits(self.data.vectors.against).argmax(1) == self.data.test_labels).mean())


class Entities:
    """CLUENER: a label a word, e5-small."""

    def __init__(self) -> None:
        train, test = (tl.read(DATA / f"cluener/normalised/{part}.jsonl", task="tag") for part in ("train", "dev"))
        backbone, task = load_backbone("e5-small"), names.task("tag")
        self.spec = task.TaskSpec(**task.TaskSpec().learned_from(train))
        items, self.test = ([task.prepare(row, backbone.tokenizer, self.spec) for row in rows] for rows in (train, test))
        self.words, self.test_words = (word_vectors(backbone, 0, some, None, self.spec) for some in (items, self.test))
        self.tags = [np.asarray(item.target).ravel()[item.about.slots] for item in items]

    def __len__(self) -> int:
        return len(self.tags)

    @cached_property
    def vectors(self) -> np.ndarray:
        return np.stack([one.astype(np.float32).mean(0) for one in self.words])

    def pool(self, rows: np.ndarray, labelled: np.ndarray) -> Pool:
        tags = [self.tags[at] for at in rows[labelled].tolist()]
        return WordPool(self.vectors[rows], labelled, tags, len(self.spec.labels), [self.words[at] for at in rows.tolist()])

    def accuracy(self, pool: Any) -> float:
        found = list(answered(pool.linear, self.test_words, self.test, self.spec))
        return METRICS[0].function([[tuple(entity) for entity in item.gold] for item in self.test], found)


def curve(data: Texts | Entities, strategy: str, seed: int, steps: tuple[int, ...]) -> list[tuple[int, float]]:
    generator, found = np.random.default_rng(seed), []
    rows = generator.choice(len(data), min(POOL, len(data)), replace=False)  # another pool for each seed
    labelled = np.empty(0, dtype=np.int64)
    pool = data.pool(rows, labelled)
    for step in steps:
        labelled = np.concatenate([labelled, choose(pool, step - len(labelled), strategy, seed=1000 * seed + step)])
        pool = data.pool(rows, labelled)
        found.append((step, data.accuracy(pool)))
    return found


def table(name: str, curves: dict[str, list[list[tuple[int, float]]]]) -> str:
    steps = [step for step, _ in next(iter(curves.values()))[0]]
    lines = [
        f"\n{name}: test accuracy (CLUENER: F1) in %, mean of {len(next(iter(curves.values())))} seeds",
        "| strategy | " + " | ".join(map(str, steps)) + " | area | area against chance | labels saved |",
    ]
    lines.append("|---|" + "--:|" * (len(steps) + 3))
    chance = curves.get("random")
    for one, runs in curves.items():
        mean = np.mean([[value for _, value in run] for run in runs], axis=0)
        areas = [area(run) for run in runs]
        gained, saved = "", ""
        if chance and one != "random":
            over = seeds([a - area(b) for a, b in zip(areas, chance)])
            gained = f"{100 * over.mean:+.2f}" + (f" ({100 * over.low:+.2f} to {100 * over.high:+.2f})" if over.low is not None else "")
            goal = float(np.mean([run[-1][1] for run in chance]))
            climbing = np.maximum.accumulate(mean)
            saved = f"{steps[-1] - float(np.interp(goal, climbing, steps)):.0f}" if climbing[-1] >= goal else "-"
        lines.append(
            f"| {one} | " + " | ".join(f"{100 * value:.1f}" for value in mean) + f" | {100 * np.mean(areas):.2f} | {gained} | {saved} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What to label next: test accuracy against the number of labels, each strategy beside chance, over seeds.

    python bench/active.py                                # Banking77 and COLD, five seeds, about ten minutes of the processor

A pool is 4,000 of the training rows without their labels, other ones for each seed. A strategy is asked for labels step by step; the probe on stored states
is fitted on what is labelled and measured on the official test rows. Area: the mean accuracy over the curve. Saved: with how many fewer labels a strategy
has the mean accuracy that chance has with the last number of labels (interpolated; "-" where it does not get there).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sets import Set, load

from trunkline.evaluation.interval import seeds
from trunkline.labelling.curve import area
from trunkline.labelling.strategies import STRATEGIES, Pool, choose
from trunkline.quality.probe import Probe

STEPS = {"banking77": (154, 231, 308, 462, 616, 800, 1000), "cold": (20, 50, 100, 200, 400, 700, 1000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(STEPS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    every = {}
    for name in asked.sets:
        data = load(name)
        curves = {one: [curve(data, one, seed, STEPS[name]) for seed in range(asked.seeds)] for one in asked.strategies}
        every[name] = curves
        print(table(name, curves), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "active.json").write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")


def curve(data: Set, strategy: str, seed: int, steps: tuple[int, ...]) -> list[tuple[int, float]]:
    generator, found = np.random.default_rng(seed), []
    pool_rows = generator.choice(len(data.labels), min(4000, len(data.labels)), replace=False)  # another pool for each seed
    vectors, truth = data.vectors.rows[pool_rows], data.labels[pool_rows]
    labelled = np.empty(0, dtype=np.int64)
    for step in steps:
        pool = Pool(vectors, labelled, truth[labelled], len(data.names))
        labelled = np.concatenate([labelled, choose(pool, step - len(labelled), strategy, seed=1000 * seed + step)])
        fitted = Probe.fit(vectors[labelled], truth[labelled], len(data.names))
        found.append((step, float((fitted.logits(data.vectors.against).argmax(1) == data.test_labels).mean())))
    return found


def table(name: str, curves: dict[str, list[list[tuple[int, float]]]]) -> str:
    steps = [step for step, _ in next(iter(curves.values()))[0]]
    lines = [
        f"\n{name}: test accuracy in %, mean of {len(next(iter(curves.values())))} seeds",
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

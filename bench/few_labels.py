"""100 labels and many rows without: the labelled rows alone, self-training, spreading, and both pseudo-labels in a probe.

    python bench/few_labels.py                 # SST-2 and COLD with 100 labels, Banking77 with 231 (three an intent); ten draws

Test accuracy in % on the official test rows, mean over draws, and the paired difference from `labels alone` with its 95% t interval over draws.
`labels alone` is the same probe fitted on the labelled rows. Unlabelled: the other training rows (Banking77 9,772, SST-2 6,820, COLD 9,900).
Test rows are never among them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sets import Set, load

from trunkline.evaluation.interval import seeds
from trunkline.labelling.fewer import self_train, spread
from trunkline.quality.probe import Discriminant, out_of_fold

SIZES = {"banking77": 231, "sst2": 100, "cold": 100}
ROWS = {"cold": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SIZES))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    every = {}
    print("| set | way | accuracy % | against labels alone |\n|---|---|--:|--:|")
    for name in asked.sets:
        data = load(name, ROWS.get(name))
        runs = [one(data, SIZES[name], seed) for seed in range(asked.draws)]
        every[name] = runs
        for way in runs[0]:
            over = seeds([run[way] - run["labels alone"] for run in runs])
            reach = (
                f"{100 * over.mean:+.2f} ({100 * over.low:+.2f} to {100 * over.high:+.2f})"
                if way != "labels alone" and over.low is not None
                else ""
            )
            print(f"| {name}, {SIZES[name]} labels | {way} | {100 * np.mean([run[way] for run in runs]):.2f} | {reach} |", flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "few-labels.json").write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")


def one(data: Set, size: int, seed: int) -> dict[str, float]:
    generator, count = np.random.default_rng(seed), len(data.names)
    if size >= 3 * count and count > 10:
        chosen = np.concatenate([generator.choice(np.flatnonzero(data.labels == at), size // count, replace=False) for at in range(count)])
    else:
        chosen = generator.choice(len(data.labels), size, replace=False)
    rest = np.setdiff1d(np.arange(len(data.labels)), chosen)
    x, y, u = data.vectors.rows[chosen], data.labels[chosen], data.vectors.rows[rest]

    shrinkage = out_of_fold(x, y, count)[1]

    def accuracy(vectors: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, shrinkage: float | None = shrinkage) -> float:
        fitted = Discriminant.fit(vectors, labels, count, weights, shrinkage)
        return float((fitted.logits(data.vectors.against).argmax(1) == data.test_labels).mean())

    def taught(probabilities: np.ndarray, taken: np.ndarray) -> float:
        some = np.flatnonzero(taken)
        weights = (
            probabilities[some].max(1) * min(1.0, 4 * size / max(probabilities[some].max(1).sum(), 1e-12)) if len(some) else np.empty(0)
        )
        return accuracy(
            np.concatenate([x, u[some]]), np.concatenate([y, probabilities[some].argmax(1)]), np.concatenate([np.ones(size), weights])
        )

    pseudo, flowed = self_train(x, y, u, count, seed=seed), spread(x, y, u, count)
    agree = pseudo.probabilities.argmax(1) == flowed.argmax(1)
    half = flowed.max(1) >= np.median(flowed.max(1))
    return {
        "labels alone": accuracy(x, y),
        "self-training": taught(pseudo.probabilities, pseudo.taken),
        "spreading": taught(flowed, half),
        "where both agree": taught(pseudo.probabilities, agree & half),
        "all labels": accuracy(data.vectors.rows, data.labels, shrinkage=None),
    }


if __name__ == "__main__":
    main()

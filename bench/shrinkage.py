"""What picking the shrinkage of the probe brings: test accuracy by the number of labelled rows, picked beside a fixed 0.1, and the best of all that are tried.

    python bench/shrinkage.py                     # Banking77, SST-2, COLD; five draws of the rows; two minutes of the processor, and the states once

The probe is what `check`, `label` and `tl.pseudo_label` work with. "best" is chosen by the test rows, so no way of picking can beat it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sets import Set, load

from trunkline.evaluation.interval import seeds
from trunkline.quality.probe import SHRINKAGES, Discriminant

ROWS = {"banking77": (154, 308, 616, 1000, 4000), "sst2": (50, 100, 200, 400, 1000, 4000), "cold": (50, 100, 200, 400, 1000, 4000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(ROWS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    found = []
    print("| set | rows | 0.1 | picked | picked less 0.1 | best | picked were |\n|---|--:|--:|--:|--:|--:|---|")
    for name in asked.sets:
        data = load(name)
        for rows in ROWS[name]:
            drawn = [one(data, rows, seed) for seed in range(asked.draws)]
            fixed, picked, best = (np.array([run[way] for run in drawn]) for way in ("0.1", "picked", "best"))
            over = seeds((picked - fixed).tolist())
            apart = f"{100 * over.mean:+.1f}" + (f" ({100 * over.low:.1f} to {100 * over.high:.1f})" if over.low is not None else "")
            were = ", ".join(str(one) for one in sorted({run["shrinkage"] for run in drawn}))
            means = [f"{100 * way.mean():.1f}" for way in (fixed, picked)]
            print(f"| {name} | {rows:,} | {' | '.join(means)} | {apart} | {100 * best.mean():.1f} | {were} |", flush=True)
            found.append({"set": name, "rows": rows, "draws": drawn})
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "shrinkage.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def one(data: Set, rows: int, seed: int) -> dict[str, float]:
    chosen = np.random.default_rng(seed).choice(len(data.labels), rows, replace=False)
    given = data.vectors.rows[chosen], data.labels[chosen], len(data.names)

    def accuracy(fitted: Discriminant) -> float:
        return float((fitted.logits(data.vectors.against).argmax(1) == data.test_labels).mean())

    every = {shrinkage: accuracy(Discriminant.fit(*given, shrinkage=shrinkage)) for shrinkage in SHRINKAGES}
    picked = Discriminant.fit(*given)
    return {"0.1": every[0.1], "picked": accuracy(picked), "best": max(every.values()), "shrinkage": picked.shrinkage}


if __name__ == "__main__":
    main()

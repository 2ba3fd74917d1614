"""Does a text belong? AUROC and FPR@95 of each score, beside one minus the largest probability.

    python bench/scope.py        # embedded messages against their out-of-scope set (en, zh), and Banking77 against SST-2

In scope: rows that were held out of training and of calibration. AUROC with a 95% bootstrap interval; FPR@95: the share of rows that belong which are called
outside when 95% of those that do not are found; alarms: the share of rows that belong which `outside` calls outside at 5% asked for.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from sets import DATA, load
from sklearn.metrics import roc_auc_score

import trunkline as tl
from trunkline.quality.scope import HOW, Scope, false_alarms_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    lines = [line for language, model in (("en", "minilm"), ("zh", "e5-small")) for line in embedded(language, model)]
    lines += banking77()
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "scope.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    print("| set | score | AUROC % | FPR@95 % | alarms % |\n|---|---|--:|--:|--:|")
    for line in lines:
        low, high = line["interval"]
        auroc = f"{100 * line['auroc']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        print(f"| {line['set']} | {line['score']} | {auroc} | {100 * line['fpr95']:.1f} | {100 * line['alarms']:.1f} |")


def embedded(language: str, model: str) -> list[dict[str, Any]]:
    parts = tl.split(tl.read(tl.embedded(language)))
    with tl.embedded(language).with_name(f"{language}_out_of_scope.csv").open(encoding="utf-8", newline="") as file:
        others = list(csv.DictReader(file))
    rows = [*parts.train, *parts.validation, *parts.test]
    found = tl.vectors(rows, others, model=model)
    names = sorted({row["label"] for row in parts.train})
    labels = np.array([names.index(row["label"]) for row in parts.train])
    edges = np.cumsum([len(parts.train), len(parts.validation)])
    train, validation, test = np.split(found.rows, edges)
    scope = Scope.fit(train, labels, len(names), validation)
    lines = measured(f"embedded {language}, all", scope, test, found.against)
    for kind in sorted({row["kind"] for row in others}):
        lines += measured(f"embedded {language}, {kind}", scope, test, found.against[[row["kind"] == kind for row in others]])
    return lines


def banking77() -> list[dict[str, Any]]:
    data = load("banking77")
    sst2 = tl.read(DATA / "sst2/test.tsv", header=False, text="0", label="1")
    outside = tl.vectors(sst2, model="minilm").rows
    generator = np.random.default_rng(0)
    held = generator.random(len(data.labels)) < 0.1
    scope = Scope.fit(data.vectors.rows[~held], data.labels[~held], len(data.names), data.vectors.rows[held])
    lines = measured("Banking77 against SST-2", scope, data.vectors.against, outside)
    kept = generator.choice(len(data.names), 58, replace=False)  # three intents of four are known, the others are the hard case
    known, tested = np.isin(data.labels, kept) & ~held, np.isin(data.test_labels, kept)
    ids = {int(at): n for n, at in enumerate(sorted(kept))}
    labels = np.array([ids[int(at)] for at in data.labels[known]])
    scope = Scope.fit(data.vectors.rows[known], labels, len(kept), data.vectors.rows[held & np.isin(data.labels, kept)])
    return lines + measured(
        "Banking77, 58 intents against the other 19", scope, data.vectors.against[tested], data.vectors.against[~tested]
    )


def measured(name: str, scope: Scope, inside: np.ndarray, outside: np.ndarray) -> list[dict[str, Any]]:
    lines = []
    for how in HOW:
        a, b = scope.scores(inside, how), scope.scores(outside, how)
        generator = np.random.default_rng(0)
        drawn = [_auroc(generator.choice(a, len(a)), generator.choice(b, len(b))) for _ in range(200)]
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        lines.append(
            {
                "set": name,
                "score": how,
                "auroc": _auroc(a, b),
                "interval": [low, high],
                "fpr95": false_alarms_at(a, b),
                "alarms": float(scope.outside(inside, 0.05, how).mean()),
            }
        )
    return lines


def _auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])))


if __name__ == "__main__":
    main()

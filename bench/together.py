"""Two tasks on one set of tuned layers, beside each tuned alone on the same rows: test figures of every seed, and whether the last one differs.

    python bench/together.py                          # minilm, depth 2: both pairs, some minutes
    python bench/together.py unlike --seeds 1

unlike: ten intents of Banking77 (--rows training rows) and the sentiment of SST-2 (1,000). alike: intents and slots of the same SNIPS texts (--rows
training rows). Rows are drawn by the seed. Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data). Writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from main_job import DATA, sst2
from methods import LOADERS

from trunkline.branch import Branch
from trunkline.data.quality import drop_leaks
from trunkline.data.split import Split, split
from trunkline.train.settings import Settings
from trunkline.train.together import SAMPLINGS, tune_together
from trunkline.train.tune import tune
from trunkline.types import Rows

SENTIMENT_ROWS = 1000
LONGER = "alone, twice the epochs"
"""As many steps on the layers as tuned together with a task of as many rows: what is gained by more steps is no gain of sharing."""
WAYS = ("alone", LONGER, *SAMPLINGS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", help=f"{' or '.join(PAIRS)}  [default: both]")
    parser.add_argument("--model", default="minilm", help="[default: minilm]")
    parser.add_argument("--depth", type=int, default=2, help="[default: 2]")
    parser.add_argument("--rows", type=int, default=300, help="[default: 300]")
    parser.add_argument("--test", type=int, default=400, help="test rows of each task  [default: 400]")
    parser.add_argument("--epochs", type=int, default=4, help="[default: 4]")
    parser.add_argument("--seeds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="[default: all]")
    parser.add_argument("--threads", type=int, default=1, help="[default: 1]")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {pair: beside(pair, asked) for pair in asked.pairs or PAIRS}
    (asked.out / "together.json").write_text(json.dumps(found, indent=2))


def beside(pair: str, asked: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """By way and part the figure of each seed, and by way the seconds of tuning."""
    found: dict[str, dict[str, list[float]]] = {}
    print(f"\n## {pair}: {asked.model}, depth {asked.depth}, {asked.epochs} epochs, {asked.test} test rows of each", flush=True)
    for seed in range(asked.seeds):
        parts = PAIRS[pair](asked, seed)
        settings = Settings(epochs=asked.epochs, batch_size=16, threads=asked.threads, seed=seed, patience=None)
        for way in asked.ways:
            began = time.process_time()
            if way.startswith("alone"):
                told = replace(settings, epochs=asked.epochs * (2 if way == LONGER else 1))
                done = {name: tune(part, asked.model, depth=asked.depth, settings=told) for name, part in parts.items()}
            else:
                done = tune_together(parts, asked.model, depth=asked.depth, sampling=way, settings=settings)
            entry = found.setdefault(way, {})
            entry.setdefault("processor seconds", []).append(time.process_time() - began)
            for name, branch in done.items():
                entry.setdefault(name, []).append(100 * figure(branch))
            print(f"  seed {seed} {way:23} " + "  ".join(f"{name} {values[-1]:.1f}" for name, values in entry.items()), flush=True)
    for way, entry in found.items():
        spread = {name: f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" for name, values in entry.items()}
        print(f"{pair:7} {way:23} " + "  ".join(f"{name} {told}" for name, told in spread.items()), flush=True)
    return found


def figure(branch: Branch) -> float:
    """The branch's first metric on the test rows, from its report."""
    report: Any = branch.report
    name, metric = report.main
    return float(next(result for result in report.results if result["name"] == name)["metrics"][metric]["value"])


def unlike(asked: argparse.Namespace, seed: int) -> dict[str, Split]:
    return {
        "intent": some(drop_leaks(LOADERS["intents"]()), asked.rows, asked.test, seed),
        "sentiment": some(drop_leaks(sst2()), SENTIMENT_ROWS, asked.test, seed),
    }


def alike(asked: argparse.Namespace, seed: int) -> dict[str, Split]:
    """The same texts in both: their intents are in a file beside the words."""
    slots = some(drop_leaks(LOADERS["slots"]()), asked.rows, asked.test, seed)
    intents = {}
    for part in ("train", "dev", "test"):
        lines = [(DATA / f"atis_snips/snips/{part}/{file}").read_text(encoding="utf-8").splitlines() for file in ("seq.in", "label")]
        intents |= {" ".join(text.split()): label for text, label in zip(*lines)}
    made = {
        part: Rows(tuple({"text": row["text"], "label": intents[row["text"]]} for row in rows), "classify")
        for part, rows in slots.parts().items()
    }
    return {"intent": split(made["train"], validation=made["validation"], test=made["test"]), "slots": slots}


PAIRS = {"unlike": unlike, "alike": alike}


def some(parts: Split, count: int, test: int, seed: int) -> Split:
    """So many training rows drawn by the seed, a third as many to choose by, and the same test rows for every seed."""
    limits = {"train": (count, seed), "validation": (max(50, count // 3), seed), "test": (test, 0)}
    return replace(parts, **{part: drawn(rows, *limits[part]) for part, rows in parts.parts().items()})


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    chosen = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return replace(rows, rows=tuple(rows[at] for at in sorted(chosen)))


if __name__ == "__main__":
    main()

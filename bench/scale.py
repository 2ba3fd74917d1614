"""From a thousand rows to a million: seconds a row of every stage, and the memory that stays resident. Prints a table; writes JSON.

    python bench/scale.py                                  # 1,000, 10,000 and 100,000 rows: some ten minutes
    python bench/scale.py --rows 1000 10000 100000 1000000 # over an hour more

Each size runs in a process of its own, from the CSV file to the saved branch: a probe of depth 0 on minilm, one epoch. The texts are
resampled from Banking77's training file (in the folder that TRUNKLINE_DATA names): the words of one message, then of another one with the
same label, so that a million differ and none can be answered from the store. `other` is the rest of the clock: split, checks, report.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
STAGES = ("read", "encode", "tune", "measure")
FLAT, MEMORY_MIB = 0.15, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trunk-precision", default="float32", help="what the trunk computes in: float32, bfloat16, int8, nf4")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # of the process that measures one size
    asked = parser.parse_args()
    if asked.file:
        print(json.dumps(one(asked)))
        return
    found = []
    for rows in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_in_a_process(rows, Path(folder), asked))
        print(_line(found[-1]), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "scale.json").write_text(json.dumps(found, indent=2))
    first, last = found[0], found[-1]
    print(f"\nseconds a row, {last['rows']:,} rows against {first['rows']:,}: {_a_row(last) / _a_row(first):.2f} (bar: at most {1 + FLAT})")
    print(f"most memory: {max(each['peak_mib'] for each in found):.0f} MiB (bar: {MEMORY_MIB})")


def resampled(rows: int, path: Path) -> None:
    """Write `rows` different texts with labels to a CSV file."""
    with (DATA / "banking77/train.csv").open(encoding="utf-8", newline="") as file:
        real = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    by_label = defaultdict(list)
    for text, label in real:
        by_label[label].append(text)
    drawn, seen = random.Random(0), set[str]()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        while len(seen) < rows:
            text, label = drawn.choice(real)
            words, others = text.split(), drawn.choice(by_label[label]).split()
            made = " ".join(words[: drawn.randint(len(words) // 2, len(words))] + others[drawn.randint(len(others) // 2, len(others)) :])
            if made and made not in seen:
                seen.add(made)
                writer.writerow((made, label))


def _in_a_process(rows: int, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    resampled(rows, folder / "rows.csv")
    models = Path(os.environ.get("TRUNKLINE_CACHE", Path.home() / ".cache/trunkline")) / "models"
    (folder / "cache").mkdir()
    (folder / "cache/models").symlink_to(models.absolute())
    told = ["--threads", str(asked.threads), "--trunk-precision", asked.trunk_precision]
    command = [sys.executable, __file__, "--file", str(folder / "rows.csv"), *told]
    done = subprocess.run(
        command, env={**os.environ, "TRUNKLINE_CACHE": str(folder / "cache")}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"rows": rows}


def one(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one file, in this process."""
    import trunkline as tl

    started = time.perf_counter()
    rows = tl.read(asked.file, text="text", label="label")
    read = time.perf_counter() - started
    settings = tl.Settings(epochs=1, threads=asked.threads, trunk_precision=asked.trunk_precision)
    branch = tl.tune(rows, model="minilm", depth=0, method="probe", settings=settings)
    branch.save(asked.file.parent / "branch")
    cost = branch.report.cost
    seconds = {"read": read} | {stage: cost["seconds"][stage] for stage in STAGES[1:]}
    accuracy = branch.report.results[-1]["metrics"]["accuracy"]["value"]
    total = time.perf_counter() - started
    return {"seconds": seconds, "total": total, "peak_mib": cost["peak_memory_bytes"] / 2**20, "accuracy": accuracy}


def _a_row(found: dict[str, Any]) -> float:
    return float(found["total"] / found["rows"])


def _line(found: dict[str, Any]) -> str:
    other = found["total"] - sum(found["seconds"].values())
    stages = ", ".join(f"{stage} {1e3 * seconds / found['rows']:.2f}" for stage, seconds in (found["seconds"] | {"other": other}).items())
    return f"{found['rows']:>9,} rows: {1e3 * _a_row(found):6.2f} ms a row ({stages}), peak {found['peak_mib']:,.0f} MiB, accuracy {found['accuracy']:.3f}"


if __name__ == "__main__":
    main()

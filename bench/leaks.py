"""What `trunkline check` finds in public sets as their authors split them: copies of training rows in what is measured on, and contradictory labels.

    python bench/leaks.py                    # Banking77, SST-2, COLD, STS-B; half a minute of the processor

On the surface only: all pieces shared, so case, width, marks, white space and the order of a pair count nothing ("exact"), or at least 80% ("near"; found without
loss, quality/duplicates.py). Measured on: validation and test rows. "labels differ": copies whose label is another one in what is measured on.
Conflicts: pairs of training rows that say nearly the same and have different labels (of STS-B, other numbers). Repeats: training rows that are copies
of others. The table is printed, with three examples of each kind; bench/out/leaks.json has all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from main_job import DATA, stsb

from trunkline.data.read import read
from trunkline.quality.check import check
from trunkline.quality.found import Checked
from trunkline.types import Rows

EXAMPLES = 3
HEAD = ("set", "training rows", "measured on", "exact", "near", "labels differ", "conflicts", "repeats")


def _banking77() -> tuple[Rows, ...]:
    return tuple(read(DATA / f"banking77/{part}.csv", text="text", label="category") for part in ("train", "test"))


def _sst2() -> tuple[Rows, ...]:
    return tuple(read(DATA / f"sst2/{part}.tsv", text="0", label="1", header=False) for part in ("train", "dev", "test"))


def _cold() -> tuple[Rows, ...]:
    return tuple(read(DATA / f"cold_zh_offensive/{part}.csv", text="TEXT", label="label") for part in ("train", "dev", "test"))


def _stsb() -> tuple[Rows, ...]:
    return tuple(stsb().parts().values())


LOAD: dict[str, Callable[[], tuple[Rows, ...]]] = {"banking77": _banking77, "sst2": _sst2, "cold": _cold, "stsb": _stsb}
"""The sets of bench/main_job.py, each whole: the training rows, and those that the authors measure on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(LOAD)}; none named: all")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    every, began = {}, time.process_time()
    for name in asked.sets or LOAD:
        train, *others = LOAD[name]()
        every[name] = told(check(train, against=Rows(tuple(row for part in others for row in part), train.task, name)))
    print("| " + " | ".join(HEAD) + " |\n|---|" + "--:|" * (len(HEAD) - 1))
    for name, one in every.items():
        print(f"| {name} | " + " | ".join(f"{one[column]:,}" for column in HEAD[1:]) + " |")
    for name, one in every.items():
        for kind in ("exact", "near", "conflicts"):
            for row in one["found"][kind][:EXAMPLES]:
                print(f"\n{name}, {kind}: {row['text'][:120]!r} ({row['label']})\n    {row['other'][:120]!r} ({row['other_label']})")
    print(f"\n{time.process_time() - began:.0f} s of the processor")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "leaks.json").write_text(json.dumps(every, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def told(found: Checked) -> dict[str, Any]:
    """Counts by column, and the rows behind them."""
    leaks = _rows(found, "leaks")
    exact = [row for row in leaks if row["score"] == 1.0]
    known = {row["row"] for row in exact}
    near = [row for row in leaks if row["row"] not in known]
    conflicts = _rows(found, "conflicts")
    repeats = found.section("duplicates")
    return {
        "training rows": len(found.rows), "measured on": len(found.against), "exact": len(known), "near": len({row["row"] for row in near}),
        "labels differ": len({row["row"] for row in leaks if row["label"] != row["other_label"]}), "conflicts": len(conflicts),
        "repeats": repeats.count if repeats else 0, "found": {"exact": exact, "near": near, "conflicts": conflicts},
    }  # fmt: skip


def _rows(found: Checked, kind: str) -> list[dict[str, Any]]:
    """The rows of a section that name the other one; a text in many copies may be told without."""
    section = found.section(kind)
    return [{"other": row["text"], "other_label": row["label"], **row} for row in section.rows] if section else []


if __name__ == "__main__":
    main()

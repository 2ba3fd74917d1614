"""From how many labelled rows on is tuning better than prompting? A table, and a picture beside it.

    python bench/break_even.py sst2
    python bench/break_even.py sst2 --rows 200 --draws 2 --tuned minilm:2 smollm2:2 --out bench/out

For each number n of labelled rows: a model prompted with none of them, the same with 4 of them as nearest demonstrations, and branches
tuned on them. A tuned branch gets no more than the n rows: a quarter of them is what its training stops by. Every draw takes other rows
(the same ones for all); a point is the mean over draws, its bar the 95% interval over the test rows of the first draw. Needs the data in
the folder that TRUNKLINE_DATA names (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from prompting import SETS, some

from trunkline.data.split import Split, split
from trunkline.errors import TrunklineError
from trunkline.prompting.prompt import prompt
from trunkline.prompting.settings import PromptSettings
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

SIZES = (0, 8, 32, 128, 512)
COLOURS = ("#b45309", "#d97706", "#1d4ed8", "#0891b2", "#15803d")


@dataclass(frozen=True)
class Point:
    """Accuracy with n labelled rows: of each draw, and the interval of the first."""

    rows: int
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--prompted", default="smollm2")
    parser.add_argument("--tuned", nargs="*", default=["minilm:2", "smollm2:2"], help="models and depths")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--rows", type=int, default=200, help="test rows, drawn by seed 0")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    parts, template = SETS[asked.set](100_000)
    test = some(parts.test, asked.rows)
    settings = PromptSettings(threads=1, baseline_rows=0)

    def prompted(shots: int, calibrate: str) -> Callable[[Rows, int], Any]:
        def run(rows: Rows, seed: int) -> Any:
            told = {"template": template, "shots": min(shots, len(rows)), "calibrate": calibrate, "settings": replace(settings, seed=seed)}
            return prompt(Split(rows, replace(rows, rows=()), test), asked.prompted, **told).report

        return run

    def tuned(model: str, depth: int) -> Callable[[Rows, int], Any]:
        def run(rows: Rows, seed: int) -> Any:
            made = split(rows, validation=0.25, test=test, seed=seed)
            return tune(made, model, depth=depth, settings=Settings(threads=1, seed=seed)).report

        return run

    ways = {f"{asked.prompted}, no demonstrations": prompted(0, "contextual"), f"{asked.prompted}, 4 nearest": prompted(4, "contextual")}
    for one in asked.tuned:
        model, _, depth = one.partition(":")
        ways[f"{model} tuned, depth {depth}"] = tuned(model, int(depth))
    lines = {name: points(name, way, parts.train, asked.sizes, asked.draws) for name, way in ways.items()}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"break-even-{asked.set}.svg").write_text(picture(lines, f"{asked.set}: accuracy by labelled rows"), encoding="utf-8")
    values = {name: [vars(point) for point in line] for name, line in lines.items()}
    (asked.out / f"break-even-{asked.set}.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    print("\n".join(table(lines, asked.sizes)))


def points(name: str, way: Callable[[Rows, int], Any], train: Rows, sizes: list[int], draws: int) -> list[Point]:
    """A point for each size. What needs labelled rows has none at 0; what needs none is worked out once and is the same everywhere."""
    found: list[Point] = []
    for size in sizes:
        if "no demonstrations" in name and found:
            found.append(replace(found[0], rows=size))
            continue
        if size == 0 and "no demonstrations" not in name:
            continue
        reports = []
        for seed in range(draws):
            try:
                reports.append(way(drawn(train, size, seed), seed))
            except TrunklineError as error:  # too few rows for this many labels, and the like: said, and left out
                print(f"{name}, {size} rows: {error}", flush=True)
        if reports:
            every = [
                next(one for one in report.results if one["name"] in ("prompted", "tuned"))["metrics"]["accuracy"] for report in reports
            ]
            found.append(Point(size, tuple(one["value"] for one in every), every[0]["low"], every[0]["high"]))
            print(f"{name}, {size} rows: {', '.join(f'{100 * value:.1f}' for value in found[-1].values)}", flush=True)
    return found


def drawn(train: Rows, size: int, seed: int) -> Rows:
    """So many rows, the same number of each label as far as it goes; a smaller draw is part of a larger one."""
    rows = list(train)
    random.Random(seed).shuffle(rows)
    turns: dict[str, int] = {}
    order = []
    for row in rows:
        turns[row["label"]] = turns.get(row["label"], -1) + 1
        order.append((turns[row["label"]], row))
    order.sort(key=lambda pair: pair[0])
    return replace(train, rows=tuple(row for _, row in order[:size]))


def table(lines: dict[str, list[Point]], sizes: list[int]) -> list[str]:
    """One row a way, one column a size; then from where on each tuned branch is ahead of the best prompt."""
    width = max(map(len, lines)) + 2
    found = [" " * width + "".join(f"{size:>22,}" for size in sizes)]
    for name, line in lines.items():
        cells = {point.rows: f"{100 * point.mean:.1f} ({100 * point.low:.1f}–{100 * point.high:.1f})" for point in line}
        found.append(name.ljust(width) + "".join(f"{cells.get(size, '–'):>22}" for size in sizes))
    prompts = {
        size: max(point.mean for name, line in lines.items() if "tuned" not in name for point in line if point.rows == size)
        for size in sizes
    }
    for name, line in lines.items():
        if "tuned" in name:
            ahead = [point.rows for point in line if point.mean > prompts[point.rows]]
            sure = [point.rows for point in line if point.low > prompts[point.rows]]
            found.append(f"{name}: ahead of the best prompt at {ahead or 'no size'}, beyond its interval at {sure or 'no size'}")
    return found


def picture(lines: dict[str, list[Point]], title: str) -> str:
    """The curves as one SVG that needs nothing else; sizes stand evenly."""
    sizes = sorted({point.rows for line in lines.values() for point in line})
    every = [value for line in lines.values() for point in line for value in (point.low, point.high)]
    low, high = max(0.0, min(every) - 0.03), min(1.0, max(every) + 0.03)

    def x(rows: int, nth: int = 0) -> float:
        return 70 + sizes.index(rows) * 480 / max(1, len(sizes) - 1) + 5 * nth

    def y(value: float) -> float:
        return 320 - (value - low) / (high - low) * 280

    parts = [f'<text x="40" y="22" font-weight="bold">{escape(title)}</text>']
    for tick in range(0, 101, 10):
        if low <= tick / 100 <= high:
            parts.append(f'<line x1="60" x2="580" y1="{y(tick / 100):.1f}" y2="{y(tick / 100):.1f}" stroke="#d4d4d4"/>')
            parts.append(f'<text x="54" y="{y(tick / 100) + 4:.1f}" text-anchor="end">{tick}%</text>')
    parts += [f'<text x="{x(size):.1f}" y="342" text-anchor="middle">{size:,}</text>' for size in sizes]
    for nth, (name, line) in enumerate(lines.items()):
        colour = COLOURS[nth % len(COLOURS)]
        path = " ".join(f"{x(point.rows, nth):.1f},{y(point.mean):.1f}" for point in line)
        dash = ' stroke-dasharray="6 4"' if "tuned" not in name else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for point in line:
            at = x(point.rows, nth)
            parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(point.low):.1f}" y2="{y(point.high):.1f}" stroke="{colour}" opacity="0.5"/>'
            )
            told = f"{name}, {point.rows} rows: {100 * point.mean:.1f}%"
            parts.append(f'<circle cx="{at:.1f}" cy="{y(point.mean):.1f}" r="4" fill="{colour}"><title>{escape(told)}</title></circle>')
        parts.append(f'<text x="70" y="{372 + 20 * nth}" fill="{colour}">● {escape(name)}</text>')
    height = 372 + 20 * len(lines)
    style = 'font-family="system-ui, sans-serif" font-size="13"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 {height}" role="img" aria-label="{escape(title)}" {style}>'
        f'<rect width="620" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()

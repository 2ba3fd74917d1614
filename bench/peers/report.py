"""The table of finished runs, the same as JSON, and a plot of time against test accuracy as SVG.

Figures are medians over seeds (lowest to highest). A ratio or difference is taken seed by seed against the reference's run with the same
seed, and the median of those is shown: the machine and, in few-shot, the rows of a seed are then the same on both sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

Run = dict[str, Any]
FIGURES: dict[str, Callable[[Run], float]] = {
    "test_accuracy": lambda run: run["test_accuracy"],
    "validation_accuracy": lambda run: run["validation_accuracy"],
    "seconds": lambda run: run["seconds"],
    "processor_seconds": lambda run: run["processor_seconds"],
    "seconds_without_measuring": lambda run: run["seconds"] - run["stages"].get("measure", 0.0),
    "peak_bytes": lambda run: run["peak_bytes"],
    "epochs_run": lambda run: run["epochs_run"],
}


def report(stem: Path, runs: list[Run], reference: str | None) -> None:
    """Print the table; write stem.json and stem.svg. reference: a name as the table has it; none: the first of ours."""
    if not runs:
        print(f"{stem.name}: nothing is done with these settings.")
        return
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        groups.setdefault(run["contender"] + (", warm" if run["warm"] else ""), {})[run["seed"]] = run
    names = sorted(groups, key=lambda name: median(run["seconds"] for run in groups[name].values()))
    if reference is not None and reference not in groups:
        raise SystemExit(f"--reference {reference!r}: use one of {', '.join(map(repr, names))}.")
    chosen = reference or min((name for name in groups if name.startswith("ours")), key=list(groups).index, default=names[0])
    every = {name: summary(groups[name]) for name in names}
    compared = {other: {name: against(groups[name], groups[other]) for name in names} for other in names}
    print(_table(stem.name, runs, every, compared[chosen], chosen))
    found = {"set": stem.name, "settings": runs[0]["settings"], "machine": [run["machine"] for run in runs], "contenders": every,
             "compared_with": compared}  # fmt: skip
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    stem.with_name(f"{stem.name}.svg").write_text(plot(groups, stem.name), encoding="utf-8")


def summary(runs: dict[int, Run]) -> dict[str, Any]:
    """Median, lowest and highest of every figure, and the median seconds of each stage."""
    figures: dict[str, Any] = {}
    for name, of in FIGURES.items():
        values = [of(run) for run in runs.values() if name != "validation_accuracy" or run[name] is not None]
        figures[name] = {"median": median(values), "low": min(values), "high": max(values)} if values else None
    first = next(iter(runs.values()))
    stages = {stage: median(run["stages"].get(stage, 0.0) for run in runs.values()) for stage in first["stages"]}
    return {"seeds": sorted(runs), **figures, "stages": stages, "options": first["options"], "versions": first["versions"]}


def against(runs: dict[int, Run], others: dict[int, Run]) -> dict[str, float] | None:
    """`runs` beside `others`: ratios of seconds and memory, difference of test accuracy in points; None where no seed is common."""
    pairs = [(runs[seed], others[seed]) for seed in sorted(runs.keys() & others.keys())]
    if not pairs:
        return None
    without = FIGURES["seconds_without_measuring"]
    return {
        "seconds": median(a["seconds"] / b["seconds"] for a, b in pairs),
        "processor_seconds": median(a["processor_seconds"] / b["processor_seconds"] for a, b in pairs),
        "seconds_without_measuring": median(without(a) / without(b) for a, b in pairs),
        "peak_bytes": median(a["peak_bytes"] / b["peak_bytes"] for a, b in pairs),
        "points": median(100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in pairs),
    }


def _table(title: str, runs: list[Run], every: dict[str, Any], compared: dict[str, Any], reference: str) -> str:
    about, settings = runs[-1]["machine"], runs[0]["settings"]
    rates = {key: [run["machine"]["gigaflops"][key] for run in runs] for key in about["gigaflops"]}
    lines = [
        f"\n## {title}\n",
        f"{about['processor']}, {about['cores']} cores, {about['memory']}, {about['system']}; {', '.join(f'{k} {v}' for k, v in settings.items())}",
        "GFLOP/s before each run, median (low to high): "
        + "; ".join(f"{key} {median(values):.0f} ({min(values):.0f} to {max(values):.0f})" for key, values in rates.items()),
        "versions: " + ", ".join(f"{k} {v}" for k, v in sorted({k: v for run in runs for k, v in run["versions"].items()}.items())),
        f"medians over seeds (low to high); x: times that of {reference!r}, with and without what ours measures for its report\n",
        "| contender | seeds | test accuracy | points | seconds | x | x without | processor s | x | peak MiB | x | epochs |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in every.items():
        beside = compared[name]
        ratio = {k: f"{v:+.2f}" if k == "points" else f"{v:.2f}" for k, v in beside.items()} if beside else {}
        cells = [name, len(found["seeds"]), _span(found["test_accuracy"], 100, 2), ratio.get("points", ""), _span(found["seconds"], 1, 1),
                 ratio.get("seconds", ""), ratio.get("seconds_without_measuring", ""), _span(found["processor_seconds"], 1, 0),
                 ratio.get("processor_seconds", ""), _span(found["peak_bytes"], 1 / 2**20, 0),
                 ratio.get("peak_bytes", ""), f"{found['epochs_run']['median']:g}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append("\nseconds of the stages: ")
    lines += [
        f"  {name:32} {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in found['stages'].items())}" for name, found in every.items()
    ]
    return "\n".join(lines)


def _span(found: dict[str, float], scale: float, digits: int) -> str:
    low, middle, high = (f"{scale * found[key]:.{digits}f}" for key in ("low", "median", "high"))
    return f"{middle} ({low} to {high})" if low != high else middle


def plot(groups: dict[str, dict[int, Run]], title: str) -> str:
    """Seconds (logarithmic) against test accuracy: a dot for each run, a ring and a name at the medians."""
    width, height, left, right, top, bottom = 760, 460, 60, 190, 40, 50
    runs = [run for of_one in groups.values() for run in of_one.values()]
    x_low, x_high = (math.log10(run["seconds"]) for run in (min(runs, key=FIGURES["seconds"]), max(runs, key=FIGURES["seconds"])))
    x_low, x_high = x_low - 0.1, x_high + 0.1
    accuracies = [100 * run["test_accuracy"] for run in runs]
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20) if (max(accuracies) - min(accuracies)) / s <= 8)
    y_low, y_high = math.floor(min(accuracies) / step) * step, (math.floor(max(accuracies) / step) + 1) * step

    def x(seconds: float) -> float:
        return left + (math.log10(seconds) - x_low) / (x_high - x_low) * (width - left - right)

    def y(share: float) -> float:
        return height - bottom - (100 * share - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [f'<text x="{left}" y="22" font-size="15">{escape(title)}: seconds from file to saved model, test accuracy</text>']
    for seconds in (m * 10.0**e for e in range(-1, 7) for m in (1, 2, 5)):
        if x_low <= math.log10(seconds) <= x_high:
            parts.append(f'<path d="M{x(seconds):.1f} {top}V{height - bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x(seconds):.1f}" y="{height - bottom + 18}" text-anchor="middle">{seconds:g} s</text>')
    for number in range(round((y_high - y_low) / step) + 1):
        value = y_low + number * step
        parts.append(f'<path d="M{left} {y(value / 100):.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value / 100) + 4:.1f}" text-anchor="end">{value:g}</text>')
    places = []
    for name, of_one in groups.items():
        colour = "#c2410c" if name.startswith("ours") else "#1d4ed8"
        parts += [
            f'<circle cx="{x(run["seconds"]):.1f}" cy="{y(run["test_accuracy"]):.1f}" r="2.5" fill="{colour}" opacity="0.5"/>'
            for run in of_one.values()
        ]
        at_x, at_y = (median(FIGURES[key](run) for run in of_one.values()) for key in ("seconds", "test_accuracy"))
        parts.append(f'<circle cx="{x(at_x):.1f}" cy="{y(at_y):.1f}" r="6" fill="none" stroke="{colour}" stroke-width="2"/>')
        beside = x(at_x) + 10 if x(at_x) + 7 * len(name) < width else x(at_x) - 10 - 6 * len(name)
        places.append((y(at_y) + 4, beside, name, colour))
    written: list[tuple[float, float, float]] = []
    for place_y, place_x, name, colour in sorted(places):
        end = place_x + 7 * len(name)
        while any(abs(place_y - other) < 13 and place_x < there and begin < end for other, begin, there in written):
            place_y += 2
        written.append((place_y, place_x, end))
        parts.append(f'<text x="{place_x:.1f}" y="{place_y:.1f}" fill="{colour}">{escape(name)}</text>')
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{inside}\n</svg>\n'
    )

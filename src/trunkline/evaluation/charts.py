"""The report's pictures as inline SVG: no script, nothing fetched, colours from the page so that dark mode and print work.

Every function takes plain numbers and gives a `Markup`; every text passes through `escape`. Colours are CSS classes
that report.html.j2 defines: `a` (the tuned branch), `b` (what it is compared with), `e` (errors), `grid`, `lab` (text), `dim`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MOST_LABELS = 100  # above this the confusion matrix shows those with the most errors
SHOWN_LABELS = 60
MOST_POINTS = 2000
FEW = 10  # rows; a reliability bin with fewer says little and is drawn faint, off the line


@dataclass(frozen=True)
class Dot:
    """One line of the interval chart: a name, a value with its interval, what to print, and whether it is the one to look at."""

    name: str
    value: float
    low: float
    high: float
    shown: str
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """One curve; `points` are (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def intervals(dots: Sequence[Dot], shown: Callable[[float], str], alt: str) -> Markup:
    """Each value as a dot with its interval as a bar, on one axis. A value far from the others becomes an arrow at the edge,
    so that a majority class of 1% does not flatten a difference of 3 points."""
    left, right, row, width = 214, 150, 40, 980
    low, high = _focus(dots)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    x = _scale(low, high, left, width - right)
    bottom = row * len(dots) + 8
    parts = [_gridline(x(t), 0, bottom) + _text(x(t), bottom + 18, shown(t), "dim mid") for t in ticks]
    for at, dot in enumerate(dots):
        y, css = row * at + row / 2 + 4, "a" if dot.strong else "b"
        parts.append(_text(0, y + 5, dot.name, "lab strong" if dot.strong else "lab"))
        parts.append(_text(width, y + 5, dot.shown, "lab end strong" if dot.strong else "lab end"))
        if low <= dot.value <= high:
            ends = x(max(low, dot.low)), x(min(high, dot.high))
            parts.append(
                f'<line class="s{css}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke-width="5" stroke-linecap="round"/>'
            )
            parts.append(f'<circle class="f{css} ring" cx="{x(dot.value):.1f}" cy="{y}" r="8"/>')
        else:
            parts.append(_arrow(left - 2 if dot.value < low else width - right + 2, y, dot.value < low))
    return _svg(width, bottom + 26, parts, alt)


def curves(lines: Sequence[Line], shown: Callable[[float], str], alt: str, x_name: str) -> Markup:
    """Curves over steps, one a seed."""
    width, height, left, bottom = 470, 270, 52, 40
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("")
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    steps = _ticks(min(x for x, _ in points), max(x for x, _ in points), most=5)
    x = _scale(min(p[0] for p in points), max(p[0] for p in points), left, width - 12)
    y = _scale(min(ticks[0], *(p[1] for p in points)), max(ticks[-1], *(p[1] for p in points)), height - bottom, 10)
    parts = [f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in ticks]
    parts += [_text(left - 8, y(t) + 4, shown(t), "dim end") for t in ticks]
    parts += [_text(x(t), height - bottom + 18, f"{t:g}", "dim mid") for t in steps if points and _inside(t, [p[0] for p in points])]
    parts.append(_text((left + width - 12) / 2, height - 4, x_name, "dim mid"))
    for at, line in enumerate(lines):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        dash = ("", "7 4", "2 4")[at % 3]
        parts.append(f'<polyline class="sa line" stroke-dasharray="{dash}" points="{path}">{_title(line.name)}</polyline>')
        if len(line.points) <= 40:
            parts += [
                f'<circle class="fa" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3">{_title(f"{line.name}: {x_name} {a:g}, {shown(b)}")}</circle>'
                for a, b in line.points
            ]
    return _svg(width, height, parts, alt)


def reliability(bins: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], names: tuple[str, str], alt: str) -> Markup:
    """Claimed probability against what came true, dot area by rows, the diagonal dashed; below it how many rows claim what."""
    side, left, top = 330, 66, 8
    x, y = _scale(0, 1, left, left + side), _scale(0, 1, top + side, top)
    parts = []
    for t in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>')
        parts.append(_text(left - 8, y(t) + 4, f"{100 * t:.0f}%", "dim end"))
        parts.append(_text(x(t), top + side + 70, f"{100 * t:.0f}%", "dim mid"))
    parts.append(f'<line class="diagonal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    most = max([b["count"] for b in (*bins, *before)] or [1])
    for series, css in ((before, "b"), (bins, "a")):
        full = [b for b in series if b["count"]]
        path = " ".join(f"{x(b['confidence']):.1f},{y(b['accuracy']):.1f}" for b in full if b["count"] >= FEW)
        parts.append(f'<polyline class="s{css} line faint" points="{path}"/>')
        parts += [_claim(b, css, x(b["confidence"]), y(b["accuracy"]), 3.5 + 9 * math.sqrt(b["count"] / most)) for b in full]
    floor = top + side + 54
    for b in bins:
        tall = 40 * b["count"] / most
        parts.append(
            f'<rect class="fa faint" x="{x(b["low"]) + 1:.1f}" y="{floor - tall:.1f}" width="{side / len(bins) - 2:.1f}" height="{tall:.1f}"/>'
        )
    parts.append(_text(left + side / 2, top + side + 92, names[0], "dim mid"))
    parts.append(f'<g transform="translate(12 {top + side / 2:.0f}) rotate(-90)">{_text(0, 0, names[1], "dim mid")}</g>')
    return _svg(left + side + 14, top + side + 98, parts, alt)


def heat_map(labels: Sequence[str], matrix: Sequence[Sequence[int]], names: tuple[str, str], alt: str) -> Markup:
    """A confusion matrix for 2 to 100 labels: colour by share of the true label, green on the diagonal, orange off it;
    the counts inside where there is room, and in the tooltip always."""
    count = len(labels)
    cell = max(10.5, min(76.0, 800.0 / max(count, 1)))
    font = max(7.5, min(14.0, cell * 0.78))
    gutter = 14 + min(230.0, max((_width(_cut(name)) for name in labels), default=0) * font * 0.58)
    flat = all(_width(_cut(name)) * font * 0.58 < cell - 8 for name in labels)
    top = (font + 30) if flat else gutter + 18
    side = cell * count
    parts = [f'<rect class="field" x="{gutter:.1f}" y="{top:.1f}" width="{side:.1f}" height="{side:.1f}"/>']
    for at, label in enumerate(labels):
        middle = (at + 0.5) * cell
        name = f'<text class="lab" style="font-size:{font:.1f}px"'
        parts.append(
            f'{name} text-anchor="end" x="{gutter - 7:.1f}" y="{top + middle + font * 0.35:.1f}">{escape(_cut(label))}{_title(label)}</text>'
        )
        turn = "" if flat else ' transform="rotate(-90)" text-anchor="start" dy=".35em"'
        anchor = f' text-anchor="middle" x="0" y="{-font * 0.2:.1f}"' if flat else ""
        parts.append(
            f'<g transform="translate({gutter + middle:.1f} {top - 7:.1f})">{name}{anchor}{turn}>{escape(_cut(label))}{_title(label)}</text></g>'
        )
    for i, row in enumerate(matrix):
        total = sum(row)
        parts += [_cell((i, j), n, total, labels, (gutter, top, cell)) for j, n in enumerate(row) if n]
    parts.append(
        f'<g transform="translate(9 {top + side / 2:.0f}) rotate(-90)">{_text(0, 0, names[0], "dim mid")}</g>' if gutter > 90 else ""
    )
    parts.append(_text(gutter + side / 2, 11, names[1], "dim mid"))
    return _svg(gutter + side + 4, top + side + 4, parts, alt, natural=count < 12)


def scatter(truth: Sequence[float], predicted: Sequence[float], names: tuple[str, str], alt: str) -> Markup:
    """Predicted against true on equal axes, the diagonal dashed. At most 2,000 points, taken evenly."""
    side, left, top = 360, 58, 8
    step = max(1, math.ceil(len(truth) / MOST_POINTS))
    pairs = list(zip(truth, predicted))[::step]
    values = [value for pair in pairs for value in pair]
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    x, y = _scale(low, high, left, left + side), _scale(low, high, top + side, top)
    parts = [f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in ticks]
    parts += [_text(left - 8, y(t) + 4, f"{t:g}", "dim end") + _text(x(t), top + side + 18, f"{t:g}", "dim mid") for t in ticks]
    parts.append(f'<line class="diagonal" x1="{x(low)}" y1="{y(low)}" x2="{x(high)}" y2="{y(high)}"/>')
    parts += [f'<circle class="fa point" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>' for a, b in pairs]
    parts.append(_text(left + side / 2, top + side + 38, names[0], "dim mid"))
    parts.append(f'<g transform="translate(12 {top + side / 2:.0f}) rotate(-90)">{_text(0, 0, names[1], "dim mid")}</g>')
    return _svg(left + side + 14, top + side + 46, parts, alt)


def histogram(values: Sequence[float], name: str, alt: str) -> Markup:
    """How values are spread, in at most 31 bars."""
    width, height, left, bottom = 470, 260, 46, 44
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    bars = [0] * 31
    for value in values:
        bars[min(30, int(31 * (value - low) / (high - low)))] += 1
    x, y = _scale(low, high, left, width - 10), _scale(0, max(bars), height - bottom, 10)
    wide = (width - 10 - left) / 31
    parts = [f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>']
    parts += [
        f'<rect class="fa" x="{left + at * wide + 0.7:.1f}" y="{y(n):.1f}" width="{wide - 1.4:.1f}" height="{y(0) - y(n):.1f}">{_title(str(n))}</rect>'
        for at, n in enumerate(bars)
    ]
    parts += [_text(x(t), height - bottom + 18, f"{t:g}", "dim mid") for t in ticks]
    parts += [_text(left - 8, y(n) + 4, str(n), "dim end") for n in (0, max(bars))]
    parts.append(_text((left + width) / 2, height - 6, name, "dim mid"))
    return _svg(width, height, parts, alt)


def most_wrong(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> tuple[list[str], list[list[int]]]:
    """The part of a confusion matrix that fits a page: all of it up to 100 labels, else the 60 with the most errors."""
    if len(labels) <= MOST_LABELS:
        return list(labels), [list(row) for row in matrix]
    wrong = [sum(row) + sum(other[at] for other in matrix) - 2 * row[at] for at, row in enumerate(matrix)]
    kept = sorted(sorted(range(len(labels)), key=lambda at: -wrong[at])[:SHOWN_LABELS])
    return [labels[at] for at in kept], [[matrix[i][j] for j in kept] for i in kept]


def _cell(at: tuple[int, int], count: int, total: int, labels: Sequence[str], place: tuple[float, float, float]) -> str:
    (i, j), (left, top, cell), share = at, place, count / total
    css, strength = ("fa", 0.10 + 0.85 * share) if i == j else ("fe", 0.18 + 0.8 * math.sqrt(share))
    x, y = left + j * cell, top + i * cell
    told = _title(f"{labels[i]} → {labels[j]}: {count} / {total} ({100 * share:.0f}%)")
    gap = 0.5 if cell < 16 else 1.5
    square = f'x="{x + gap:.1f}" y="{y + gap:.1f}" width="{cell - 2 * gap:.1f}" height="{cell - 2 * gap:.1f}" rx="{min(3.0, cell / 8):.1f}"'
    drawn = f'<rect class="{css}" fill-opacity="{strength:.2f}" {square}>{told}</rect>'
    if cell < 24:
        return drawn
    css = "on" if strength > 0.6 else "lab"
    font = max(9.0, min(17.0, cell * 0.3, cell * 1.3 / len(str(count))))
    return drawn + (
        f'<text class="{css} mid" pointer-events="none" style="font-size:{font:.1f}px" x="{x + cell / 2:.1f}" y="{y + cell / 2 + font * 0.36:.1f}">{count}</text>'
    )


def _claim(b: Mapping[str, Any], css: str, x: float, y: float, radius: float) -> str:
    told = f"{100 * b['confidence']:.1f}% → {100 * b['accuracy']:.1f}% ({b['count']})"
    look = ("fa ring" if css == "a" else "hollow") + ("" if b["count"] >= FEW else " faint")
    return f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_title(told)}</circle>'


def _focus(dots: Sequence[Dot]) -> tuple[float, float]:
    """The range to draw: all intervals, without those that lie further off than twice the span of the rest."""
    near = sorted(dots, key=lambda dot: dot.value)
    strong = [dot for dot in dots if dot.strong] or near[-1:]
    while len(near) > 2:
        ends = (near[0], near[-1])
        off = ends[0] if abs(strong[0].value - ends[0].value) >= abs(strong[0].value - ends[1].value) else ends[1]
        rest = [dot for dot in near if dot is not off]
        low, high = min(dot.low for dot in rest), max(dot.high for dot in rest)
        if max(low - off.value, off.value - high) <= 2 * max(high - low, 1e-9):
            break
        near = rest
    low, high = min(dot.low for dot in near), max(dot.high for dot in near)
    pad = 0.06 * (high - low) or 0.01 * max(abs(high), 1e-9)
    return low - pad, high + pad


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover low to high: at least two."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
    found = [round(step * at, 12) for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def _inside(value: float, values: Iterable[float]) -> bool:
    found = list(values)
    return min(found) <= value <= max(found)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _width(text: str) -> float:
    """Width in letters: a Chinese character is as wide as 1.75 Latin ones."""
    return sum(1.75 if unicodedata.east_asian_width(char) in "WF" else 1.0 for char in text)


def _cut(text: str, most: float = 30) -> str:
    text = " ".join(text.split())
    if _width(text) <= most:
        return text
    kept, used = "", 0.0
    for char in text:
        used += _width(char)
        if used > most - 1:
            break
        kept += char
    return kept + "…"


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _gridline(x: float, top: float, bottom: float) -> str:
    return f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _arrow(x: float, y: float, to_left: bool) -> str:
    ahead = -9 if to_left else 9
    return f'<path class="fb" d="M{x + ahead} {y} L{x} {y - 6} L{x} {y + 6} Z"/>'


def _svg(width: float, height: float, parts: Iterable[str], alt: str, natural: bool = False) -> Markup:
    style = f' style="max-width:{width:.0f}px"' if natural else ""
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}"{}>{}</svg>').format(
        alt, f"{width:.0f}", f"{height:.0f}", Markup(style), Markup("".join(map(str, parts)))
    )

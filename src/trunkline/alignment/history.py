"""The figures of a run, for programs (history.json) and for people (history.html: curves and samples on one page that needs nothing else); and,
while it runs, as event files for TensorBoard, where that is installed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from trunkline import storage
from trunkline.errors import MissingExtra
from trunkline.evaluation.charts import Line, curves

_FIGURES = {
    "reward": "reward",
    "gold": "the other reward",
    "kl": "KL to the reference, nats an answer",
    "coefficient": "weight of the KL",
    "entropy": "entropy, nats a token",
    "clip_fraction": "share of ratios clipped",
    "ratio_high": "largest ratio",
    "explained_variance": "explained variance of the value",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
    "length": "tokens an answer",
    "ended": "share of answers that end",
    "distinct": "distinct pairs of tokens",
}
_SAMPLES_AT = 6
_LOOK = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; background: #fff }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
svg { width: 100%; height: auto } h2 { font-size: 1rem; margin: .5rem 0 0 }
.grid { stroke: #d8dde4 } .dim { fill: #68717d; font-size: 12px } .end { text-anchor: end } .mid { text-anchor: middle }
.sa { stroke: #2563a8; fill: none; stroke-width: 2 } .fa { fill: #2563a8 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .5rem; border-top: 1px solid #d8dde4 }
td:first-child, td:last-child { white-space: nowrap } .stop { background: #fdecea; padding: .5rem .8rem }
@media (prefers-color-scheme: dark) { body { color: #dde3ea; background: #14181d } .dim { fill: #9aa4b0 } .grid, td, th { stroke: #333b45; border-color: #333b45 }
.stop { background: #4a2420 } }
"""


class Events:
    """An event file for TensorBoard in a folder: every figure of every step, as it comes. Use as a context; with no folder nothing is written.

    Raises: MissingExtra without the package.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._writer: Any = None
        if not folder:
            return
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra("tensorboard", "tensorboard", f"Writing events into {folder}")
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, entry: dict[str, Any]) -> None:
        """The figures of a step, those of each judge as parts/NAME. On disk when this returns."""
        if self._writer is None:
            return
        told = {name: entry[name] for name in (*_FIGURES, "told") if entry.get(name) is not None}
        told |= {f"parts/{name}": value for name, value in entry.get("parts", {}).items()}
        values = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in told.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=entry["step"], summary=self._summary(value=values)))
        self._writer.flush()


def write(history: Sequence[dict[str, Any]], stopped: str | None, folder: Path) -> Path:
    """history.json and history.html in a folder, whole or not at all; gives the page."""
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_file(folder / "history.json", storage.to_json({"stopped": stopped, "steps": list(history)}))
    storage.write_file(folder / "history.html", page(history, stopped).encode())
    return folder / "history.html"


def page(history: Sequence[dict[str, Any]], stopped: str | None) -> str:
    """The page: what stopped the run, a curve for each figure, and answers from the beginning to the end."""
    parts = [f"<h1>Learning from rewards: {len(history)} batches of answers</h1>"]
    if stopped:
        parts.append(str(Markup('<p class="stop">Stopped: {}</p>').format(stopped)))
    parts.append('<div class="grid2">')
    for name, title in _FIGURES.items():
        points = [(float(entry["step"]), float(entry[name])) for entry in history if entry.get(name) is not None]
        if points:
            parts.append(f"<div><h2>{escape(title)}</h2>{curves([Line(title, points)], lambda value: f'{value:.3g}', title, 'step')}</div>")
    parts += ["</div>", "<h2>Answers</h2><table><tr><th>step</th><th>prompt</th><th>answer</th><th>reward</th></tr>"]
    every = max(1, (len(history) - 1) // (_SAMPLES_AT - 1)) if history else 1
    for entry in [*history[:-1:every], *history[-1:]]:
        for one in entry["samples"]:
            cells = (entry["step"], one["prompt"], one["answer"], f"{one['reward']:.3g}")
            parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    policy = "default-src 'none'; style-src 'unsafe-inline'"  # neither scripts nor connections
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f"<title>Learning from rewards</title><style>{_LOOK}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</table></body></html>\n"

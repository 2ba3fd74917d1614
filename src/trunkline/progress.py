"""One bar for whatever takes long: rate and time left on stderr; nothing where there is no terminal to show it on. And what stages took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Use as a context; `to(done, total, note)` moves it. Shown on a terminal only, unless `show` says otherwise."""

    def __init__(self, title: str, *, unit: str = "rows", show: bool | None = None) -> None:
        shown = sys.stderr.isatty() if show is None else show
        columns = ("{task.description}", BarColumn(), "{task.completed:,.0f}/{task.total:,.0f}", TextColumn("{task.fields[rate]}"),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        self._unit = unit
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)
        self._task = self._bar.add_task(title, total=1, rate="", note="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def to(self, done: float, total: float, note: str = "") -> None:
        """Move to `done` of `total`, with a few words beside."""
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, completed=done, total=total, rate=f"{speed:,.0f} {self._unit}/s" if speed else "", note=note)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add what is done inside to the seconds of a stage, also where it ends in an error.

    >>> spent = {"read": 1.0}
    >>> with timed(spent, "read"):
    ...     pass
    >>> spent["read"] > 1.0
    True
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started

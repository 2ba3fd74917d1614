"""Pieces of work that do not need each other, side by side in several threads.

Layers in int8 run in one thread (onnx_layers.py), so that several passes, and several branches, may run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Lanes:
    """`run` computes in the thread that calls it and in `count` - 1 others. What runs in them has to let the interpreter go, as ONNX Runtime does."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._others = ThreadPoolExecutor(count - 1, "lane") if count > 1 else None

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """What each task gives, in their order; all have ended when this returns, or raises what one of them raised."""
        if self._others is None or len(tasks) < 2:
            return [task() for task in tasks]
        width = min(self._count, len(tasks))
        others = [self._others.submit(_each, tasks[at::width]) for at in range(1, width)]
        try:
            found = [_each(tasks[::width])]
        finally:
            ended = [other.exception() for other in others]
        if error := next((one for one in ended if one is not None), None):
            raise error
        found += [other.result() for other in others]
        return [found[at % width][at // width] for at in range(len(tasks))]

    def close(self) -> None:
        """End the threads."""
        if self._others is not None:
            self._others.shutdown()


@torch.inference_mode()
def _each(tasks: Sequence[Callable[[], T]]) -> list[T]:
    return [task() for task in tasks]

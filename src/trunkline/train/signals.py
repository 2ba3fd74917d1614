"""Ctrl-C and SIGTERM at a moment that suits: they wait while the loop changes what a checkpoint keeps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[None]:
    """What these signals would raise is raised at the end of the block, not inside: what is done there is done whole.

    Only the main thread gets signals, so in another there is nothing to hold; nor where the system's own handler stands.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    found = {number: signal.getsignal(number) for number in _NUMBERS}
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {n: handler for n, handler in found.items() if callable(handler)}
    try:
        for known in handlers:
            signal.signal(known, lambda *given: came.append(given))
        yield
    finally:
        for known, handler in handlers.items():
            signal.signal(known, handler)
    for number, frame in came[:1]:
        handlers[number](number, frame)

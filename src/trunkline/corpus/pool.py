"""Some processes that judge chunks, or none: results come in the order of the chunks, and few chunks are in memory at any time."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from trunkline.corpus.files import Chunk
from trunkline.corpus.judge import Judge
from trunkline.corpus.parts import judge_chunk
from trunkline.corpus.settings import CleanSettings
from trunkline.errors import TrunklineError

_AHEAD = 2  # chunks a worker that wait for it
_OWN: dict[str, tuple[Path, CleanSettings, Judge]] = {}
"""What a worker process was started with."""


def judged(folder: Path, settings: CleanSettings, todo: Iterable[Chunk]) -> Iterator[Chunk]:
    """Each chunk, once its part is on disk.

    Raises: TrunklineError when a worker was killed from outside (most often for want of memory).
    """
    if settings.workers == 1:
        judge = Judge(settings)
        for chunk in todo:
            judge_chunk(folder, settings, judge, chunk)
            yield chunk
        return
    method = multiprocessing.get_context("spawn")  # a fork would take threads and locks of a loaded torch along
    with ProcessPoolExecutor(settings.workers, method, _start, (folder, settings)) as pool:
        waiting: deque[tuple[Chunk, Future[None]]] = deque()
        try:
            for chunk in todo:
                waiting.append((chunk, pool.submit(_judge, chunk)))
                if len(waiting) > settings.workers * _AHEAD:
                    waiting[0][1].result()
                    yield waiting.popleft()[0]
            while waiting:
                waiting[0][1].result()
                yield waiting.popleft()[0]
        except BrokenProcessPool as error:
            raise TrunklineError(
                "a worker was killed from outside, perhaps for want of memory. Run the same command again; fewer workers need less."
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


def _start(folder: Path, settings: CleanSettings) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _OWN["judge"] = (folder, settings, Judge(settings))


def _end_with_parent() -> None:
    """A worker whose parent was killed waits for work for ever: it holds both ends of the pipe that it reads."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _judge(chunk: Chunk) -> None:
    folder, settings, judge = _OWN["judge"]
    judge_chunk(folder, settings, judge, chunk)

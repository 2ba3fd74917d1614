"""The workers as the server sees them: started, watched, replaced when they die or hang; a request whose worker died is asked again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from trunkline import storage
from trunkline.errors import ArtefactError
from trunkline.serving.compute.wire import Messages, packed
from trunkline.serving.settings import ServeSettings

log = logging.getLogger("trunkline.serving")
_TRIES = 2
"""A request that two workers died of is not asked a third time: it may be the reason."""
_LONGEST_PAUSE = 30.0
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Linux maps what a worker allocates in pages of 2 MB where it can: a pass over a short text reads all weights once, and looks up fewer pages for them.
Other systems and C libraries do not read this."""
_LOAD_SECONDS = 600.0


@dataclass(frozen=True)
class Version:
    """One state of a branch: its id is taken from its content, so that the same id is the same branch."""

    id: str
    folder: Path
    model: str | None = None


def version_of(folder: Path) -> str:
    """Names the content of a saved branch: 12 hexadecimal characters of its manifest's SHA-256. Raises: ArtefactError."""
    storage.read_manifest(folder, "branch")
    try:
        return storage.sha256_file(folder / storage.MANIFEST)[:12]
    except OSError as error:
        raise ArtefactError(f"{folder}: could not be read ({error.strerror}).") from error


class Compute(Protocol):
    """What answers requests. `ask` gives {"answers", ...} or {"error", "message"}."""

    restarts: int

    async def start(self) -> None: ...
    async def add(self, version: Version) -> dict[str, Any]: ...
    async def remove(self, version: str) -> None: ...
    async def ask(self, request: dict[str, Any]) -> dict[str, Any]: ...
    async def close(self) -> None: ...
    def is_ready(self) -> bool: ...


class WorkerDied(Exception):
    """Before it answered."""


class Pool:
    """Worker processes. All have the same branches; a request goes to the one with the least to do."""

    def __init__(self, settings: ServeSettings) -> None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = min(usable, psutil.cpu_count(logical=False) or usable)
        count = settings.workers or max(1, cores // 4)
        self.threads = settings.threads or max(1, cores // count)
        self.restarts = 0
        self._settings, self._versions = settings, dict[str, Version]()
        self._workers = [_Worker(self) for _ in range(count)]
        self._loops: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()

    def is_ready(self) -> bool:
        return any(worker.ready for worker in self._workers)

    async def start(self) -> None:
        """Start the workers; ready when each has its branches."""
        self._loops = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        async with self._changed:
            await self._changed.wait_for(lambda: all(worker.ready for worker in self._workers))

    async def add(self, version: Version) -> dict[str, Any]:
        """Load a branch in every worker. Raises: ArtefactError where one refuses it; then no worker keeps it."""
        self._versions[version.id] = version
        about: dict[str, Any] = {}
        try:
            for worker in self._workers:
                if worker.ready:
                    about = await worker.add(version)
        except (ArtefactError, WorkerDied, TimeoutError):
            del self._versions[version.id]
            await self.remove(version.id)
            raise
        return about

    async def remove(self, version: str) -> None:
        """Forget a branch in every worker."""
        self._versions.pop(version, None)
        for worker in self._workers:
            with contextlib.suppress(WorkerDied, TimeoutError):
                if worker.ready:
                    await worker.call({"do": "remove", "version": version}, 10.0)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request, within request["seconds"]. Raises: TimeoutError."""
        until = time.monotonic() + request["seconds"]
        for _ in range(_TRIES):
            left = until - time.monotonic()
            worker = await asyncio.wait_for(self._free(), left) if not self.is_ready() else self._least_busy()
            left = until - time.monotonic()
            try:
                return await worker.call({"do": "ask", **request, "seconds": left}, left)
            except WorkerDied:
                continue
        return {"error": "worker_died", "message": "The request was given up: the workers that computed it died."}

    async def close(self) -> None:
        """End the workers."""
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for worker in self._workers:
            worker.kill()

    async def _free(self) -> _Worker:
        async with self._changed:
            await self._changed.wait_for(self.is_ready)
        return self._least_busy()

    def _least_busy(self) -> _Worker:
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            raise TimeoutError
        return min(ready, key=lambda worker: len(worker.pending))

    async def _keep(self, worker: _Worker) -> None:
        """Run a worker for good: when it ends it is started again, at once the first time, later if it keeps dying."""
        pause = 0.0
        for number in itertools.count():
            self.restarts += number > 0
            began = time.monotonic()
            try:
                await self._run(worker)
            except (ArtefactError, OSError) as error:  # of the system, or for as long as no worker takes to load: it is tried again
                log.error("a worker does not start: %s", error or type(error).__name__)
            finally:
                worker.kill()
            quick = time.monotonic() - began < 60
            pause = min(_LONGEST_PAUSE, max(0.5, 2 * pause)) if quick and number else 0.0
            await asyncio.sleep(pause)

    async def _run(self, worker: _Worker) -> None:
        reading = await worker.spawn(self.threads, self._settings)
        loading = asyncio.create_task(self._load(worker))
        watching = asyncio.create_task(self._watch(worker, loading))
        try:
            await asyncio.wait({reading, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()  # raises what went wrong
            await reading
        except WorkerDied:
            pass
        finally:
            worker.ready = False
            for task in (loading, watching, reading):
                task.cancel()

    async def _watch(self, worker: _Worker, loading: asyncio.Task[None]) -> None:
        """From when it is ready: before that it imports and loads, and answers nothing, for as long as a busy machine needs."""
        await asyncio.wait({loading})
        if worker.ready:
            await worker.watch(self._settings.stuck_seconds)

    async def _load(self, worker: _Worker) -> None:
        await worker.call({"do": "ping"}, _LOAD_SECONDS)  # it imports torch first, which takes a busy machine a minute
        loaded: set[str] = set()
        while missing := [version for name, version in self._versions.items() if name not in loaded]:
            for version in missing:
                await worker.add(version)
                loaded.add(version.id)
        worker.ready = True
        async with self._changed:
            self._changed.notify_all()


class _Worker:
    """One process and what it was asked."""

    def __init__(self, pool: Pool) -> None:
        self.ready = False
        self.process: subprocess.Popen[bytes] | None = None
        self.pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._end: asyncio.WriteTransport | None = None

    async def spawn(self, threads: int, settings: ServeSettings) -> asyncio.Future[None]:
        """Starts the process; what is given is done when it has ended."""
        ours, theirs = socket.socketpair()
        quiet = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        quiet |= {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", _HUGE_PAGES)}
        command = [sys.executable, "-m", "trunkline.serving.compute.worker", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, **quiet})
        theirs.close()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self._end, _ = await loop.create_connection(lambda: Messages(self._take, lambda: self._ended(ended)), sock=ours)
        self._send({"threads": threads, "runtime": settings.runtime, "cache_bytes": settings.cache_mb << 20})
        return ended

    async def add(self, version: Version) -> dict[str, Any]:
        told = {"do": "add", "version": version.id, "folder": str(version.folder), "model": version.model}
        reply = await self.call(told, _LOAD_SECONDS)
        if "error" in reply:
            raise ArtefactError(f"{version.folder}: {reply['message']}")
        return reply["about"]

    async def call(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply to a message. Who stops waiting takes the request back. Raises: WorkerDied, TimeoutError."""
        number = next(self._numbers)
        reply = self.pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({**message, "id": number})
            async with asyncio.timeout(seconds):
                return await reply
        except (TimeoutError, asyncio.CancelledError):
            if message["do"] == "ask":
                with contextlib.suppress(WorkerDied):
                    self._send({"do": "cancel", "of": number})
            raise
        finally:
            self.pending.pop(number, None)

    async def watch(self, stuck_seconds: float) -> None:
        """Kill the process when a batch takes too long, or when it does not even say how long."""
        while True:
            await asyncio.sleep(min(1.0, stuck_seconds / 4))
            try:
                reply = await self.call({"do": "ping"}, stuck_seconds)
            except WorkerDied:
                return
            except TimeoutError:
                reply = {"busy": stuck_seconds + 1}
            if reply["busy"] > stuck_seconds and self.process is not None:
                log.error("a worker is stuck, and is replaced")
                self.process.kill()
                return

    def kill(self) -> None:
        """End the process and take no reply from it any more."""
        self.ready = False
        if self._end is not None:
            self._end.close()
            self._end = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._fail()

    def _send(self, message: dict[str, Any]) -> None:
        if self._end is None or self._end.is_closing():
            raise WorkerDied
        self._end.write(packed(message))

    def _take(self, reply: dict[str, Any]) -> None:
        future = self.pending.get(reply.pop("id"))
        if future is not None and not future.done():
            future.set_result(reply)

    def _ended(self, ended: asyncio.Future[None]) -> None:
        if not ended.done():  # of a process that was replaced meanwhile the end is nobody's business
            ended.set_result(None)
            self.ready = False
            self._fail()

    def _fail(self) -> None:
        for future in self.pending.values():
            if not future.done():
                future.set_exception(WorkerDied())

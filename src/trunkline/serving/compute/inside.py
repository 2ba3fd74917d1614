"""The engine in the server's own process: for a notebook, an example, a test. What kills it kills the server, so `serve` uses pool.py."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trunkline.errors import ArtefactError, TrunklineError
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.pool import Version
from trunkline.serving.compute.queue import Ask
from trunkline.serving.settings import ServeSettings


class Inside:
    """The face of a pool, over one engine and its threads."""

    def __init__(self, settings: ServeSettings) -> None:
        self._engine = Engine(threads=settings.threads or 1, runtime=settings.runtime, cache_bytes=settings.cache_mb << 20)
        self._asking = ThreadPoolExecutor(1, "ask")
        self.restarts = 0

    def is_ready(self) -> bool:
        return True

    async def start(self) -> None:
        """Nothing: the engine runs."""

    async def add(self, version: Version) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(self._engine.load, version.id, version.folder, version.model)
        except TrunklineError as error:
            raise ArtefactError(f"{version.folder}: {error}") from error

    async def remove(self, version: str) -> None:
        await asyncio.to_thread(self._engine.remove, version)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[dict[str, Any]] = loop.create_future()

        def keep(found: dict[str, Any]) -> None:
            if not reply.done():
                reply.set_result(found)

        def done(found: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(keep, found)

        ask = Ask.of(request, done)
        self._asking.submit(self._engine.ask, ask)  # texts become tokens off the event loop
        try:
            async with asyncio.timeout(request["seconds"]):
                return await reply
        finally:
            ask.cancelled = not reply.done() or reply.cancelled()

    async def close(self) -> None:
        await asyncio.to_thread(self._asking.shutdown)
        await asyncio.to_thread(self._engine.close)

"""A worker process: an engine at the other end of a socket pair. Ends when that end closes, so none outlives its server.

python -m trunkline.serving.compute.worker FD      started by pool.py, never by hand
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from trunkline.errors import TrunklineError
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.queue import Ask
from trunkline.serving.compute.wire import packed, receive

log = logging.getLogger("trunkline.serving")


class Worker:
    """Reads messages until the server is gone; replies as answers are ready."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._sending = end, threading.Lock()
        told = receive(end) or {}
        self._engine = Engine(threads=told["threads"], runtime=told["runtime"], cache_bytes=told["cache_bytes"])
        self._asks: dict[int, Ask] = {}

    def run(self) -> None:
        while (message := receive(self._end)) is not None:
            getattr(self, f"_on_{message['do']}")(message)

    def _reply(self, number: int, reply: dict[str, Any]) -> None:
        self._asks.pop(number, None)
        try:
            data = packed({"id": number, **reply})
        except (ValueError, TypeError) as error:  # who asked is told so at once, and does not wait for the deadline
            log.error("a reply cannot be written: %s", type(error).__name__)
            data = packed({"id": number, "error": "internal", "message": "The answer cannot be written as JSON."})
        try:
            with self._sending:
                self._end.sendall(data)
        except OSError:  # the server is gone; so is whoever waited
            os._exit(0)

    def _on_ask(self, told: dict[str, Any]) -> None:
        number = told["id"]
        ask = self._asks[number] = Ask.of(told, partial(self._reply, number))
        self._engine.ask(ask)

    def _on_cancel(self, told: dict[str, Any]) -> None:
        if ask := self._asks.get(told["of"]):
            ask.cancelled = True

    def _on_ping(self, told: dict[str, Any]) -> None:
        self._reply(told["id"], {"busy": self._engine.busy_seconds()})

    def _on_remove(self, told: dict[str, Any]) -> None:
        self._engine.remove(told["version"])
        self._reply(told["id"], {})

    def _on_add(self, told: dict[str, Any]) -> None:
        threading.Thread(target=self._add, args=(told,), daemon=True).start()  # requests go on meanwhile

    def _add(self, told: dict[str, Any]) -> None:
        try:
            self._reply(told["id"], {"about": self._engine.load(told["version"], Path(told["folder"]), told["model"])})
        except TrunklineError as error:
            self._reply(told["id"], {"error": "unusable_branch", "message": str(error)})
        except Exception as error:  # a bad branch ends nothing but its own loading
            log.error("loading failed: %s: %s", type(error).__name__, error)
            self._reply(told["id"], {"error": "unusable_branch", "message": f"could not be loaded ({type(error).__name__})"})


def main() -> None:
    """The process: signals are the server's business, which closes the socket when it is time."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.addaudithook(_stay_inside)
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()
    os._exit(0)  # threads that compute for nobody are not waited for


def _stay_inside(event: str, arguments: tuple[object, ...]) -> None:
    """Bar S16: whatever a model or a text may bring about, no connection is opened from here."""
    if event == "socket.connect":
        raise PermissionError("a server opens no connection. Get the model before, with: trunkline models get NAME")


if __name__ == "__main__":
    main()

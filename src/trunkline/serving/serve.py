"""The verb `serve`: branches answer over HTTP until a signal comes; then what was let in is answered, and the process ends."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

from trunkline import storage
from trunkline.errors import ArtefactError, MissingExtra, OptionError, TrunklineError
from trunkline.serving.settings import ServeSettings

try:
    import uvicorn

    from trunkline.serving.app import app
    from trunkline.serving.compute.pool import Compute, Pool, WorkerDied
    from trunkline.serving.edge.guard import Guard
    from trunkline.serving.edge.keys import Keys
    from trunkline.serving.edge.protocol import protocol
    from trunkline.serving.service import Service
    from trunkline.serving.store import Store
except ImportError as error:
    raise MissingExtra(error.name or "fastapi", "serve", "Serving") from error

log = logging.getLogger("trunkline.serving")
_LINGER = 0.3
"""Seconds after the last answer in which a connection that is still open is told that the server goes, instead of being cut."""


def serve(
    branches: Sequence[str | Path],
    *,
    settings: ServeSettings | None = None,
    model: str | None = None,
    store: Store | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve saved branches over HTTP, each under the name of its folder, until SIGTERM or Ctrl-C.

    model: the backbone, where it is not found under the name it was tuned with; store: where feedback is kept; say: takes the address

    Raises: OptionError, ArtefactError, ModelError before anything is served.
    """
    told = settings or ServeSettings()
    if told.feedback and store is None:
        raise OptionError(
            f"feedback={told.feedback!r}: give the store as well: store=FeedbackStore({told.feedback!r}) of trunkline.feedback.store."
        )
    server = _server(service(branches, told, Pool(told), model, store))
    server.say = say
    server.run_until_stopped()


@contextmanager
def serving(
    branches: Sequence[str | Path],
    settings: ServeSettings | None = None,
    *,
    model: str | None = None,
    store: Store | None = None,
    processes: bool = False,
) -> Iterator[str]:
    """The address of a server that runs in a thread of this process while the block lasts: for notebooks, examples and tests.

    processes: compute in workers, as `serve` does; otherwise in a thread
    """
    told = settings or ServeSettings(port=0)
    compute = Pool(told) if processes else import_module("trunkline.serving.compute.inside").Inside(told)  # imports torch
    made = service(branches, told, compute, model, store)
    server = _server(made)
    thread = threading.Thread(target=server.run, args=([server.end],), daemon=True)
    thread.start()
    try:
        while not made.started:
            if not thread.is_alive():
                raise server.failed or OptionError("The server did not start.")
            time.sleep(0.01)
        yield server.address
    finally:
        server.begin_drain()
        thread.join(told.drain_seconds + 10)


def service(branches: Sequence[str | Path], settings: ServeSettings, compute: Compute, model: str | None, store: Store | None) -> Service:
    """What is served, checked as far as it can be without loading. Raises: OptionError, ArtefactError."""
    if not branches and settings.root is None:
        raise OptionError("no branch: name the folder of one or more: trunkline serve runs/intent runs/sentiment")
    first: dict[str, Path] = {}
    writers: dict[str, Path] = {}
    for folder in map(Path, branches):
        name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")[:64] or "branch"
        if name in first or name in writers:
            raise OptionError(f"{folder}: another branch is called {name!r} too. Rename one of the folders.")
        (writers if _writes(folder) else first)[name] = folder
    return Service(settings, compute, first, writers, store, model)


def listening(settings: ServeSettings) -> socket.socket:
    """A socket that is bound. Raises: OptionError where it cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    end = socket.socket(family, socket.SOCK_STREAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        end.bind((settings.host, settings.port))
    except OSError as error:
        end.close()
        raise OptionError(
            f"port={settings.port}: {settings.host} cannot be listened on ({error.strerror}). Choose another with --port."
        ) from error
    return end


class Server(uvicorn.Server):
    """uvicorn, ended in order: not ready and new requests refused at once, then what was let in is answered, then the process ends with 0."""

    say: Callable[[str], None] = staticmethod(lambda text: None)

    def __init__(self, made: Service, guard: Guard, end: socket.socket) -> None:
        told = made.settings
        super().__init__(
            uvicorn.Config(
                guard,
                http=protocol(told, made.metrics),
                ws="none",
                lifespan="on",
                loop="auto",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=2048,
                timeout_keep_alive=int(told.body_seconds) or 1,
                timeout_graceful_shutdown=1,
            )
        )
        self.failed: TrunklineError | None = None
        self.end = end
        self._made, self._guard = made, guard
        self._drain_began = self._last_busy = 0.0
        host, port = end.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run_until_stopped(self) -> None:
        """Serve. Raises: what kept the branches from being loaded, and nothing was served then."""
        try:
            self.run(sockets=[self.end])
        finally:
            self.end.close()
        if self.failed is not None:
            raise self.failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)  # listening first: /livez answers while branches are loaded, all else is refused
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self._made.start()
        except (TrunklineError, WorkerDied, TimeoutError) as error:
            self.failed = error if isinstance(error, TrunklineError) else ArtefactError("A worker died while it loaded the branches.")
            self.should_exit = True
            return
        self.say(f"Serving {', '.join([*self._made.branches.names, *self._made.writers])} on {self.address}")

    def begin_drain(self) -> None:
        """From now on new requests are refused; the server ends when the others are answered."""
        self._made.draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._made.draining:
            self.should_exit = self.force_exit = True
        self.begin_drain()

    async def on_tick(self, counter: int) -> bool:
        if self._made.draining:
            now = time.monotonic()
            self._drain_began = self._drain_began or now
            self._last_busy = now if self._guard.in_flight or not self._last_busy else self._last_busy
            done = now - self._last_busy > _LINGER
            self.should_exit = self.should_exit or done or now - self._drain_began > self._made.settings.drain_seconds
        return await super().on_tick(counter)


def _server(made: Service) -> Server:
    """The server of a service. It has its port before branches that write are loaded, which takes long."""
    keys = Keys(Path(made.settings.keys)) if made.settings.keys else None
    end = listening(made.settings)
    try:
        return Server(made, app(made, keys), end)
    except BaseException:
        end.close()
        raise


def log_to_stderr() -> None:
    """One JSON line for each request, and a plain one for what goes wrong: to stderr. No text of a user is in any of them."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trunkline.serving").setLevel(logging.INFO)


def _writes(folder: Path) -> bool:
    """Whether a branch writes texts. Raises: ArtefactError for what is no branch."""
    files, _ = storage.read_folder(folder, "branch")
    try:
        about = json.loads(files["branch.json"])
        return about["task"] in ("generate", "seq2seq")
    except (KeyError, ValueError, TypeError) as error:
        raise ArtefactError(f"{folder / 'branch.json'}: not the description of a branch ({error}).") from error

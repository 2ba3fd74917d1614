"""The server's begin and end: ready when all is loaded and not while it goes away, and no start that fails and is waited for."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.conftest import Client
from tests.serving.writers import writer
from trunkline import cli
from trunkline.errors import ArtefactError, OptionError
from trunkline.serving import serve as serve_module
from trunkline.serving.app import app
from trunkline.serving.compute.inside import Inside
from trunkline.serving.compute.pool import WorkerDied
from trunkline.serving.serve import Server, listening, service, serving
from trunkline.serving.settings import ServeSettings

SETTINGS = ServeSettings(port=0, runtime="torch", drain_seconds=5.0, threads=1)


class Held(Inside):
    """Loads when it is let."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.go = threading.Event()

    async def start(self) -> None:
        await asyncio.to_thread(self.go.wait, 60)


class Dies(Inside):
    """Computes in a process that is killed while it loads."""

    def __init__(self, error: Exception) -> None:
        super().__init__(SETTINGS)
        self._error = error

    async def add(self, version):
        raise self._error


def server_of(folder: Path, compute: Inside) -> Server:
    made = service([folder], SETTINGS, compute, None, None)
    return Server(made, app(made), listening(SETTINGS))


def soon(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_ready_when_all_is_loaded_and_not_while_draining(folders: dict[str, Path]):
    """Bar S22."""
    compute = Held()
    server = server_of(folders["mood"], compute)
    thread = threading.Thread(target=server.run_until_stopped, daemon=True)
    thread.start()
    client = Client(server.address)
    soon(lambda: server.started)
    looks = {path: client("GET", path)[0] for path in ("/livez", "/readyz", "/startupz")}
    assert looks == {"/livez": 200, "/readyz": 503, "/startupz": 503}
    assert client.predict("card")[2]["error"]["code"] == "starting"
    compute.go.set()
    soon(lambda: client("GET", "/readyz")[0] == 200)
    assert client.predict("card")[0] == 200
    server._guard.in_flight += 1  # one that is not answered yet
    server.begin_drain()
    assert (client("GET", "/livez")[0], client("GET", "/readyz")[0]) == (200, 503)
    assert client.predict("card")[2]["error"]["code"] == "draining"
    server._guard.in_flight -= 1
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [WorkerDied(), TimeoutError(), ArtefactError("not the description of a branch")])
def test_a_start_that_fails_ends_the_server(folders: dict[str, Path], error: Exception):
    """Whatever kept the branches from being loaded: it is said, and nobody waits for a server that never comes."""
    raised = []

    def run() -> None:
        try:
            server.run_until_stopped()
        except ArtefactError as found:
            raised.append(found)

    server = server_of(folders["mood"], Dies(error))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tiny_folder: Callable[[str], Path], tmp_path: Path):
    folder = writer(tiny_folder("llama")).save(tmp_path / "style")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"port={port}"), serving([folder], replace(SETTINGS, port=port), model="no such model"):
            pass
    with pytest.raises(OptionError, match="no such model"), serving([folder], SETTINGS, model="no such model"):
        pass


def test_the_server_itself_starts_without_torch():
    """Its workers compute: 1 processor second and 50 MB, where torch and transformers take 10 and 430."""
    code = "import sys, trunkline.serving.serve; print({'torch', 'transformers', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(("error", "by", "code"), [(cli._TerminatedError, " by SIGTERM", 143), (KeyboardInterrupt, "", 130)])
def test_a_server_that_is_stopped_speaks_as_a_server(error, by, code, monkeypatch, capsys):
    """A signal before it listens: there is nothing that was finished, and nothing to go on with."""

    def stopped(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(serve_module, "serve", stopped)
    monkeypatch.setattr(serve_module, "log_to_stderr", lambda: None)
    monkeypatch.setattr(sys, "argv", ["trunkline", "serve", "runs/intent"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == code
    assert capsys.readouterr().err.strip() == f"trunkline: stopped{by}. No request is open. The same command starts the server again."

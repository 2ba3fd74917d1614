"""Worker processes: killed, stuck, orphaned. What they were asked is asked again, and no answer is wrong."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
"""A process that computes takes some eight processor seconds to start: torch and transformers are imported."""
TEXTS = tiny.TEXTS


def workers() -> list[psutil.Process]:
    """The worker processes of this process."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that was just killed has no command line any more
            found += [one] if any("compute.worker" in word for word in one.cmdline()) else []
    return found


def asking(client, stop: threading.Event, results: list) -> threading.Thread:
    def run() -> None:
        number = 0
        while not stop.is_set():
            text = TEXTS[number % len(TEXTS)]
            try:
                status, _, found = client.predict(text, branches=["mood"])
                results.append((text, status, found["answers"][0]["mood"]["label"] if status == 200 else found["error"]["code"]))
            except OSError as error:
                results.append((text, 0, type(error).__name__))
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_killed_worker_costs_no_answer(server):
    """Bar S20, once; bench/soak.py does it fifty times."""
    with server("mood", processes=True, deadline=300.0) as client:
        right = {text: client.predict(text)[2]["answers"][0]["mood"]["label"] for text in TEXTS}
        stop, results = threading.Event(), []
        threads = [asking(client, stop, results) for _ in range(2)]
        time.sleep(0.3)
        (first,) = workers()
        os.kill(first.pid, signal.SIGKILL)
        began = time.monotonic()
        while not (client("GET", "/readyz")[0] == 200 and workers() and workers()[0].pid != first.pid):
            time.sleep(0.05)
            assert time.monotonic() - began < 240
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join()
        assert [one for one in results if one[1] != 200] == []
        assert all(label == right[text] for text, _, label in results)
        assert b"trunkline_worker_restarts 1.0" in client("GET", "/metrics")[2]
    assert workers() == []


def test_a_worker_opens_no_connection():
    """Bar S16: the hook that every worker has from its start."""
    code = """
import socket, sys
from trunkline.serving.compute.worker import _stay_inside
listening = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listening.getsockname()).close()
sys.addaudithook(_stay_inside)
for address in (listening.getsockname(), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=1)
    except PermissionError as error:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]


SLOW = """
import signal, sys, time
from trunkline.serving.compute import worker
from trunkline.serving.compute.engine import Engine
plain = Engine._answers
def stuck(self, asks):
    while any(row["text"] == "stuck" for ask in asks for row in ask.rows):
        pass
    return plain(self, asks)
Engine._answers = stuck
worker.main()
"""


def test_a_stuck_worker_is_replaced(server, monkeypatch):
    """Bar S23: an endless loop, planted; the worker is found and replaced, and others are answered."""
    real = subprocess.Popen

    def planted(command, **told):
        command = [sys.executable, "-c", SLOW, command[-1]] if "trunkline.serving.compute.worker" in command else command
        return real(command, **told)

    monkeypatch.setattr(subprocess, "Popen", planted)
    with server("mood", processes=True, stuck_seconds=1.0, deadline=300.0) as client:
        status, headers, found = client.predict("stuck")
        assert (status, found["error"]["code"], headers["retry-after"]) == (503, "worker_died", "1")
        assert client.predict(TEXTS[0])[0] == 200


ORPHAN = """
import sys, time
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings
with serving([sys.argv[1]], ServeSettings(port=0, runtime="torch"), processes=True) as address:
    print(address, flush=True)
    time.sleep(60)
"""


def test_a_killed_server_takes_its_workers_with_it(folders: dict[str, Path]):
    process = subprocess.Popen([sys.executable, "-c", ORPHAN, str(folders["mood"])], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        (worker,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        psutil.wait_procs([worker], timeout=5)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        process.kill()
        process.stdout.close()


def test_sigterm_answers_what_was_let_in(folders: dict[str, Path], tmp_path: Path):
    """Bar S21, once, with the command itself: not ready at once, new requests refused, those let in answered, exit 0."""
    from tests.serving.conftest import Client

    command = [sys.executable, "-m", "trunkline.cli", "serve", str(folders["mood"]), "--port", "0", "--runtime", "torch"]
    log = tmp_path / "log"  # a file: a pipe that nobody reads fills up, and who writes to it waits
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
    try:
        client = Client(process.stdout.readline().split()[-1])
        stop, results = threading.Event(), []
        threads = [asking(client, stop, results) for _ in range(3)]
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        stop.set()
        for thread in threads:
            thread.join()
        codes = {(status, code if status != 200 else "") for _, status, code in results}
        assert (200, "") in codes
        assert codes <= {(200, ""), (503, "draining"), (0, "ConnectionRefusedError"), (0, "ConnectionResetError")}
        lines = log.read_text()
        assert lines.count('"event": "request"') >= sum(status == 200 for _, status, _ in results)
        assert not any(text in lines for text in TEXTS)
    finally:
        process.kill()
        process.stdout.close()

"""Where a feedback store can be: a file, or a PostgreSQL cluster that a test starts for itself in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENTRY = {"branch": "intent", "version": "abc", "row": {"text": "where is my card"}, "answer": "card", "label": "delivery"}


def server_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest, or None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


def why_not() -> str:
    """Why no cluster can be started here, or an empty string."""
    if server_programs() is None:
        return "PostgreSQL's server is not installed (apt-get install postgresql)"
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv to run it as somebody else"
    return ""


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a database on a cluster of its own, on loopback, which ends with the block."""
    programs = server_programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="trunkline-postgresql-"))
    somebody: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(folder, 65534, 65534)
        somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    quiet = {"capture_output": True, "check": True, "cwd": "/"}
    subprocess.run([*somebody, programs / "initdb", "-D", data, "-U", "me", "-A", "trust", "-E", "UTF8", "--no-sync"], **quiet)  # type: ignore[call-overload]
    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c max_connections=30 -c shared_buffers=16MB"
    control = [*somebody, str(programs / "pg_ctl"), "-D", data]
    try:
        log = str(folder / "log")
        subprocess.run([*control, "-w", "-o", options, "-l", log, "start"], stdout=subprocess.DEVNULL, check=True, cwd="/")
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, check=False, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)

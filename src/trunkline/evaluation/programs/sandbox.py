"""Programs that a model wrote, run against their tests in a locked-down process.

`run` starts jail.py in a session, a folder and an environment of its own, without site packages; what holds there is said in
`Outcome.guards`: "rlimits" and "audit hook" everywhere, on Linux where it is allowed also "namespaces" (no network), "landlock" (reads only
Python and libraries, writes only its folder, starts no other program) and "seccomp" (no sockets, no processes). Without any of
these three the network is shut by the audit hook alone, which a program that sets out to can get around: `Outcome.is_contained` is then
False, and generated code should be run on a machine that holds nothing. Nor can it be told from a pass when a program hunts
down the test within its own interpreter. Source: Chen et al. 2021, sections 2.1 and 2.2, for the tests and the stops.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.data.formats import Form, open_table
from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

_JAIL = Path(__file__).with_name("jail.py")
_STOPS = re.compile(r"\n(?=class |def |#|if |print|@|```)")
_SHOWN = 2_000  # characters of what a program printed
_MAX_PROGRAM = 1 << 20  # characters
_POLL, _LOOK = 0.02, 0.2  # seconds between asking whether it has ended, and how large its folder is
_DEPTH = 64  # of folders
_ENTRY = 4096  # bytes that every file or folder counts for, though it be empty


@dataclass(frozen=True)
class Limits:
    """What a program may use. seconds: of the clock, and (rounded up) of the processor; file: of one file, folder: of all it leaves."""

    seconds: float = 10.0
    memory_mb: int = 512
    file_mb: int = 1
    folder_mb: int = 16

    def __post_init__(self) -> None:
        if not (0 < self.seconds <= 3600 and self.memory_mb >= 64 and 0 < self.file_mb <= self.folder_mb):
            raise OptionError(f"{self}: use seconds up to 3600, memory_mb of 64 or more, and file_mb no larger than folder_mb.")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "passed", "failed" (an exception, or an end before the tests'), "timeout", or "error" (it could not be run).

    reason: the exception, or what stopped it; output: the beginning of what it printed; guards: what held it
    """

    status: str
    reason: str
    output: str
    seconds: float
    guards: tuple[str, ...]

    @property
    def is_contained(self) -> bool:
        """Whether the kernel keeps it from the network, and not only the interpreter."""
        return "namespaces" in self.guards or "seccomp" in self.guards


@dataclass(frozen=True)
class CodeProblem:
    """A function to write: `prompt` up to its body, `test` with a function `check(candidate)`, the name of the function, a right body."""

    id: str
    prompt: str
    test: str
    entry_point: str
    solution: str = ""

    def program(self, completion: str) -> str:
        """The prompt gone on with, and its tests."""
        return f"{self.prompt}{completion}\n\n{self.test}\n\ncheck({self.entry_point})\n"


def run(program: str, limits: Limits = Limits()) -> Outcome:
    """Run a program to its end: passed where no exception leaves it. See the top of this file for what holds it.

    >>> run("assert sorted([2, 1]) == [1, 2]").status, run("assert 1 == 2").reason
    ('passed', 'AssertionError')
    """
    if len(program) > _MAX_PROGRAM:
        return Outcome("error", f"the program has {len(program):,} characters; at most {_MAX_PROGRAM:,} are run", "", 0.0, ())
    nonce = secrets.token_hex(16)
    job = {"program": program, "nonce": nonce, "cpu_seconds": math.ceil(limits.seconds)}
    job |= {"memory_bytes": limits.memory_mb << 20, "file_bytes": limits.file_mb << 20}
    folder = tempfile.mkdtemp(prefix="trunkline-")
    with tempfile.TemporaryFile() as printed:
        read, write = os.pipe()
        try:
            started = time.monotonic()
            process = _start(job, folder, printed, write)
            os.close(write)
            stopped = _wait(process, limits, Path(folder))
            seconds = time.monotonic() - started
            answer = _drain(read)
        finally:
            os.close(read)
            _remove(folder)
        printed.seek(0)
        output = printed.read(4 * _SHOWN).decode("utf-8", "replace")[:_SHOWN]
    return _outcome(process.returncode, stopped, answer, nonce, output, seconds)


def check(problem: CodeProblem, completion: str, limits: Limits = Limits()) -> Outcome:
    """Run a completion of a problem against its tests."""
    return run(problem.program(completion), limits)


def read_problems(path: str | os.PathLike[str]) -> list[CodeProblem]:
    """The problems of a file in the form of HumanEval: task_id, prompt, test, entry_point, canonical_solution; one JSON object a line.

    Raises: DataError for a file or a row that cannot be read, all such rows together (up to ten).
    """
    found, bad = [], []
    for record in open_table(path, Form()).records:
        if isinstance(record, Problem):
            bad.append(str(record))
            continue
        line, row = record
        lacking = [name for name in ("task_id", "prompt", "test", "entry_point") if not isinstance(row.get(name), str)]
        if lacking or not str(row["entry_point"]).isidentifier():
            bad.append(f"{path}:{line}: {', '.join(lacking) or 'entry_point'} " + ("is missing" if lacking else "is no name of a function"))
        else:
            found.append(CodeProblem(row["task_id"], row["prompt"], row["test"], row["entry_point"], row.get("canonical_solution") or ""))
    if bad or not found:
        raise DataError("\n".join(bad[:10]) or f"{path}: there is no problem in it. Write one JSON object a line, as HumanEval does.")
    return found


def first_function(completion: str) -> str:
    """A completion up to where it goes on to something else: a new function, class, comment or statement at the left margin.

    >>> first_function("    return a\\n\\n\\ndef other():\\n    pass")
    '    return a\\n\\n'
    """
    return _STOPS.split(completion, maxsplit=1)[0]


def _start(job: dict[str, Any], folder: str, printed: Any, write: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_JAIL), str(write)],
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={},
        pass_fds=(write,),
        start_new_session=True,
    )
    given: Any = process.stdin
    with suppress(BrokenPipeError), given:
        given.write(json.dumps(job).encode())
    return process


def _wait(process: subprocess.Popen[bytes], limits: Limits, folder: Path) -> str | None:
    """Until it ends or has to be stopped; then all of its session is killed. What stopped it, or None."""
    end, look = time.monotonic() + limits.seconds, time.monotonic() + _LOOK
    stopped = None
    try:
        while stopped is None and process.poll() is None:
            time.sleep(_POLL)
            if time.monotonic() > end:
                stopped = f"did not end within {limits.seconds:g} seconds"
            elif time.monotonic() > look:
                look = time.monotonic() + _LOOK
                stopped = f"wrote more than {limits.folder_mb} MB" if _size(folder) > limits.folder_mb << 20 else None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return stopped


def _size(folder: Path) -> float:
    """Bytes on disk below a folder, at least `_ENTRY` for each name; without end where folders lie in each other too deeply to be looked at."""
    size, folders = 0, [(str(folder), 0)]
    while folders:
        path, depth = folders.pop()
        if depth > _DEPTH:
            return math.inf
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                with suppress(OSError):
                    size += max(_ENTRY, entry.stat(follow_symlinks=False).st_blocks * 512)
                    folders += [(entry.path, depth + 1)] if entry.is_dir(follow_symlinks=False) else []
    return size


def _remove(folder: str) -> None:
    """A folder and all in it, also what is nested too deeply for Python."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        subprocess.run(["/bin/rm", "-rf", "--", folder], check=False)


def _drain(read: int) -> str:
    """What is in the pipe; a process that still holds its other end is not waited for."""
    os.set_blocking(read, False)
    pieces = []
    with suppress(BlockingIOError):
        while piece := os.read(read, 1 << 16):
            pieces.append(piece)
    return b"".join(pieces).decode("utf-8", "replace")


def _outcome(code: int, stopped: str | None, answer: str, nonce: str, output: str, seconds: float) -> Outcome:
    lines = answer.splitlines()
    if not lines:
        return Outcome("error", f"the sandbox did not start: {output.strip()[-500:] or f'exit code {code}'}", "", seconds, ())
    guards = tuple(json.loads(lines[0]))
    told = [line.removeprefix(nonce) for line in lines[1:] if line.startswith(nonce)]
    if stopped is not None:
        return Outcome("timeout" if "seconds" in stopped else "failed", stopped, output, seconds, guards)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome("timeout", "used up its processor time", output, seconds, guards)
    if not told:
        why = f"was stopped by {signal.Signals(-code).name}" if code < 0 else "ended before its tests did"
        return Outcome("failed", why, output, seconds, guards)
    passed, reason = json.loads(told[0])
    return Outcome("passed" if passed else "failed", reason, output, seconds, guards)

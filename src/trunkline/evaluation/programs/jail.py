"""Locks a process down and then runs a generated program in it. Started by `sandbox` as a program of its own; imports nothing of ours.

Two steps, so that the second one has never loaded what could undo the first (ctypes):
1. `main`: limits on time, memory, files and processes; namespaces of its own without a network; Landlock (reads only Python and the system's
   libraries, writes only its folder); a seccomp filter. Each where the system allows it. All of them hold over the `exec` that follows.
2. `RUNNER`, a fresh interpreter: an audit hook that forbids sockets, processes and foreign files once more, and then the program.

What holds, it says in the first line of the descriptor it was given; the verdict, if the program comes to its end, is the second line.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import Any

ANSWER, PROGRAM = 3, 4
"""The descriptors that the interpreter of the second step is given beside input and output."""

RUNNER = r"""
import json, os, sys
def _run():
    with os.fdopen(4, "rb") as file:
        job = json.loads(file.read())
    nonce, here = job["nonce"], os.getcwd()
    readable = tuple(os.path.realpath(path) for path in (os.path.dirname(os.__file__), "/dev/null", "/dev/urandom", "/usr/share/zoneinfo"))
    refused = ("socket.", "subprocess.", "ctypes.", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.system", "os.startfile", "os.kill",
               "pty.", "syslog.", "resource.setrlimit", "resource.prlimit", "gc.get_", "sqlite3.", "mmap.", "shutil.", "os.putenv", "os.unsetenv",
               "urllib.", "http.", "ftplib.", "smtplib.", "telnetlib.", "poplib.", "imaplib.", "nntplib.", "signal.pthread_kill")
    names = ("os.chdir", "os.chmod", "os.chown", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir",
             "os.symlink", "os.truncate", "os.utime", "os.walk", "os.chflags", "os.setxattr", "os.removexattr", "os.getxattr", "os.listxattr")
    inside, real, join = (lambda path, roots: any(path == root or path.startswith(root + os.sep) for root in roots)), os.path.realpath, os.path.join
    fspath, fsdecode, text, number = os.fspath, os.fsdecode, (str, bytes, os.PathLike), int
    writing, error = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, PermissionError
    def hook(event, arguments):
        if event.startswith(refused):
            raise error(f"the sandbox does not allow {event}")
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, text):
                place = real(join(here, fsdecode(fspath(path))))
                writes = bool((flags or 0) & writing)
                if not inside(place, (here,)) and (writes or not inside(place, readable)):
                    raise error(f"the sandbox does not allow opening {place!r}")
        elif event in names:
            for path in arguments:
                if isinstance(path, text) and not inside(real(join(here, fsdecode(fspath(path)))), (here, *readable)):
                    raise error(f"the sandbox does not allow {event}")
    sys.addaudithook(hook)
    def tell(passed, reason):
        os_write(3, (nonce + json_dumps([passed, reason[-2000:]]) + "\n").encode("utf-8", "backslashreplace"))
    os_write, json_dumps = os.write, json.dumps
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(compile(job["program"], "program.py", "exec"), space)
    except BaseException as found:
        tell(False, f"{type(found).__name__}: {found}" if str(found) else type(found).__name__)
    else:
        tell(True, "")
    try:
        sys.stdout.flush(); sys.stderr.flush()
    finally:
        os._exit(0)
_run()
"""

_DENIED = {  # what no program under test needs, by processor: socket, socketpair, fork, vfork, ptrace, kill, tkill, process_vm_*, ...
    "x86_64": (0xC000003E, 56, (41, 53, 57, 58, 62, 101, 109, 112, 129, 165, 166, 200, 248, 249, 250, 272, 297, 298, 308, 310, 311, 321, 322, 323,
                                424, 425, 428, 429, 430, 431, 432, 434, 438, 442)),
    "aarch64": (0xC00000B7, 220, (198, 199, 117, 129, 130, 138, 154, 157, 40, 39, 97, 268, 270, 271, 217, 218, 219, 240, 241, 280, 281, 282,
                                  424, 425, 428, 429, 430, 431, 432, 434, 438, 442)),
}  # fmt: skip
_CLONE3 = 435
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _SECCOMP = 38, 22
_READ, _WRITE_FOLDER, _EXECUTE = 0b1100, 0b0111_1111_1111_1110, 0b1
_OF_FILES = 0b1100_0000_0000_0111


def main() -> None:
    """Read a job from standard input, shut this process in, and run it."""
    job = json.load(sys.stdin)
    folder = str(Path.cwd())
    _hand_over(job)
    guards = ["rlimits"]
    _limit(job)
    if sys.platform == "linux":
        guards += _linux(folder)
    _limit_processes()
    os.write(ANSWER, (json.dumps([*guards, "audit hook"]) + "\n").encode())
    os.execve(os.path.realpath(sys.executable), [sys.executable, "-I", "-S", "-B", "-c", RUNNER], {})


def _hand_over(job: dict[str, Any]) -> None:
    """The program in a file without a name, and an input that is empty."""
    if hasattr(os, "memfd_create"):
        held = os.memfd_create("program")
    else:
        held = os.open("program", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        Path("program").unlink()
    with os.fdopen(os.dup(held), "wb") as file:
        file.write(json.dumps({"program": job["program"], "nonce": job["nonce"]}).encode())
    os.lseek(held, 0, os.SEEK_SET)
    above = [fcntl.fcntl(one, fcntl.F_DUPFD, 16) for one in (int(sys.argv[1]), held)]  # so that neither lies where the other goes
    for one, place in zip(above, (ANSWER, PROGRAM)):
        os.dup2(one, place, inheritable=True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(PROGRAM + 1, 64)


def _limit(job: dict[str, Any]) -> None:
    wanted = {
        resource.RLIMIT_CPU: job["cpu_seconds"],
        resource.RLIMIT_FSIZE: job["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_AS: job["memory_bytes"],
    }
    for name, value in wanted.items():
        try:
            resource.setrlimit(name, (value, value))
        except (ValueError, OSError):  # macOS knows no limit of memory
            if name != resource.RLIMIT_AS:
                raise


def _limit_processes() -> None:
    """No further process of this user may start from here. (Root is not bound by it: there seccomp is what forbids it.)"""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _linux(folder: str) -> list[str]:
    """What the kernel can forbid for good, as far as it is allowed here; the names of what was done."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    held = []
    if library.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0:
        held.append("namespaces")
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return held
    if _landlock(ctypes, library, folder):
        held.append("landlock")
    if _seccomp(ctypes, library):
        held.append("seccomp")
    return held


def _landlock(ctypes: Any, library: Any, folder: str) -> bool:
    """Only Python and system libraries can be read, only the folder written, only the interpreter started, no TCP."""
    version = library.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    rules = struct.pack("=QQQ", handled, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = library.syscall(444, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    libraries = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")
    wanted = {Path(path): _READ for path in (*libraries, Path(os.__file__).parent, Path(sys.base_prefix, "lib"))}
    started = (sys.executable, "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")  # the interpreter, and what loads it
    wanted |= {Path(path).resolve(): _READ | _EXECUTE for path in started}
    wanted |= {Path(folder): _READ | _WRITE_FOLDER, Path("/dev/null"): _READ | 0b10}
    for path, access in wanted.items():
        if not path.exists():
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access &= handled if path.is_dir() else handled & _OF_FILES
        rule = struct.pack("=Qi", access, place)
        if library.syscall(445, ruleset, 1, rule, 0) != 0:
            return False
        os.close(place)
    done: bool = library.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _seccomp(ctypes: Any, library: Any) -> bool:
    """Sockets, new processes (threads may start), signals to others, namespaces, mounts and debugging answer "not permitted"."""
    known = _DENIED.get(platform.machine())
    if known is None:
        return False
    arch, clone, denied = known
    load, equal, at_least, has_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse = 9 + len(denied)  # the places of the last three instructions
    missing, allow = refuse + 1, refuse + 2
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, 0x80000000), (load, 0, 0, 0), (at_least, refuse - 5, 0, 0x40000000)]
    code += [(equal, refuse - at - 1, 0, number) for at, number in enumerate(denied, len(code))]
    code += [(equal, missing - len(code) - 1, 0, _CLONE3)]
    code += [(equal, 0, allow - len(code) - 1, clone), (load, 0, 0, 16)]
    code += [(has_bit, allow - len(code) - 1, 0, 0x10000), (give, 0, 0, 0x00050001), (give, 0, 0, 0x00050026), (give, 0, 0, 0x7FFF0000)]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(raw))
    done: bool = library.prctl(_SECCOMP, 2, program, 0, 0) == 0
    return done


if __name__ == "__main__":
    main()

"""Programs that a model wrote: right, wrong, endless, greedy and hostile; HumanEval's own solutions."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from trunkline.errors import DataError, OptionError
from trunkline.evaluation.programs import sandbox
from trunkline.evaluation.programs.sandbox import CodeProblem, Limits, check, first_function, read_problems, run

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
QUICK = Limits(seconds=20)  # of the clock, on a machine that is busy with other things
SHORT = Limits(seconds=1.5)
WITHOUT_HOOK = """
import sys
def _open_the_gate():
    hook = sys._getframe(2).f_locals["hook"]
    for cell in hook.__closure__:
        if isinstance(cell.cell_contents, tuple):
            cell.cell_contents = ("\\0",) if isinstance(cell.cell_contents[0], str) else ()
_open_the_gate()
"""
"""Takes the audit hook out of action, as a program may that knows of it: what holds then is the kernel."""


@pytest.fixture(scope="module")
def guards():
    return run("pass", QUICK).guards


def kernel(guards, *needed):
    lacking = [name for name in needed if name not in guards]
    if lacking:
        pytest.skip(f"this system does not offer {', '.join(lacking)}")


def test_a_right_program_passes() -> None:
    found = run("import math, json, re, collections\nprint('hello')\nassert math.isqrt(9) == 3", QUICK)
    assert (found.status, found.reason, found.output) == ("passed", "", "hello\n")
    assert {"rlimits", "audit hook"} <= set(found.guards)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("import os; os._exit(0)", "ended before its tests did"),
        ("import os; os.abort()", "was stopped by SIGABRT"),
        ("input('a number?')", "EOFError"),
        ("import numpy", "ModuleNotFoundError"),
        ("import trunkline", "ModuleNotFoundError"),
        ("raise ValueError('\\ud800')", "ValueError"),
        ("import faulthandler; faulthandler._sigsegv()", "was stopped by SIGSEGV"),
    ],
)
def test_a_wrong_program_fails_with_its_reason(program, reason) -> None:
    found = run(program, QUICK)
    assert found.status == "failed"
    assert found.reason.startswith(reason)


def test_a_verdict_cannot_be_written_without_knowing_the_word() -> None:
    found = run("import os; os.write(3, b'0' * 32 + b'[true, \"\"]\\n'); os._exit(0)", QUICK)
    assert found.status == "failed"


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(60)", "import threading\nwhile True: threading.Event().wait(1)", "10 ** 10 ** 9"],
)
def test_a_program_that_does_not_end_is_stopped(program) -> None:
    before = time.monotonic()
    found = run(program, SHORT)
    assert found.status == "timeout"
    assert time.monotonic() - before < 8


def test_the_processor_is_limited_too(guards) -> None:
    found = run("while True: pass", Limits(seconds=1))
    assert found.status == "timeout"


def test_memory_is_limited(guards) -> None:
    if sys.platform != "linux":
        pytest.skip("this system does not limit memory")
    found = run("x = bytearray(10 ** 9)", QUICK)
    assert (found.status, found.reason) == ("failed", "MemoryError")
    assert run("x = []\nwhile True: x.append(bytearray(10 ** 6))", QUICK).reason == "MemoryError"
    assert run("x = bytearray(10 ** 8)", QUICK).status == "passed"


def test_output_is_cut_and_limited() -> None:
    found = run("print('x' * 10_000)", QUICK)
    assert (found.status, found.output) == ("passed", "x" * 2000)
    flood = run("while True: print('x' * 10_000)", QUICK)
    assert flood.status == "failed"
    assert "OSError" in flood.reason
    assert run(r"import sys; sys.stdout.buffer.write(b'\xff\n')", QUICK).output == "\ufffd\n"


def test_its_folder_is_empty_and_its_own_and_gone_afterwards() -> None:
    found = run(
        "import os\nassert os.listdir() == []\nopen('a', 'w').write('x')\nassert open('a').read() == 'x'\nprint(os.getcwd())", QUICK
    )
    assert found.status == "passed"
    assert not Path(found.output.strip()).exists()


def test_files_are_limited() -> None:
    one = run("f = open('a', 'wb')\nfor _ in range(100): f.write(b'x' * 100_000); f.flush()", QUICK)
    assert "OSError" in one.reason
    many = run("for n in range(100):\n    open(str(n), 'wb').write(b'x' * 1_000_000)\nimport time; time.sleep(60)", Limits(seconds=60))
    assert (many.status, many.reason) == ("failed", "wrote more than 16 MB")


@pytest.mark.parametrize("body", ["os.mkdir('a'); os.chdir('a')", "open(str(n), 'w').close()"])
def test_folders_nested_deeply_and_empty_files_are_limited_and_removed(body) -> None:
    before = set(Path(tempfile.gettempdir()).glob("trunkline-*"))
    found = run(f"import os\nfor n in range(30_000):\n    {body}\nimport time; time.sleep(60)", Limits(seconds=60))
    assert (found.status, found.reason) == ("failed", "wrote more than 16 MB")
    assert set(Path(tempfile.gettempdir()).glob("trunkline-*")) <= before


def test_the_environment_is_empty(monkeypatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    found = run("import os; print(sorted(os.environ))", QUICK)
    assert "SECRET" not in found.output
    assert eval(found.output, {}) in ([], ["LC_CTYPE"])


HOSTILE = {
    "socket": "import socket; socket.create_connection(('127.0.0.1', 1))",
    "lookup": "import socket; socket.getaddrinfo('localhost', 80)",
    "read": "open('/etc/passwd').read()",
    "write": "open('/tmp/trunkline-was-here', 'w')",
    "parent": "open('../was-here', 'w')",
    "list": "import os; os.listdir('/root')",
    "remove": "import os; os.remove('/etc/hostname')",
    "link": "import os; os.symlink('/etc/passwd', 'p'); open('p').read()",
    "fork": "import os; os.fork()",
    "shell": "import os; assert os.system('true') != 0; raise PermissionError",
    "process": "import subprocess; subprocess.run(['/bin/true'])",
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "spawn": "import multiprocessing; p = multiprocessing.get_context('fork').Process(target=print); p.start()",
    "kill": "import os; os.kill(os.getppid(), 9)",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
}
"""Each is stopped with an OSError: by the audit hook; and, `limits` and what only asks for names apart, by the kernel without it."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(name) -> None:
    found = run(HOSTILE[name], QUICK)
    assert found.status == "failed"
    assert found.reason.startswith(("PermissionError", "OSError", "ValueError"))
    assert not Path("/tmp/trunkline-was-here").exists()


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"lookup"}))
def test_the_kernel_contains_them_without_the_hook(guards, name) -> None:
    kernel(guards, "seccomp", "landlock")
    assert run(WITHOUT_HOOK + "import ctypes; ctypes.CDLL(None)", QUICK).status == "passed"  # the gate is open
    found = run(WITHOUT_HOOK + HOSTILE[name], QUICK)
    assert found.status == "failed", found
    assert found.reason.startswith(("PermissionError", "ValueError: not allowed to raise maximum limit")), found
    assert not Path("/tmp/trunkline-was-here").exists()


def test_the_kernel_denies_what_c_code_asks_for(guards) -> None:
    kernel(guards, "seccomp", "landlock")
    program = """
import ctypes, os
library = ctypes.CDLL(None, use_errno=True)
for call, arguments in (("socket", (2, 1, 0)), ("fork", ()), ("unshare", (0x10000000,)), ("kill", (os.getppid(), 0)), ("ptrace", (16, 1, 0, 0)),
                        ("open", (b"/etc/passwd", 0)), ("mount", (b"none", b"/", b"tmpfs", 0, None))):
    assert getattr(library, call)(*arguments) == -1, call
    assert ctypes.get_errno() in (1, 13), (call, ctypes.get_errno())
"""
    assert run(WITHOUT_HOOK + program, QUICK).reason == ""


def test_a_network_of_its_own_has_no_way_out(guards) -> None:
    kernel(guards, "namespaces")
    before, after = Path("/proc/self/ns/net").readlink(), run(WITHOUT_HOOK + "import os; print(os.readlink('/proc/self/ns/net'))", QUICK)
    assert after.output.strip() != str(before)
    assert run("pass", QUICK).is_contained


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"limits"}))
def test_where_the_kernel_offers_nothing_the_hook_holds_and_it_is_said(tmp_path, monkeypatch, name) -> None:
    code = sandbox._JAIL.read_text(encoding="utf-8")
    assert 'if sys.platform == "linux":' in code
    other = tmp_path / "jail.py"
    other.write_text(code.replace('if sys.platform == "linux":', "if False:"), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_JAIL", other)
    found = run(HOSTILE[name], QUICK)
    assert found.guards == ("rlimits", "audit hook")
    assert not found.is_contained
    assert found.status == "failed"
    assert found.reason.startswith("PermissionError: the sandbox does not allow")


def test_threads_may_run(guards) -> None:
    program = "import threading\nt = threading.Thread(target=print, args=('in a thread',))\nt.start(); t.join()"
    found = run(program, QUICK)
    assert found.status == "passed" or "can't start new thread" in found.reason  # RLIMIT_NPROC counts threads of other users than root


def test_a_program_too_long_is_not_run() -> None:
    assert run("#" * (1 << 21), QUICK).status == "error"


@pytest.mark.parametrize("options", [{"seconds": 0}, {"memory_mb": 1}, {"file_mb": 32}, {"seconds": 1e9}])
def test_limits_out_of_range(options) -> None:
    with pytest.raises(OptionError, match="use seconds up to 3600"):
        Limits(**options)


def test_a_problem_with_right_and_wrong_bodies() -> None:
    problem = CodeProblem("t/0", "def add(a, b):\n", "def check(f):\n    assert f(1, 2) == 3", "add")
    assert check(problem, "    return a + b", QUICK).status == "passed"
    assert check(problem, "    return a - b", QUICK).reason == "AssertionError"
    assert check(problem, "  return a +", QUICK).reason.startswith("SyntaxError")


def test_a_completion_ends_where_something_else_begins() -> None:
    body = "    if a:\n        return 1\n    return 2\n"
    for more in ("\nclass A:\n    pass", "\ndef g():\n    pass", "\n# so", "\nprint(1)", "\nif __name__", "\n```\nHere"):
        assert first_function(body + more).rstrip() == body.rstrip()
    assert first_function(body) == body


def test_problems_that_cannot_be_read(tmp_path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"task_id": "a"}\nnot json\n{"task_id": "a", "prompt": "", "test": "", "entry_point": "f("}\n')
    with pytest.raises(DataError, match=r"(?s):1: prompt, test, entry_point is missing.*:2: is not JSON.*:3: entry_point is no name"):
        read_problems(path)


@pytest.mark.real
def test_ten_problems_of_humaneval() -> None:
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    problems = read_problems(path)
    assert len(problems) == 164
    for problem in problems[:10]:
        assert check(problem, problem.solution, QUICK).status == "passed"
        assert check(problem, "    return None\n", QUICK).status == "failed"
        assert check(problem, problem.solution.replace("return", "return not", 1), QUICK).status == "failed", problem.id


@pytest.mark.real
def test_the_example_of_humaneval() -> None:
    folder = DATA / "humaneval"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    (problem,) = read_problems(folder / "example_problem.jsonl")
    samples = [json.loads(line)["completion"] for line in (folder / "example_samples.jsonl").read_text().splitlines()]
    found = [check(problem, sample, Limits(seconds=8)).status for sample in samples]
    assert found == ["failed", "timeout", "failed", "passed", "passed", "passed"]

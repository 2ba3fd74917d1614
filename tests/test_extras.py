"""Without an optional package a command says in one line which extra brings it: what somebody sees who installed the package alone."""

import subprocess
import sys

import pytest

COMMANDS = [
    ("ftfy", "corpus", ["clean", "FILE", "--out", "OUT"]),
    ("py3langid", "corpus", ["clean", "FILE", "--out", "OUT"]),
    ("uvicorn", "serve", ["serve", "runs/none"]),
    ("fastapi", "serve", ["serve", "runs/none"]),
    ("prometheus_client", "serve", ["serve", "runs/none"]),
    ("sqlalchemy", "feedback", ["feedback", "stats", "FILE"]),
    ("sqlalchemy", "feedback", ["serve", "runs/none", "--feedback", "FILE"]),
]


@pytest.mark.parametrize(("package", "extra", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_what_is_missing_is_one_line(package, extra, words, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("A line of text.\n")
    words = [{"FILE": str(file), "OUT": str(tmp_path / "out")}.get(word, word) for word in words]
    code = f"import sys\nsys.modules[{package!r}] = None\nsys.argv[1:] = {words!r}\nfrom trunkline import cli\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.strip().splitlines()
    assert len(said) == 1, done.stderr
    assert f"needs the package '{package}', which is not installed. Run: pip install 'trunkline[{extra}]'" in said[0]

"""The hub clients, against a small hub of our own on this machine: what is asked for, what is kept, what is said when there is none."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trunkline import storage
from trunkline.errors import MissingExtra
from trunkline.model import hubs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOCATE = "import sys; from trunkline.model import sources; print(sources.locate(sys.argv[1]))"
FETCH = "import sys; from trunkline.model import hubs; print(hubs.from_hugging_face(sys.argv[1]))"


class Hub:
    """One repository, owner/name, served from a folder; `asked` lists the files that were fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        hub = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's own name)
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.split("?")[0]
        names = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        data, tag = b"{}", "none"
        if path.startswith("/api/models/owner/name/revision/"):
            data = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}).encode()
        elif path.startswith("/api/models/owner/name/tree/"):
            sizes = [{"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": "0" * 40} for n in names]
            data = json.dumps(sizes).encode()
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/") and (name := path.split(COMMIT + "/")[1]) in names:
            data = (self.folder / name).read_bytes()
            tag = storage.sha256(data)
            if with_body:
                self.asked.append(name)
        else:
            request.send_error(404)
            return
        request.send_response(200)
        for key, value in {"Content-Length": str(len(data)), "ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}.items():
            request.send_header(key, value)
        request.end_headers()
        if with_body:
            request.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Iterator[Hub]:
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "repository"))
    for name in (
        "pytorch_model.bin",
        "modeling_evil.py",
        "README.md",
        "onnx/model.onnx",
        "onnx/config.json",
        "adapter_config.json",
        "spiece.model",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    made = Hub(folder)
    yield made
    made.server.shutdown()
    made.server.server_close()


def run(code: str, name: str, home: Path, endpoint: str, *, offline: bool = False) -> subprocess.CompletedProcess:
    """A call in a process of its own: the hub's client reads its settings once, at import."""
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", code, name], env={**os.environ, **settings}, capture_output=True, text=True, check=False)


@pytest.mark.wide
def test_only_what_may_be_loaded_is_fetched_and_then_found_offline(hub: Hub, tmp_path: Path) -> None:
    done = run(FETCH, "owner/name", tmp_path / "home", hub.url)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = Path(done.stdout.strip())
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(hub.asked)
    assert not [name for name in hub.asked if not name.endswith((".safetensors", ".json", ".txt")) or "/" in name or "adapter" in name]
    assert sorted(p.name for p in folder.iterdir()) == sorted(hub.asked)
    hub.server.shutdown()
    again = run(LOCATE, "owner/name", tmp_path / "home", "http://127.0.0.1:9", offline=True)
    assert again.stdout.strip() == str(folder), again.stderr[-2000:]


def test_offline_says_what_works_instead(tmp_path: Path) -> None:
    done = run(LOCATE, "owner/name", tmp_path / "home", "http://127.0.0.1:9", offline=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "ModelError: hf:owner/name: cannot be had: the hub is switched off by HF_HUB_OFFLINE" in last
    assert "a folder" in last
    assert "trunkline models" in last


def test_not_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    done = run(LOCATE, "hf:owner/other", tmp_path / "home", hub.url)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("trunkline.errors.ModelError: hf:owner/other: cannot be had")
    assert "HF_ENDPOINT" in last


def test_modelscope_is_an_extra() -> None:
    if "modelscope" in sys.modules or shutil.which("modelscope"):
        pytest.skip("modelscope is installed")
    with pytest.raises(MissingExtra, match=r"trunkline\[hub\]"):
        hubs.from_modelscope("owner/name")

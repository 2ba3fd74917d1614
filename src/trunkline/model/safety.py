"""What may be loaded: the gate that every model folder passes, whoever made it.

Allowed are safetensors, JSON and vocabulary text; there is no second, looser way in. A folder that Trunkline made is also
compared with the sums in its manifest. Neighbours: configs.py checks the settings, weights.py the tensors' headers.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.errors import ArtefactError, ModelError, OptionError
from trunkline.model import configs, weights

KIND = "backbone"
TOKENIZER = "tokenizer.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_READ = {".safetensors", ".json"}
_READ_TEXT = {"vocab.txt", "merges.txt", "bpe.codes", "added_tokens.txt"}
# Never opened, but found beside the good files of nearly every public model
_IDLE = {".md", ".jinja", ".gitattributes", ".gitignore", ".pdf", ".png", ".svg", ".jpg", ".yaml", ".yml", ".lock", ".metadata"}
_IDLE_NAMES = {"license", "license.txt", "notice", "notice.txt", "licence", "use_policy.txt", "readme.txt"}
_OTHER_WEIGHTS = {".bin", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".model", ".tflite"}
_SOFTWARE = {".py", ".pyc", ".so", ".dll", ".dylib", ".pyd", ".sh", ".exe"}
_MAX_FILES = 10_000


def check_name(name: str) -> str:
    """A name under which something is kept in the cache, as given. Raises: OptionError unless it is plain.

    >>> check_name("e5-small")
    'e5-small'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise OptionError(f"name={str(name)[:80]!r}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or digit first and no '..'.")
    return name


def verify(folder: Path) -> None:
    """Refuse a model folder that is damaged or not safe to load: `check`, and for a folder of ours the sum of every file.

    Raises: ArtefactError for a file that is not what the manifest says; ModelError for anything that is not allowed.
    """
    if (folder / storage.MANIFEST).exists():
        _check_sums(folder)
    check(folder)


def check(folder: Path) -> None:
    """Refuse a model folder that is not safe to load. Reads settings and headers, not the weights, so it takes milliseconds.

    Raises: ModelError that says which file, why, and what to do.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: is not a folder. Give the folder that save_pretrained() wrote, or a name from `trunkline models`.")
    _check_files(folder)
    for name, check_one in configs.CHECKS.items():
        if name == configs.CONFIG or (folder / name).exists():
            check_one(folder / name)
    for path in weights.weight_files(folder):
        weights.check_safetensors(path)
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{folder}: no {TOKENIZER}. Only fast tokenizers are read. "
            "Where the model came from, run AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) and copy it again."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's `config.json`, after all its checks."""
    return configs.check_config(folder / configs.CONFIG)


def _check_sums(folder: Path) -> None:
    """Every file is what the manifest says, none is missing, none is new. Read in pieces, so weights never fill the memory."""
    manifest = storage.read_manifest(folder, KIND)
    present = {path.name for path in folder.iterdir()} - {storage.MANIFEST}
    odd = sorted(present ^ set(manifest["files"]))
    if odd:
        raise ArtefactError(f"{folder}: {', '.join(odd[:5])}: on disk or in {storage.MANIFEST}, but not in both. {_again(manifest)}")
    for name, sums in manifest["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtefactError(f"{path}: is a link or not a plain file. {_again(manifest)}")
        if path.stat().st_size != sums["bytes"] or storage.sha256_file(path) != sums["sha256"]:
            raise ArtefactError(f"{path}: its content is not what {storage.MANIFEST} says (SHA-256 differs). {_again(manifest)}")


def _again(manifest: dict[str, Any]) -> str:
    return f"Get the model again: trunkline models get {manifest.get('name', 'NAME')}"


def _check_files(folder: Path) -> None:
    inner = (path.relative_to(folder) for path in folder.rglob("*"))
    for count, place in enumerate(place for place in inner if place.parts[0] not in (".git", ".cache")):
        if count >= _MAX_FILES:
            raise ModelError(f"{folder}: more than {_MAX_FILES:,} files. Give the folder of one model.")
        path = folder / place
        if path.suffix.lower() in _SOFTWARE:
            raise ModelError(f"{path}: is software, and none is run from a model. {configs.ADVICE} Or copy its folder without this file.")
        if len(place.parts) == 1 and not path.is_dir():
            _check_file(folder, path)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: holds a PEFT adapter, not a whole model. Merge it first: merge_and_unload().save_pretrained(NEW_FOLDER)."
        )


def _check_file(folder: Path, path: Path) -> None:
    name, suffix = path.name.lower(), path.suffix.lower()
    known = suffix in _READ | _IDLE | _OTHER_WEIGHTS or name in _READ_TEXT | _IDLE_NAMES | _IDLE
    if not known:
        raise ModelError(
            f"{path}: this kind of file is not known. Allowed: safetensors, JSON, vocabulary text. Copy the folder without it."
        )
    if path.is_symlink() and path.resolve().parent != folder.resolve().parent.parent / "blobs":
        # A hub's cache links each file to a blob of the same model; any other link could lead anywhere
        raise ModelError(f"{path}: is a link to {path.readlink()}. Copy the file itself into the folder.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelError(f"{path}: is not a plain file. Copy the folder without it.")

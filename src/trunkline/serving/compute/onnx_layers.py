"""Encoder layers as an ONNX Runtime session: the same numbers as torch up to rounding, several times as fast on one short text.

The graph is written here, from the weights of `transformers` layers: tracing them takes seconds a start, and a branch that is added while
serving has to be fast at once. It is used only after its states were compared with torch's (engine.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from trunkline.errors import MissingExtra

try:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError:  # said by `session`, where it is needed
    onnxruntime = None

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Model types whose layers have the form and the names of BERT's."""
_MICROSOFT = "com.microsoft"
_PLAIN = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.ModuleList)


def fits(config: Any, layers: Sequence[nn.Module]) -> bool:
    """Whether these layers can be written: BERT's form, exact GELU, and nothing added to them."""
    if onnxruntime is None or config.model_type not in FAMILIES or config.hidden_act != "gelu" or not len(layers):
        return False
    if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        return False
    leaves = [module for layer in layers for module in layer.modules() if next(iter(module.parameters(recurse=False)), None) is not None]
    return all(type(leaf) in _PLAIN for leaf in leaves) and all(set(_weights(layer)) == _NAMES for layer in layers)


class Layers:
    """hidden (S, T, D) float32, mask (S, T) bool -> (S, T, D): what the layers make of it. Runs without torch's threads."""

    def __init__(self, config: Any, layers: Sequence[nn.Module], threads: int) -> None:
        if onnxruntime is None:
            raise MissingExtra("onnxruntime", "serve", "ONNX Runtime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads make a busy machine slow
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_graph(config, layers), options, providers=["CPUExecutionProvider"])

    def __call__(self, hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"hidden": hidden, "mask": mask.astype(np.int32)})[0]


_NAMES = {
    f"{part}.{kind}"
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    for kind in ("weight", "bias")
}


def _weights(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def _graph(config: Any, layers: Sequence[nn.Module]) -> bytes:
    """An ONNX model with ONNX Runtime's fused nodes: six a layer."""
    width = config.hidden_size
    nodes: list[Any] = []
    constants: list[Any] = []
    at = "hidden"
    for number, layer in enumerate(layers):
        at = _layer(nodes, constants, number, at, {name: one.float().numpy() for name, one in _weights(layer).items()}, config)
    graph = helper.make_graph(
        nodes,
        "layers",
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["S", "T", width]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, ["S", "T"]),
        ],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, ["S", "T", width])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _layer(nodes: list[Any], constants: list[Any], number: int, at: str, weights: dict[str, np.ndarray], config: Any) -> str:
    """Adds one layer that reads the value named `at`; the name of what it gives."""

    def put(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{number}.{name}"))
        return f"{number}.{name}"

    def node(kind: str, inputs: list[str], name: str, domain: str = _MICROSOFT, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{number}.{name}"], domain=domain, **attributes))
        return f"{number}.{name}"

    def linear(name: str) -> str:
        return put(f"{name}.weight", weights[f"{name}.weight"].T)

    three = [f"attention.self.{name}" for name in ("query", "key", "value")]
    packed = put("packed.weight", np.concatenate([weights[f"{name}.weight"] for name in three]).T)
    bias = put("packed.bias", np.concatenate([weights[f"{name}.bias"] for name in three]))
    attended = node("Attention", [at, packed, bias, "mask"], "attended", num_heads=config.num_attention_heads)
    mixed = node("MatMul", [attended, linear("attention.output.dense")], "mixed", domain="")
    middle = _added(node, put, weights, mixed, at, "attention.output", config)
    wide = node("MatMul", [middle, linear("intermediate.dense")], "wide", domain="")
    turned = node("BiasGelu", [wide, put("intermediate.dense.bias", weights["intermediate.dense.bias"])], "turned")
    narrow = node("MatMul", [turned, linear("output.dense")], "narrow", domain="")
    return _added(node, put, weights, narrow, middle, "output", config)


def _added(node: Any, put: Any, weights: dict[str, np.ndarray], new: str, old: str, part: str, config: Any) -> str:
    """LayerNorm(new + bias + old)."""
    names = (f"{part}.LayerNorm.weight", f"{part}.LayerNorm.bias", f"{part}.dense.bias")
    given = [put(name, weights[name]) for name in names]
    return node("SkipLayerNormalization", [new, old, *given], f"{part}.normed", epsilon=float(config.layer_norm_eps))

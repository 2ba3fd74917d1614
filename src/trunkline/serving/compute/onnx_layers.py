"""Encoder layers as an ONNX Runtime session: the same numbers as torch up to rounding, several times as fast on one short text.

The graph is written here, from the weights of `transformers` layers: tracing them takes seconds a start, and a branch that is added while
serving has to be fast at once. It is used only after its states were compared with torch's (load.py).

In int8 the products are those of `precision.Int8Linear`: the same integers of the weights with a scale for each output, and for each token
its own scale. ONNX Runtime's own DynamicQuantizeLinear has one scale for a whole batch, so that an answer would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from trunkline.errors import MissingExtra
from trunkline.model.heads.pooling import PooledHead
from trunkline.model.precision import Int8Linear, processor_has

try:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError:  # said by `session`, where it is needed
    onnxruntime = None

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Model types whose layers have the form and the names of BERT's."""
UNSIGNED = not processor_has("avx512_vnni", "avx_vnni")
"""Where no instruction multiplies int8 and adds to int32 at once, ONNX Runtime's product of unsigned by signed numbers rounds sums to 16 bits on
the way; that of two unsigned ones is exact."""
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


def fits_head(head: nn.Module) -> bool:
    """Whether a head can be written behind the layers: one linear layer on the first state, or the mean of all."""
    return type(head) is PooledHead and head.pooling.kind in ("mean", "first")


def embedded(stack: Any, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
    """What enters the first layer of a stack of these families: (S, T, D) float32 of ids (S, T) and types (S, T), or None where all are 0."""
    found = stack.embeddings(input_ids=ids, token_type_ids=types)
    project = getattr(stack, "embeddings_project", None)
    return found if project is None else project(found)


class Embeddings:
    """ids (S, T) and types (S, T) or None -> (S, T, D) float32, to be normed by `norm`: what enters the first layer, over the library's tensors.

    Its own module takes over a short text a tenth of the time of a layer.
    """

    def __init__(self, module: Any) -> None:
        self.norm: nn.Module = module.LayerNorm
        tables = (module.word_embeddings, module.token_type_embeddings, module.position_embeddings)
        self._words, self._types, self._positions = (table.weight.detach().numpy() for table in tables)
        self._pad: int | None = getattr(module, "padding_idx", None)  # where there is one, positions are counted from behind it

    @classmethod
    def of(cls, stack: Any) -> Embeddings | None:
        """Those of a stack of these families in float32; None where they are of another form."""
        module = stack.embeddings
        known = {name for name, _ in module.named_children()} == _EMBEDDINGS and not hasattr(stack, "embeddings_project")
        return cls(module) if known and all(one.dtype == torch.float32 for one in module.parameters()) else None

    def __call__(self, ids: np.ndarray, types: np.ndarray | None) -> np.ndarray:
        found = self._words[ids]
        found += self._types[0 if types is None else types]
        if self._pad is None:
            found += self._positions[: ids.shape[1]]
        else:
            real = ids != self._pad
            found += self._positions[np.cumsum(real, 1) * real + self._pad]
        return found


class Layers:
    """hidden (S, T, D) float32, mask (S, T) bool -> [(S, T, D)], what the layers make of it; and where there is a head its logits (S, K).

    norm: runs before the layers; head: read by `fits_head`. Runs without torch's threads, in int8 in the thread that asks and no other: each of its
    products is done before another thread has begun.
    """

    def __init__(
        self,
        config: Any,
        layers: Sequence[nn.Module],
        threads: int,
        precision: str = "float32",
        *,
        norm: nn.Module | None = None,
        head: PooledHead | None = None,
    ) -> None:
        if onnxruntime is None:
            raise MissingExtra("onnxruntime", "serve", "ONNX Runtime")
        self.threads = 1 if precision == "int8" else threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads make a busy machine slow
        options.log_severity_level = 3
        graph = _Graph(config, precision)
        self._session = onnxruntime.InferenceSession(graph.model(layers, norm, head), options, providers=["CPUExecutionProvider"])

    def __call__(self, hidden: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {"hidden": hidden, "mask": mask.astype(np.int32)})


_LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_EMBEDDINGS = {"word_embeddings", "token_type_embeddings", "position_embeddings", "LayerNorm", "dropout"}
_NAMES = {f"{part}.{kind}" for part in (*_LINEAR, *_NORMS) for kind in ("weight", "bias")}


def _weights(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def _written(integers: np.ndarray) -> np.ndarray:
    """The int8 numbers as the product reads them: as they are, or with 128 added to each as uint8."""
    return (integers.view(np.uint8) ^ 128) if UNSIGNED else integers


class _Graph:
    """An ONNX model with ONNX Runtime's fused nodes, layer by layer. Between its layers states are (S x T, D): a row is a token."""

    def __init__(self, config: Any, precision: str) -> None:
        self._width, self._heads, self._epsilon = config.hidden_size, config.num_attention_heads, float(config.layer_norm_eps)
        self._int8 = precision == "int8"
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self, layers: Sequence[nn.Module], norm: nn.Module | None, head: PooledHead | None) -> bytes:
        """The model of some layers, as it is written to a file: hidden (S, T, D), mask (S, T) int32 -> (S, T, D), and logits (S, K) of a head."""
        self._shared()
        at = self._node("Reshape", ["hidden", "flat"], "rows", domain="")
        if norm is not None:
            at = self._norm("begun", at, norm)
        for number, layer in enumerate(layers):
            at = self._layer(f"{number}.", at, layer)
        at = self._node("Reshape", [at, "shape"], "states", domain="")
        states = ["S", "T", self._width]
        gives = [(at, TensorProto.FLOAT, states)]
        if head is not None:
            gives.append((self._logits(at, head), TensorProto.FLOAT, ["S", head.linear.out_features]))
        given = [("hidden", TensorProto.FLOAT, states), ("mask", TensorProto.INT32, ["S", "T"])]
        graph = helper.make_graph(
            self._nodes,
            "layers",
            [helper.make_tensor_value_info(*one) for one in given],
            [helper.make_tensor_value_info(*one) for one in gives],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def _shared(self) -> None:
        """Constants and shapes that every layer reads."""
        self._put("flat", np.array([-1, self._width]))
        self._node("Shape", ["hidden"], "shape", domain="")
        if self._int8:
            for name, value in (("last", np.array([-1])), ("127", np.float32(127)), ("least", np.float32(1e-30)), ("1", np.float32(1))):
                self._put(name, np.asarray(value))
            self._put("zero", np.asarray(np.uint8(128)))
            self._node("Reshape", ["hidden", "flat"], "counted", domain="")
            self._node("Shape", ["counted"], "count", domain="", start=0, end=1)
            self._node("Expand", ["zero", "count"], "zeros", domain="")

    def _layer(self, name: str, at: str, layer: nn.Module) -> str:
        """One layer that reads the value named `at`; the name of what it gives."""
        found = {one: module for one, module in layer.named_modules() if one in (*_LINEAR, *_NORMS)}
        query_key_value = [found[one] for one in _LINEAR[:3]]
        packed = self._product(f"{name}packed", at, query_key_value)
        bias = self._put(f"{name}packed.bias", torch.cat([one.bias.detach() for one in query_key_value]).float().numpy())
        three = [f"{name}{one}" for one in ("query", "key", "value")]
        self._nodes.append(helper.make_node("Split", [packed], three, axis=-1, num_outputs=3))
        lifted = [self._node("Reshape", [one, "shape"], f"{one}.text", domain="") for one in three]
        mask = [] if self._int8 else ["mask"]  # in int8 texts of one length come together, without padding
        attended = self._node("MultiHeadAttention", [*lifted, bias, *mask], f"{name}attended", num_heads=self._heads)
        rows = self._node("Reshape", [attended, "flat"], f"{name}attended.rows", domain="")
        mixed = self._product(f"{name}mixed", rows, [found["attention.output.dense"]])
        middle = self._normed(f"{name}middle", mixed, at, found["attention.output.dense"], found["attention.output.LayerNorm"])
        wide = self._product(f"{name}wide", middle, [found["intermediate.dense"]])
        turned = self._node("BiasGelu", [wide, self._bias(f"{name}wide", found["intermediate.dense"])], f"{name}turned")
        narrow = self._product(f"{name}narrow", turned, [found["output.dense"]])
        return self._normed(f"{name}out", narrow, middle, found["output.dense"], found["output.LayerNorm"])

    def _product(self, name: str, at: str, linear: Sequence[Any]) -> str:
        """Rows (S x T, K) by the weights of linear layers side by side, without their biases."""
        if not self._int8:
            weight = torch.cat([one.weight.detach().float() for one in linear]).t()
            return self._node("MatMul", [at, self._put(f"{name}.weight", weight.numpy())], name, domain="")
        rounded: list[Any] = [Int8Linear(one) for one in linear]
        integers = self._put(f"{name}.integers", _written(torch.cat([one.integers for one in rounded], 1).numpy()))
        scales = self._put(f"{name}.scales", torch.cat([one.scale for one in rounded]).numpy())
        magnitudes = self._node("Abs", [at], f"{name}.magnitudes", domain="")
        largest = self._node("ReduceMax", [magnitudes, "last"], f"{name}.largest", domain="", keepdims=0)
        some = self._node("Max", [largest, "least"], f"{name}.some", domain="")
        scale = self._node("Div", [some, "127"], f"{name}.scale", domain="")
        row = self._node("QuantizeLinear", [at, scale, "zeros"], f"{name}.rounded", domain="", axis=0)
        zeros = ["zero", "zero"] if UNSIGNED else ["zero"]
        sums = self._node("MatMulIntegerToFloat", [row, integers, "1", scales, *zeros], f"{name}.sums")
        return self._node("Mul", [sums, self._node("Unsqueeze", [scale, "last"], f"{name}.scale.row", domain="")], name, domain="")

    def _normed(self, name: str, new: str, old: str, linear: Any, norm: Any) -> str:
        """LayerNorm(new + bias + old). The node that is all of it in one, SkipLayerNormalization, takes longer than these three."""
        whole = self._node("Add", [new, self._bias(name, linear)], f"{name}.whole", domain="")
        summed = self._node("Add", [whole, old], f"{name}.summed", domain="")
        return self._norm(name, summed, norm)

    def _norm(self, name: str, at: str, norm: Any) -> str:
        given = [self._put(f"{name}.{kind}", getattr(norm, kind).detach().float().numpy()) for kind in ("weight", "bias")]
        return self._node("LayerNormalization", [at, *given], name, domain="", epsilon=self._epsilon)

    def _logits(self, states: str, head: PooledHead) -> str:
        """The linear layer on the first state of a text, or on the mean of its real tokens."""
        if head.pooling.kind == "first":
            self._put("first", np.array(0))
            pooled = self._node("Gather", [states, "first"], "pooled", domain="", axis=1)
        else:
            for name, value in (("middle", np.array([1])), ("behind", np.array([2])), ("nothing", np.float32(0))):
                self._put(name, np.asarray(value))
            real = self._node("Unsqueeze", ["mask", "behind"], "real", domain="")
            given = self._node(
                "Where", [self._node("Cast", [real], "is.real", domain="", to=TensorProto.BOOL), states, "nothing"], "given", domain=""
            )
            summed = self._node("ReduceSum", [given, "middle"], "summed", domain="", keepdims=0)
            counted = self._node(
                "ReduceSum",
                [self._node("Cast", [real], "ones", domain="", to=TensorProto.FLOAT), "middle"],
                "number",
                domain="",
                keepdims=0,
            )
            pooled = self._node("Div", [summed, counted], "pooled", domain="")
        weight = self._put("head.weight", head.linear.weight.detach().float().t().numpy())
        bias = self._put("head.bias", head.linear.bias.detach().float().numpy())
        return self._node("Add", [self._node("MatMul", [pooled, weight], "product", domain=""), bias], "logits", domain="")

    def _bias(self, name: str, linear: Any) -> str:
        return self._put(f"{name}.added", linear.bias.detach().float().numpy())

    def _put(self, name: str, value: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def _node(self, kind: str, inputs: list[str], name: str, domain: str = _MICROSOFT, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

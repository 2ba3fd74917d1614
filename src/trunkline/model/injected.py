"""The linear layers above a cut by what they do, in every family, and PEFT's layers put in their place and taken out again.

Between `network` and those methods whose layers are PEFT's; also what `export` looks for.
"""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from trunkline.errors import OptionError
from trunkline.memory import give_back
from trunkline.model.network import Network
from trunkline.model.nf4 import Nf4Linear
from trunkline.model.precision import lower
from trunkline.model.stacks import put

_KEYS_VALUES = ("key", "value", "k_proj", "v_proj", "k", "v", "k_lin", "v_lin", "key_proj", "value_proj",
                "qkv_proj", "c_attn", "query_key_value", "Wqkv")  # fmt: skip
"""By the last part of the name. The last four make queries too: there one layer makes all three."""
_ATTENTION = (*_KEYS_VALUES, "query", "q_proj", "q", "q_lin", "query_proj")
_ATTENTION_ENDS = ("attention.output.dense", "attention.attn.o", "attention.out_lin", "attention.dense", "attn.Wo", "attn.c_proj",
                   "self_attn.o_proj", "self_attn.out_proj", "encoder_attn.out_proj", "SelfAttention.o", "EncDecAttention.o")  # fmt: skip
"""By the last parts of the name, as are the next."""
_FEEDFORWARD_ENDS = ("output.dense", "ffn.lin2", "mlp.Wo", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj", "DenseReluDense.wo",
                     "ffn_output", "fc2")  # fmt: skip


def linear(network: Network) -> dict[str, nn.Module]:
    """Every linear layer above the cut by its name in `network.upper`."""
    return {name: module for name, module in network.upper.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def attention(network: Network) -> list[str]:
    """Those that make queries, keys and values."""
    return [name for name in linear(network) if name.rsplit(".", 1)[-1] in _ATTENTION]


def keys_and_values(network: Network) -> list[str]:
    """Those that make keys and values (and queries, where one layer makes all three)."""
    return [name for name in linear(network) if name.rsplit(".", 1)[-1] in _KEYS_VALUES]


def attention_ends(network: Network) -> list[str]:
    """The last of each attention: its width is the model's."""
    return [name for name in linear(network) if _ends(name, _ATTENTION_ENDS)]


def feedforward_ends(network: Network) -> list[str]:
    """The last of each feed-forward block: its width is the model's."""
    return [name for name in linear(network) if _ends(name, _FEEDFORWARD_ENDS) and not _ends(name, _ATTENTION_ENDS)]


def targets(network: Network, wanted: str) -> list[str]:
    """The linear layers that are "all", "attention", or have one of several names as in "query+value".

    Raises: OptionError where there is none.
    """
    names = list(linear(network))
    if wanted == "attention":
        names = attention(network)
    elif wanted != "all":
        names = [name for name in names if _ends(name, tuple(wanted.split("+")))]
    if not names:
        there = sorted({name.rsplit(".", 1)[-1] for name in linear(network)})
        raise OptionError(
            f"targets={wanted!r}: no such linear layer above the cut. Use 'all', 'attention', or names of layers with + between them: "
            f"{', '.join(there)}."
        )
    return names


def transposed(network: Network) -> bool:
    """Whether the weights are (in, out), as GPT-2 has them."""
    return any(isinstance(module, Conv1D) for module in network.upper.modules())


def inject(network: Network, config: PeftConfig) -> None:
    """Put PEFT's layers in the place of the targets; only what they add is trained above the cut."""
    inject_adapter_in_model(config, network.upper)


def injected(network: Any) -> dict[str, Any]:
    """PEFT's layers by their name in `network.upper`."""
    return {name: module for name, module in network.upper.named_modules() if isinstance(module, LoraLayer | IA3Layer)}


def in_four_bits(network: Network) -> None:
    """Round the frozen linear layers above the cut to 4 bits, those below PEFT's too; what the backbone holds in 4 bits already is shared with it."""
    lower(network.upper, "nf4", keep=[part for layer in injected(network).values() for part in (layer.lora_A, layer.lora_B)])
    for name, module in network.upper.named_modules():
        if isinstance(module, Nf4Linear):
            module.share(network.backbone.model.get_submodule(network.backbone.place(name.removesuffix(".base_layer"), network.depth)))
    give_back()


def merged(network: Network) -> Network:
    """A network of plain layers, what PEFT's layers add worked into the weights: the same answers, nothing beside the layers."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.upper.named_modules()):
        if isinstance(module, Nf4Linear):
            put(plain.upper, name, module.plain())
    for name, module in injected(plain).items():
        module.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(plain.upper.get_submodule(parent), last, module.get_base_layer())
    return plain.requires_grad_(False)


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)

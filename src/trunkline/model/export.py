"""A branch's update as a standard PEFT adapter of the whole model, and such an adapter as what a branch begins with.

In a branch the layers count from the cut, in the whole model from the embeddings: names are shifted by the cut on the way out and back.
What PEFT has no single tensor for is worked into a plain low-rank update: AdaLoRA's values go into its factors, PiSSA's frozen rest
becomes a second part of the update. So every adapter that leaves here is of PEFT's type LORA or IA3, and no weight of the model changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import IA3Config, LoraConfig, PeftConfig
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.ia3 import IA3Layer
from torch import nn

from trunkline import storage
from trunkline.errors import ArtefactError, OptionError
from trunkline.model.backbone import ALL, Backbone
from trunkline.model.injected import injected, transposed
from trunkline.model.network import Network
from trunkline.model.nf4 import Nf4Linear
from trunkline.model.writing.language import LanguageHead
from trunkline.types import Spec

KIND = "adapter"
CONFIG, WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
_ROOT = "base_model.model."
_USE = """# A PEFT adapter of {model}

Tuned by Trunkline for the task `{task}`. The adapter is for the model as `{loader}` loads it:

```python
from peft import PeftModel
from transformers import {loader}

model = PeftModel.from_pretrained({loader}.from_pretrained("FOLDER OF {model}"), "THIS FOLDER")
```
{head}"""
_HEAD = """
PEFT keeps no head that reads a pooled text, so the task's head stands beside the adapter in `head.safetensors` ({tensors}), and what it was told
in `head.json`. {how}
"""
_POOLED = (
    "Take the model's `last_hidden_state`, pool the tokens ({pooling}), and the logits are `pooled @ linear.weight.T + linear.bias`; "
    "their order is that of `labels` in `head.json`, and probabilities are the softmax of logits / `temperature`."
)
_COMPARED = (
    "The two texts of a pair are read one by one. Take the model's `last_hidden_state` of each, pool the tokens ({pooling}), make each vector as "
    "long as the root of its width: u and v. The logits are `concat(u, v, abs(u - v), u * v) @ linear.weight.T + linear.bias`; their order "
    "is that of `labels` in `head.json`, and probabilities are the softmax of logits / `temperature`."
)


def export(network: Network, spec: Spec, folder: str | Path) -> Path:
    """Write a PEFT adapter folder of the whole model, with the head beside it.

    Raises: OptionError where PEFT has no form for what was learned, or the branch stands on a rounded trunk; ArtefactError when
    something else stands in the folder.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / storage.MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder}: exists and is not an exported adapter. Choose another folder.")
    config, tensors = adapter(network)
    told = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in network.head.state_dict().items()}
    files = {
        CONFIG: storage.to_json(told),
        WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"}),
        "README.md": _readme(network, spec, head).encode(),
    }
    if head:
        files |= {HEAD: safetensors.torch.save(head), "head.json": storage.to_json(spec.to_json())}
    storage.write_folder(folder, files, {"kind": KIND})
    return folder


def adapter(network: Network) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """PEFT's configuration of the update, and its tensors by the names that PEFT saves them under."""
    backbone, layers = network._backbone, injected(network)
    other = [n for n in network.learned() if not n.startswith("head.") and not any(n.startswith(f"upper.{layer}.") for layer in layers)]
    if other or not layers:
        what = f"{other[0].removeprefix('upper.')!r} was learned" if other else "nothing was added to the model's layers"
        raise OptionError(f"{what}, for which PEFT has no adapter. Methods that can be exported: 'lora', 'adalora', 'ia3'.")
    if backbone.trunk_precision != "float32":
        raise OptionError(
            f"trunk_precision={backbone.trunk_precision!r}: the update was learned on a rounded trunk, and the plain model has none. "
            "Tune with --trunk-precision float32 to export."
        )
    if any(isinstance(layer.get_base_layer(), Nf4Linear) for layer in layers.values()):
        raise OptionError(
            "bits=4: the update was learned on layers in 4 bits, and the plain model has others. Tune with lora:bits=32 to export."
        )
    places = {place(network, name): layer for name, layer in layers.items()}
    if isinstance(next(iter(layers.values())), IA3Layer):
        return _ia3(network, places)
    return _lora(network, places)


def place(network: Network, name: str) -> str:
    """The name in the whole model of a module that has this name in `network.upper`."""
    front = ""
    if isinstance(network.head, LanguageHead) and network.head.model is not None and not network.backbone.family.stack:
        front = f"{network.head.model.shell.base_model_prefix}."
    return front + network.backbone.place(name, network.depth)


def _ia3(network: Network, places: dict[str, Any]) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    config = IA3Config(
        target_modules=list(places),
        feedforward_modules=[name for name, layer in places.items() if layer.is_feedforward],
        fan_in_fan_out=transposed(network),
        **_about(network),
    )
    return config, {f"{_ROOT}{name}.ia3_l": _saved(layer.ia3_l["default"]) for name, layer in places.items()}


def _lora(network: Network, places: dict[str, Any]) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """Low-rank updates, each with its own rank where they differ. With alpha = scaling x rank PEFT scales as the branch does."""
    tensors: dict[str, torch.Tensor] = {}
    sizes: dict[str, tuple[int, float]] = {}
    dora = False
    for name, layer in places.items():
        down, up, scaling = _values(layer) if isinstance(layer, AdaLoraLayer) else _factors(network, name, layer)
        if not len(down):
            continue  # AdaLoRA gave it no rank at all
        alpha = scaling * len(down)
        sizes[name] = len(down), int(alpha) if alpha == int(alpha) else alpha  # some readers want a whole number
        tensors |= {f"{_ROOT}{name}.lora_A.weight": _saved(down), f"{_ROOT}{name}.lora_B.weight": _saved(up)}
        if "default" in layer.lora_magnitude_vector:
            dora = True
            tensors[f"{_ROOT}{name}.lora_magnitude_vector"] = _saved(layer.lora_magnitude_vector["default"].weight)
    if not sizes:
        raise OptionError("every update has rank 0, so there is nothing to export. Tune with a larger rank.")
    rank, alpha = max(sizes.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(sizes),
        rank_pattern={name: size for name, (size, _) in sizes.items() if size != rank},
        alpha_pattern={name: one for name, (_, one) in sizes.items() if one != alpha},
        fan_in_fan_out=transposed(network),
        use_dora=dora,
        **_about(network),
    )
    return config, tensors


def _about(network: Network) -> dict[str, Any]:
    return {"base_model_name_or_path": network._backbone.name, "inference_mode": True}


def _values(layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """AdaLoRA's three factors as two: of the values that are not zero."""
    values = layer.lora_E["default"]
    kept = values[:, 0] != 0
    scaling = layer.scaling["default"] / (float(layer.ranknum["default"]) + 1e-5)
    return (layer.lora_A["default"] * values)[kept], layer.lora_B["default"][:, kept] * scaling, 1.0


def _factors(network: Network, name: str, layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A (r, in), B (out, r), scaling. Where the frozen weight is not the model's (PiSSA), what it lacks is a second part of the update."""
    down, up, scaling = layer.lora_A["default"].weight, layer.lora_B["default"].weight, float(layer.scaling["default"])
    whole: Any = network._backbone.model.get_submodule(_without_front(network, name))
    if layer.get_base_layer().weight is whole.weight:
        return down, up, scaling
    lacks = (layer.get_base_layer().weight - whole.weight).detach().double()
    left, sizes, right = torch.linalg.svd(lacks.T if layer.fan_in_fan_out else lacks, full_matrices=False)
    rank = len(down)
    second = right[:rank].to(down.dtype), (left[:, :rank] * sizes[:rank]).to(up.dtype)
    return torch.cat([down, second[0]]), torch.cat([up * scaling, second[1]], dim=1), 1.0


def _without_front(network: Network, name: str) -> str:
    """A place in the model that writes, as the place in the backbone."""
    if isinstance(network.head, LanguageHead) and network.head.model is not None:
        return name.removeprefix(f"{network.head.model.shell.base_model_prefix}.")
    return name


def _saved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().cpu().clone().contiguous()


def _readme(network: Network, spec: Spec, head: dict[str, torch.Tensor]) -> str:
    writes = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
    loader = writes[network._backbone.family.kind] if isinstance(network.head, LanguageHead) else "AutoModel"
    how = f"It reads the model's `last_hidden_state`; what it does with it is the task `{spec.task}` of Trunkline."
    if {"linear.weight", "linear.bias"} == head.keys():
        how = (_COMPARED if spec.apart else _POOLED).format(pooling=spec.pooling)
    tensors = ", ".join(f"`{name}` {tuple(tensor.shape)}" for name, tensor in head.items())
    beside = _HEAD.format(tensors=tensors, how=how) if head else ""
    return _USE.format(model=network._backbone.name, task=spec.task, loader=loader, head=beside)


@dataclass(frozen=True)
class Imported:
    """A PEFT LoRA adapter, read and checked. depth: the smallest that holds all its layers; options: of the method `lora`;
    tensors: by the number of the layer in the whole model, the module in it, and "A", "B" or "magnitude".
    """

    depth: int
    options: dict[str, Any]
    tensors: dict[tuple[int, str, str], torch.Tensor]
    scaling: dict[tuple[int, str], float]

    @torch.no_grad()
    def into(self, network: Network) -> None:
        """Make a network with these options, of this depth or a greater one, begin with the adapter.

        Raises: OptionError that names a layer of the adapter that is below the cut, or where the branch has two stacks of layers.
        """
        if isinstance(network.upper, nn.ModuleDict):
            raise OptionError(
                "a task that writes with both halves of an encoder-decoder cannot begin with an adapter. Tune it with 'lora'."
            )
        cut = 0 if network.depth == ALL else network._backbone.layers - int(network.depth)
        layers = injected(network)
        for (number, module, part), tensor in self.tensors.items():
            if number < cut:
                raise OptionError(
                    f"depth={network.depth}: the adapter changes layer {number} ({module}), and the branch has layers {cut} and up only. "
                    f"Use depth {self.depth} or more."
                )
            layer = layers[f"{network._backbone.family.layers}.{number - cut}.{module}"]
            if part == "magnitude":
                layer.lora_magnitude_vector["default"].weight.copy_(tensor)
            elif part == "A":
                layer.lora_A["default"].weight[: len(tensor)] = tensor
            else:
                factor = self.scaling[number, module] / layer.scaling["default"]
                layer.lora_B["default"].weight[:, : tensor.shape[1]] = tensor * factor


def import_adapter(backbone: Backbone, folder: str | Path) -> Imported:
    """A PEFT LoRA adapter folder for this backbone, as what a branch may begin with.

    Raises: ArtefactError when it cannot be read, is of another type, or changes something that is in no layer.
    """
    folder = Path(folder)
    try:
        told = storage.from_json((folder / CONFIG).read_bytes(), str(folder / CONFIG))
        tensors = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"{folder}: not a PEFT adapter with {CONFIG} and {WEIGHTS} ({error}).") from error
    wrong = [f"{key}={told.get(key)!r}" for key, wanted in _PLAIN.items() if told.get(key) not in wanted]
    if wrong:
        raise ArtefactError(f"{folder / CONFIG}: {', '.join(wrong)} is not supported. A plain LoRA or DoRA adapter is.")
    found = _sorted(backbone, tensors, str(folder / WEIGHTS))
    modules = sorted({module for _, module, _ in found})
    ranks = {(number, module): len(tensor) for (number, module, part), tensor in found.items() if part == "A"}
    patterns = told.get("rank_pattern") or {}, told.get("alpha_pattern") or {}
    scaling = {key: _scaling(told, patterns[1], key, rank) for key, rank in ranks.items()}
    rank = max(ranks.values())
    options = {"rank": rank, "alpha": float(max(scaling.values()) * rank), "targets": "+".join(modules), "dora": bool(told.get("use_dora"))}
    return Imported(backbone.layers - min(number for number, _ in ranks), options, found, scaling)


_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
    "lora_bias": (False, None),
}
"""What an adapter may say of these to be a plain one."""


def _sorted(backbone: Backbone, tensors: dict[str, torch.Tensor], where: str) -> dict[tuple[int, str, str], torch.Tensor]:
    """The tensors by layer, module and part; a stack that is a half of the model has its name in front."""
    half = f"{backbone.family.stack}." if backbone.family.stack else ""
    form = re.compile(
        rf"(?:.*\.)?{re.escape(half + backbone.family.layers)}\.(\d+)\.(.+)\.lora_(?:(A|B)\.weight|(magnitude)_vector(?:\.weight)?)"
    )
    found = {}
    for name, tensor in tensors.items():
        match = form.fullmatch(name)
        if not match or int(match[1]) >= backbone.layers:
            raise ArtefactError(f"{where}: {name!r} is in none of the {backbone.layers} layers of {backbone.name!r} that can be cut.")
        found[int(match[1]), match[2], match[3] or match[4]] = tensor
    if not found:
        raise ArtefactError(f"{where}: there is no tensor.")
    return found


def _scaling(told: dict[str, Any], pattern: dict[str, float], key: tuple[int, str], rank: int) -> float:
    name = f"{key[0]}.{key[1]}"
    alpha = next((value for part, value in pattern.items() if name == part or part.endswith(f".{name}") or name.endswith(f".{part}")), None)
    alpha = float(told.get("lora_alpha", 8) if alpha is None else alpha)
    return alpha / rank**0.5 if told.get("use_rslora") else alpha / rank

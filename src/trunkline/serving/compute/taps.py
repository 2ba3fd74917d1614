"""One pass of a trunk that hands out its states at several cuts: branches of different depth on one backbone read the same pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from trunkline.model.backbone import Backbone, Trunk
from trunkline.model.batches import pad
from trunkline.model.precision import ROUNDS_INPUTS, each_length, processor_has
from trunkline.model.stacks import at
from trunkline.serving.compute import onnx_layers
from trunkline.types import Tokens

EQUAL = 1e-4
"""How far states may be from torch's in float32 before ONNX Runtime is not used. Source: the rule of RELIABILITY for exports, A11."""
ALIKE = 0.99
"""The mean cosine with torch's that states in int8 have to have: a last bit may round another way, which is a step of 1/127. Source: A11."""


class Taps:
    """The layers of a backbone up to the cut that is asked, with what stands at lower cuts on the way.

    cuts: where branches begin, as numbers of layers below; passes: how many were asked for in serving
    """

    def __init__(self, backbone: Backbone, cuts: Iterable[int] = ()) -> None:
        self.backbone, self.cuts, self.passes = backbone, frozenset(cuts), 0
        self._parts: list[tuple[int, onnx_layers.Layers]] = []
        self._embeddings: onnx_layers.Embeddings | None = None
        self._device = backbone.device  # which looks through the modules each time

    def for_cuts(self, cuts: Iterable[int]) -> Taps:
        """These taps, or others in torch where the cuts are not the same: what reads these goes on undisturbed."""
        return self if self.cuts == frozenset(cuts) else Taps(self.backbone, cuts)

    def use_onnx(self, threads: int) -> None:
        """From now on the layers run in ONNX Runtime, one session for what lies between two cuts. Call where `may_use_onnx`."""
        layers, parts, low = list(at(self.backbone.stack, self.backbone.family.layers)), [], 0
        self._embeddings = None if 0 in self.cuts else onnx_layers.Embeddings.of(self.backbone.stack)
        norm = None if self._embeddings is None else self._embeddings.norm
        for cut in sorted(self.cuts - {0}):
            some, precision = layers[low:cut], self.backbone.trunk_precision
            parts.append((cut, onnx_layers.Layers(self.backbone.config, some, threads, precision, norm=None if low else norm)))
            low = cut
        self._parts = parts

    def use_torch(self) -> None:
        """From now on the layers run in torch."""
        self._parts = []

    def may_use_onnx(self) -> bool:
        """Whether ONNX Runtime can run these layers: on the processor, of a known form, float32, or int8 where its sums are known to be exact."""
        layers = list(at(self.backbone.stack, self.backbone.family.layers))
        precision = self.backbone.trunk_precision
        known = precision == "float32" or (precision == "int8" and processor_has("avx512_vnni", "avx_vnni", "avx2"))
        on_processor = self.backbone.device.type == "cpu" and self.backbone.family.norm is None
        return known and on_processor and onnx_layers.fits(self.backbone.config, layers)

    @property
    def runtime(self) -> str:
        return "onnx" if self._parts else "torch"

    def in_one_thread(self, cuts: Iterable[int]) -> bool:
        """Whether a pass up to these cuts runs in the thread that asks and no other, so that several may run at the same time."""
        return bool(self._parts) and self._parts[0][1].threads == 1 and self.cuts.issuperset(cuts)

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[Tokens], cuts: Sequence[int]) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """The states (S, T, D) float32 at each of `cuts`, and the mask (S, T) bool; what stands at padded places means nothing."""
        ids, mask, types = pad(tokens, self.backbone.tokenizer.pad_id)
        ordered, device = sorted(cuts), self._device
        by_onnx = self._parts and self.cuts.issuperset(cuts)

        def run(real: torch.Tensor | None, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
            found = self._onnx(ordered, real, ids, types) if by_onnx else _tapped(self._trunk(ordered), ordered, real, ids, types)
            return found[0] if len(found) == 1 else torch.cat(found, -1)

        given = ids.to(device), None if types is None else types.to(device)
        padded = None if bool(mask.all()) else mask.to(device)
        together = each_length(run, padded, *given) if self.backbone.trunk_precision in ROUNDS_INPUTS else run(padded, *given)
        return dict(zip(ordered, together.float().cpu().split(self.backbone.width, -1), strict=True)), mask

    def _trunk(self, ordered: Sequence[int]) -> Trunk:
        return self.backbone.trunk(self.backbone.layers - ordered[-1])

    def _onnx(self, ordered: Sequence[int], real: torch.Tensor | None, ids: torch.Tensor, types: torch.Tensor | None) -> list[torch.Tensor]:
        """What enters the layer at each cut, lowest first."""
        if self._embeddings is None:
            hidden = onnx_layers.embedded(self._trunk(ordered)._stack, ids, types).numpy()
        else:
            hidden = self._embeddings(ids.numpy(), None if types is None else types.numpy())
        found = {0: hidden}
        mask = np.ones(ids.shape, bool) if real is None else real.numpy()
        for cut, layers in self._parts:
            if cut <= ordered[-1]:
                found[cut] = hidden = layers(hidden, mask)[0]
        return [torch.from_numpy(found[cut]) for cut in ordered]


def _tapped(
    trunk: Trunk, cuts: Sequence[int], mask: torch.Tensor | None, ids: torch.Tensor, types: torch.Tensor | None
) -> list[torch.Tensor]:
    """What enters the layer at each cut, lowest first; the pass ends at the last one."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(arguments[0])

    layers = at(trunk._stack, trunk.backbone.family.layers)
    hooks = [layers[cut].register_forward_pre_hook(keep) for cut in cuts[:-1]]
    try:
        last = trunk._run(mask, ids, types)
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, last]

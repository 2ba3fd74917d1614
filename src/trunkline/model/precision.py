"""The number formats that a trunk can compute in: float32, as the model is, bfloat16, int8 and nf4. Each but float32 is a trunk of its own.

Only the linear layers change, where nearly all of the work is. What stands between them (embeddings, attention, norms, activations,
residual sums) stays the library's, in float32; so one way serves every family. A branch is tuned and served on the same rounded states.
bfloat16 and int8 are for speed, and keep the float weights beside the rounded ones; nf4 (nf4.py) is for memory, and keeps nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trunkline.choices import one_of
from trunkline.errors import OptionError
from trunkline.model.nf4 import Nf4Linear

LINEAR = (nn.Linear, Conv1D)


class Bfloat16Linear(nn.Module):
    """A linear layer with weights and inputs rounded to bfloat16, summed in float32, the result rounded once more: (..., K) -> (..., N).

    That is what autocast does to a linear layer, with the weights rounded once and not in every pass.
    """

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias  # some families look at the weight's dtype
        self.register_buffer("rounded", _weight(linear).bfloat16().contiguous())
        self.register_buffer("rounded_bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.bfloat16(), self.rounded, self.rounded_bias).to(x.dtype)  # type: ignore[arg-type]


class Int8Linear(nn.Module):
    """A linear layer that multiplies int8 numbers: (..., K) -> (..., N). Weights have a scale for each output, inputs one for each token.

    A token's scale is its largest magnitude, so its result does not depend on its neighbours in the batch; integer sums are exact.
    Source: Dettmers et al. 2022, LLM.int8(), section 2 (vector-wise quantisation); here no outliers are kept in float16.
    """

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        weight = _weight(linear).float()
        scale = _scale(weight)
        self.register_buffer("integers", (weight / scale).round().to(torch.int8).t())  # (K, N)
        self.register_buffer("scale", scale.flatten())  # (N,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.float().flatten(0, -2)  # (M, K)
        scale = _scale(rows)
        sums = _product((rows * scale.reciprocal()).round_().to(torch.int8), self.integers).mul_(self.scale)  # type: ignore[arg-type]
        found = sums.mul_(scale) if self.bias is None else torch.addcmul(self.bias, sums, scale, out=sums)
        return found.view(*x.shape[:-1], -1).to(x.dtype)


PRECISIONS: dict[str, type[Bfloat16Linear] | type[Int8Linear] | type[Nf4Linear] | None] = {
    "float32": None,
    "bfloat16": Bfloat16Linear,
    "int8": Int8Linear,
    "nf4": Nf4Linear,
}
"""What stands in for a linear layer. Whoever changes how one of them rounds gives it a new name: the name is hashed into trunk ids."""

ROUNDS_INPUTS = ("bfloat16", "int8")
"""Those that round what goes into a layer too, so that the last bit of a sum can become a whole step (see `each_length`)."""


def lower(stack: nn.Module, precision: str, keep: Iterable[nn.Module] = ()) -> nn.Module:
    """The stack with its linear layers in a precision, but for those inside `keep`. The modules are replaced in place: give a copy
    (over the same tensors, which stay as they are).

    Raises: OptionError for an unknown precision, or a stack without linear layers.
    """
    one_of("trunk_precision", precision, PRECISIONS)
    kind, kept = PRECISIONS[precision], {id(module) for one in keep for module in one.modules()}
    if kind is None:
        return stack
    linear = [(parent, name, child) for parent in stack.modules() for name, child in parent.named_children() if isinstance(child, LINEAR)]
    if not linear:
        raise OptionError(
            f"trunk_precision={precision!r}: {type(stack).__name__} has no linear layers that can be replaced. Use 'float32'."
        )
    while linear:  # each float weight can go as soon as there is another
        parent, name, child = linear.pop()
        if id(child) not in kept:
            setattr(parent, name, kind(child))
    return stack


def each_length(run: Callable[..., torch.Tensor], mask: torch.Tensor | None, *given: torch.Tensor | None) -> torch.Tensor:
    """What `run(None, *given)` gives for the rows of one length after the other, without their padding: (S, T, D), 0 at padded places.

    mask: (S, T) bool, padded on the right, or None when nothing is padded; given: (S, T, ...) each.

    Padding moves the last bit of the float32 sums in attention, and a rounding that follows can make a whole step of that bit. This way
    a text has the same states alone and in any batch, bit for bit where the library's attention computes each text by itself.
    """
    if mask is None:
        return run(None, *given)
    lengths, parts = mask.sum(1), []
    for length in lengths.unique().tolist():
        rows = lengths == length
        parts.append((rows, length, run(None, *(None if one is None else one[rows, :length] for one in given))))
    found = parts[0][2].new_zeros(*mask.shape, parts[0][2].shape[-1])
    for rows, length, hidden in parts:
        found[rows, :length] = hidden
    return found


def _weight(linear: nn.Linear | Conv1D) -> torch.Tensor:
    """(N, K); GPT-2's layers hold it the other way round."""
    return linear.weight.detach().t() if isinstance(linear, Conv1D) else linear.weight.detach()


def _scale(rows: torch.Tensor) -> torch.Tensor:
    """(M, 1): what 1 of the integers -127 to 127 stands for in each row of (M, K)."""
    largest = torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True))
    return largest.clamp_(min=1e-30).div_(127)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(M, K) int8 by (K, N) int8: (M, N) float32. Where integers are not fast the same in float32, exact up to K = 1,040."""
    return torch._int_mm(a, b).float() if a.device.type == "cpu" and _integers_are_fast() else a.float() @ b.float()


@cache
def _integers_are_fast() -> bool:
    """Through oneDNN on processors that multiply and add int8 in one instruction. On older ones its sums can overflow, elsewhere torch loops."""
    return torch.backends.mkldnn.is_available() and processor_has("avx512_vnni", "avx_vnni", "amx_int8")


def processor_has(*instructions: str) -> bool:
    """Whether this processor has one of these, by torch's names; no where torch is too old to say."""
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in instructions)

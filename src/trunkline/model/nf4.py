"""4-bit NormalFloat: weights as two codes a byte with a scale for each block of 64, taken back to float whenever they are multiplied.

Source: Dettmers et al. 2023, QLoRA, section 3 and appendix E (the 16 values). Codes and scales are laid out as in its library, bitsandbytes. Where we
differ: scales stay float32 (4.5 bits a weight; the paper's second quantisation makes it 4.13), and products are in float32, or under
autocast in bfloat16. Why not bitsandbytes itself: once it is installed PEFT imports it in every run, and on some processors that import fetches native code
from a hub where the package `kernels` is there; its kernel is two to three times as fast, which training and encoding do not notice (bench/qlora.py).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

BLOCK = 64
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, scaled into [-1, 1], zero among them."""


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of a tensor in their order: packed (P,) uint8, the first of two in the upper half, and the largest magnitude of each block (B,)
    float32. The last block is filled up with zeros.
    """
    flat = weight.detach().float().flatten()
    blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    within, values = blocks / scales.clamp(min=1e-30)[:, None], torch.tensor(VALUES)
    codes = torch.zeros_like(within, dtype=torch.uint8)
    for middle in ((values[1:] + values[:-1]) / 2).tolist():  # three times as fast as torch.bucketize
        codes += within > middle
    return ((codes[:, ::2] << 4) | codes[:, 1::2]).flatten(), scales


def dequantise(packed: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """What `quantise` made, as float32 numbers of this shape again."""
    values = torch.index_select(_pairs(packed.device), 0, packed.int()).view(torch.float32).view(-1, BLOCK)
    return values.mul_(scales[:, None]).view(-1)[: math.prod(shape)].view(shape)


class Nf4Linear(nn.Module):
    """A linear layer with frozen 4-bit weights: (..., K) -> (..., N). Nothing of the float weights is kept; `weight` makes them when it is read."""

    packed: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.turned = isinstance(linear, Conv1D)  # GPT-2 has (K, N)
        self.shape, self.bias = tuple(linear.weight.shape), linear.bias
        packed, scales = quantise(linear.weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> torch.Tensor:
        """As the layer had it: (N, K), or (K, N) where it was turned."""
        return dequantise(self.packed, self.scales, self.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x, self.bias, self)

    def matrix(self) -> torch.Tensor:
        """The weight as (N, K)."""
        return self.weight.t() if self.turned else self.weight

    def plain(self, weight: nn.Parameter | None = None) -> nn.Linear | Conv1D:
        """A plain layer with this bias, and this weight, or else what the 4-bit one stands for."""
        inputs, outputs = self.shape if self.turned else self.shape[::-1]
        with torch.device("meta"):
            layer: Any = Conv1D(outputs, inputs) if self.turned else nn.Linear(inputs, outputs, bias=self.bias is not None)
        layer.weight = nn.Parameter(self.weight, requires_grad=False) if weight is None else weight
        layer.bias = self.bias
        return layer.train(self.training)

    def share(self, other: nn.Module) -> None:
        """Hold the tensors of another layer where it has the same weights in 4 bits."""
        if isinstance(other, Nf4Linear) and torch.equal(self.packed, other.packed.to(self.packed.device)):
            if torch.equal(self.scales, other.scales.to(self.scales.device)):
                self.packed, self.scales = other.packed, other.scales

    def extra_repr(self) -> str:
        return f"{self.shape}, nf4"


def count(*modules: nn.Module) -> int:
    """How many weights modules have, those in 4 bits too; what several of them share counts once."""
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    layers = {id(layer.packed): math.prod(layer.shape) for module in modules for layer in module.modules() if isinstance(layer, Nf4Linear)}
    return sum(parameters.values()) + sum(layers.values())


class _Product(torch.autograd.Function):
    """x (..., K), bias (N,) or None, and the layer: x @ weight.T + bias. For the gradient the weight is made once more and not kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: Nf4Linear) -> torch.Tensor:
        ctx.layer, ctx.format = layer, x.dtype
        return functional.linear(x, layer.matrix().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        found = (above @ ctx.layer.matrix().to(above.dtype)).to(ctx.format) if ctx.needs_input_grad[0] else None
        return found, above.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


@cache
def _pairs(device: torch.device) -> torch.Tensor:
    """(256,) int64: by byte the bits of its two float32 values. Looked up as one number they come five times as fast as rows of two."""
    values, byte = torch.tensor(VALUES, device=device), torch.arange(256, device=device)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1).view(torch.int64).flatten()

"""4-bit weights: what their definition says, in every family nothing but the weights changed, and no float weight kept for the gradient."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from tests import tiny
from tests.model.test_precision import linear, texts
from trunkline.model import nf4
from trunkline.model.backbone import load_backbone
from trunkline.model.nf4 import Nf4Linear, dequantise, quantise
from trunkline.model.precision import lower
from trunkline.model.stacks import put


def by_definition(weight: torch.Tensor) -> torch.Tensor:
    """The nearest of the 16 values times the largest magnitude of each 64 numbers, in float64."""
    values, flat = torch.tensor(nf4.VALUES, dtype=torch.float64), weight.flatten().double()
    found = []
    for block in flat.split(64):
        scale = block.abs().max()
        nearest = (block[:, None] / scale - values).abs().argmin(1) if scale else torch.full((len(block),), 7)
        found.append(values[nearest] * scale)
    return torch.cat(found).view(weight.shape)


def in_float(stack: nn.Module) -> nn.Module:
    for name, module in list(stack.named_modules()):
        if isinstance(module, Nf4Linear):
            put(stack, name, module.plain())
    return stack


@pytest.fixture(params=tiny.families())
def folder(request, tiny_folder):
    return tiny_folder(request.param)


@pytest.mark.parametrize("shape", [(64, 64), (5, 7), (3, 43), (1, 1), (16, 8), (130, 100)])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e6])
def test_it_is_what_its_definition_says(shape, size):
    weight = size * torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))
    packed, scales = quantise(weight)
    assert (packed.dtype, scales.dtype) == (torch.uint8, torch.float32)
    assert len(packed) == 32 * len(scales) == 32 * -(-weight.numel() // 64), "half a byte a weight, and a scale for 64"
    got = dequantise(packed, scales, shape)
    assert (got.shape, got.dtype) == (shape, torch.float32)
    assert torch.allclose(got.double(), by_definition(weight), rtol=1e-6, atol=0)


def test_the_values_are_taken_as_they_are_and_zeros_stay():
    values = torch.tensor(nf4.VALUES).repeat(8)
    assert torch.equal(dequantise(*quantise(values), (128,)), values)
    assert quantise(values[:4])[0][:2].tolist() == [0x01, 0x23], "the first of two is in the upper half"
    assert not dequantise(*quantise(torch.zeros(100)), (100,)).any()
    assert torch.equal(values, torch.tensor(sorted(nf4.VALUES)).repeat(8))


def test_in_every_family_nothing_but_the_weights_changed(folder):
    backbone = load_backbone(folder)
    ids, mask, _ = texts(backbone)
    count = sum(type(module) in (nn.Linear, Conv1D) for module in backbone.stack.modules())
    stack = lower(backbone.stack, "nf4")
    assert sum(isinstance(module, Nf4Linear) for module in stack.modules()) == count > 0
    assert not [module for module in stack.modules() if isinstance(module, nn.Linear | Conv1D)]
    with torch.no_grad():
        got = stack(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
        wanted = in_float(stack)(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
    assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_products_and_gradients_are_those_of_the_plain_layer(bias, turned, half):
    layer = linear(48, 20, bias=bias)
    if turned:
        layer = Conv1D(20, 48).requires_grad_(False)
    rounded = Nf4Linear(layer)
    plain, x = rounded.plain(), torch.randn(3, 5, 48)
    assert type(plain) is type(layer)
    assert torch.equal(plain.weight, rounded.weight)
    assert plain.weight.shape == layer.weight.shape
    assert plain.bias is layer.bias
    found = []
    for one in (plain, rounded):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = one(given)
        out.float().pow(2).sum().backward()
        found.append((out, given.grad))
    assert found[0][0].dtype == found[1][0].dtype == (torch.bfloat16 if half else torch.float32)
    near = {"rtol": 2e-2, "atol": 1e-2} if half else {"rtol": 1e-5, "atol": 1e-5}
    assert torch.allclose(found[0][0], found[1][0], **near)
    assert torch.allclose(found[0][1], found[1][1], **near)


def test_no_float_weight_is_kept_for_the_gradient():
    layer = Nf4Linear(linear(64, 32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(torch.randn(2, 64, requires_grad=True))
    assert not kept
    assert out.requires_grad
    held = [*layer.parameters(), *layer.buffers()]
    assert sum(tensor.nbytes for tensor in held) == 64 * 32 // 2 + 4 * 64 * 32 // 64 + 4 * 32, "4.5 bits a weight, and the bias"


def test_a_bias_learns_too():
    plain = linear(32, 8)
    layer = Nf4Linear(plain)
    layer.bias.requires_grad_()
    layer(torch.randn(5, 32)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((8,), 5.0))


def test_numbers_that_are_none_are_not_hidden():
    x = torch.randn(2, 32)
    x[0, 3] = float("nan")
    found = Nf4Linear(linear(32, 16))(x)
    assert not found[0].isfinite().any()
    assert found[1].isfinite().all()


def test_layers_share_what_is_equal_and_nothing_else():
    plain, first, second, other = linear(32, 16), Nf4Linear(linear(32, 16)), Nf4Linear(linear(32, 16)), Nf4Linear(linear(32, 16, seed=1))
    for layer in (plain, other):
        second.share(layer)
        assert second.packed is not first.packed
        assert not isinstance(layer, Nf4Linear) or second.packed is not layer.packed
    second.share(first)
    assert second.packed is first.packed
    assert second.scales is first.scales


def test_a_weight_can_be_given_to_the_plain_layer():
    plain = linear(32, 16)
    again = Nf4Linear(plain).plain(plain.weight)
    assert again.weight is plain.weight
    x = torch.randn(3, 32)
    assert torch.equal(again(x), functional.linear(x, plain.weight, plain.bias))

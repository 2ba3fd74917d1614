"""The precisions of a trunk: every family in each of them, a text's states whatever its neighbours, integers that are exact."""

import hashlib

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests import tiny
from trunkline.errors import OptionError
from trunkline.model import precision
from trunkline.model.backbone import load_backbone
from trunkline.model.batches import pad
from trunkline.model.precision import PRECISIONS, Bfloat16Linear, Int8Linear, each_length, lower

COSINE = {"bfloat16": 0.998, "int8": 0.99, "nf4": 0.75}
"""What the states of tiny random models keep at the least; real models keep more (bench/trunk.py). Of nf4 test_nf4.py says all there is to say."""

BATCHED_PRODUCTS = ("deberta-v2", "gemma2", "mpnet")
"""Families whose attention is a product over the whole batch, of which the last bit depends on how many texts there are."""


def linear(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def of_integers(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The definition, in int64 and float64."""
    weight, rows = layer.weight, x.flatten(0, -2)
    scales = [one.abs().amax(-1, keepdim=True) / 127 for one in (weight, rows)]
    whole = [(one / scale).round().long() for one, scale in zip((weight, rows), scales)]
    found = (whole[1] @ whole[0].T).double() * scales[1].double() * scales[0].double().T
    return (found + (0 if layer.bias is None else layer.bias.double())).view(*x.shape[:-1], -1)


@pytest.fixture(params=tiny.families())
def folder(request, tiny_folder):
    return tiny_folder(request.param)


def texts(backbone):
    tokens = [backbone.tokenizer.encode(text, max_tokens=32)[0] for text in tiny.TEXTS]
    return pad(tokens, backbone.tokenizer.pad_id)


def lowered(folder, name):
    """A backbone's stack in a precision, and how to run it."""
    backbone = load_backbone(folder)
    stack = lower(backbone.stack, name)

    def run(ids, mask):
        with torch.no_grad():
            return stack(input_ids=ids, attention_mask=None if mask is None else mask.long()).last_hidden_state

    return run


@pytest.mark.parametrize("name", sorted(COSINE))
def test_every_family_in_every_precision(folder, name):
    ids, mask, _ = texts(load_backbone(folder))
    expected, got = lowered(folder, "float32")(ids, mask)[mask], lowered(folder, name)(ids, mask)[mask]
    assert got.dtype == torch.float32
    cosine = torch.cosine_similarity(expected, got, dim=-1)
    assert cosine.mean() > COSINE[name], cosine
    assert not torch.equal(expected, got)


def test_a_text_has_the_same_int8_states_whatever_its_neighbours(folder):
    """Alone, or in a batch with longer and shorter ones."""
    run, backbone = lowered(folder, "int8"), load_backbone(folder)
    ids, mask, _ = texts(backbone)
    together = each_length(lambda mask, ids: run(ids, mask), mask, ids)
    assert not together[~mask].any()
    for row, length in enumerate(mask.sum(1).tolist()):
        alone, here = run(ids[row : row + 1, :length], None)[0], together[row, :length]
        if backbone.config.model_type in BATCHED_PRODUCTS:
            assert torch.allclose(alone, here, atol=1e-4), row
        else:
            assert torch.equal(alone, here), row


def test_each_length_gives_every_row_its_own():
    mask = torch.arange(5)[None] < torch.tensor([3, 5, 3, 1])[:, None]
    numbers, seen = torch.randn(4, 5, 2), []

    def run(mask, some, nothing):
        assert mask is None
        assert nothing is None
        seen.append(tuple(some.shape))
        return some * 2

    found = each_length(run, mask, numbers, None)
    assert torch.equal(found, numbers * 2 * mask[..., None])
    assert seen == [(1, 1, 2), (2, 3, 2), (1, 5, 2)]


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_no_linear_layer_is_forgotten_and_the_weights_stay(folder, name):
    backbone = load_backbone(folder)
    before = {key: value.clone() for key, value in backbone.stack.state_dict().items()}
    count = sum(type(module) in (nn.Linear, Conv1D) for module in backbone.stack.modules())
    stack = lower(backbone.stack, name)
    replaced = [module for module in stack.modules() if isinstance(module, PRECISIONS[name])]
    assert len(replaced) == count > 0
    assert not [module for module in stack.modules() if isinstance(module, nn.Linear | Conv1D)]
    after = stack.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_what_is_kept_stays_as_it_is(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    layers = backbone.stack.encoder.layer
    lower(backbone.stack, "int8", keep=layers[1:])
    kinds = [{type(m) for m in layer.modules() if hasattr(m, "weight") and m.weight.dim() == 2} for layer in layers]
    assert kinds == [{Int8Linear}, {nn.Linear}, {nn.Linear}]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_int8_is_what_its_definition_says(bias, fast, monkeypatch):
    monkeypatch.setattr(precision, "_integers_are_fast", lambda: fast)
    layer, x = linear(48, 20, bias=bias), torch.randn(3, 5, 48) * torch.logspace(-3, 3, 5)[None, :, None]
    assert torch.allclose(Int8Linear(layer)(x).double(), of_integers(layer, x), rtol=1e-5, atol=1e-5)


def test_int8_products_do_not_overflow():
    most = torch.full((40, 1040), 127, dtype=torch.int8)
    for sign in (1, -1):
        assert precision._product(most, (sign * most).T.contiguous()).unique().tolist() == [sign * 127 * 127 * 1040]


def test_int8_scales_are_of_tokens():
    layer, x = linear(32, 16), torch.randn(4, 32)
    alone = Int8Linear(layer)(x)
    loud = Int8Linear(layer)(torch.cat([x, 1e4 * torch.randn(3, 32)]))
    assert torch.equal(alone, loud[:4])
    assert torch.equal(Int8Linear(layer)(torch.zeros(2, 32)), layer.bias.expand(2, 16))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("kind", [Int8Linear, Bfloat16Linear])
def test_numbers_that_are_none_are_not_hidden(kind, value):
    x = torch.randn(2, 32)
    x[0, 3] = value
    found = kind(linear(32, 16))(x)
    assert not found[0].isfinite().any()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("kind", [Int8Linear, Bfloat16Linear])
def test_a_turned_layer_gives_the_same(kind):
    plain, turned = linear(24, 12), Conv1D(12, 24).requires_grad_(False)
    turned.weight.copy_(plain.weight.T)
    turned.bias.copy_(plain.bias)
    x = torch.randn(6, 24)
    assert torch.equal(kind(plain)(x), kind(turned)(x))


def test_bfloat16_is_what_autocast_does():
    layer, x = linear(64, 32), torch.randn(7, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x).float()
    assert torch.equal(Bfloat16Linear(layer)(x), expected)


def test_the_same_bytes_each_time(tiny_folder):
    ids, mask, _ = texts(load_backbone(tiny_folder("bert")))
    sums = {hashlib.sha256(lowered(tiny_folder("bert"), "int8")(ids, mask).numpy().tobytes()).hexdigest() for _ in range(3)}
    assert len(sums) == 1


def test_unknown_precisions_and_stacks_without_linear_layers_are_refused():
    with pytest.raises(OptionError, match="Did you mean 'int8'"):
        lower(linear(2, 2), "int4")
    with pytest.raises(OptionError, match="no linear layers"):
        lower(nn.Sequential(nn.Embedding(3, 2)), "int8")

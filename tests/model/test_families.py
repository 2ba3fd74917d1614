"""The cut, over every family: trunk + branch equals the whole model, at every depth."""

import hashlib
import itertools
import shutil

import pytest
import torch
from transformers import AutoModel

from tests import tiny
from trunkline.errors import OptionError
from trunkline.model.backbone import ALL, Backbone, Lift, load_backbone
from trunkline.model.batches import pad
from trunkline.model.families import FAMILIES
from trunkline.model.network import Network
from trunkline.model.nf4 import Nf4Linear
from trunkline.model.precision import PRECISIONS
from trunkline.types import Batch, Spec


class Nothing(torch.nn.Module):
    def forward(self, hidden, mask):
        return hidden


def _texts(backbone: Backbone, pair: bool = False):
    tokens = [backbone.tokenizer.encode(t, "who can help" if pair else None, max_tokens=32)[0] for t in tiny.TEXTS]
    return pad(tokens, backbone.tokenizer.pad_id)


def _whole(stack, ids, mask, types=None):
    given = {"input_ids": ids, "attention_mask": mask.long()}
    if types is not None:
        given["token_type_ids"] = types
    with torch.no_grad():
        return stack(**given).last_hidden_state


@pytest.fixture(params=tiny.families())
def backbone(request, tiny_folder):
    return load_backbone(tiny_folder(request.param))


def test_every_family_has_a_tiny_model():
    assert set(tiny.SIZES) == set(FAMILIES)


def _depths(backbone):
    return [0] if backbone.family.whole_only else list(range(backbone.layers + 1))


@pytest.mark.parametrize("pair", [False, True])
def test_trunk_and_branch_equal_the_whole_model_at_every_depth(backbone, pair):
    ids, mask, types = _texts(backbone, pair)
    assert not mask.all()
    expected = _whole(backbone.stack, ids, mask, types)
    for depth in _depths(backbone):
        network = Network(backbone, depth, Nothing()).eval()
        hidden = backbone.trunk(depth)(ids, mask, types)
        with torch.no_grad():
            got = network(Batch(hidden, mask, torch.arange(len(ids)), Spec())).logits
            poisoned = network(Batch(hidden.masked_fill(~mask[..., None], 0.0), mask, torch.arange(len(ids)), Spec())).logits
        assert torch.equal(got[mask], expected[mask]), depth
        assert torch.allclose(poisoned[mask], expected[mask], atol=1e-6), "what stands at padded places must not matter"
        assert torch.equal(_whole(backbone.whole(network.upper, depth), ids, mask, types)[mask], expected[mask]), depth


def test_whole_model_depth(backbone):
    ids, mask, types = _texts(backbone)
    network = Network(backbone, ALL, Nothing()).eval()
    with torch.no_grad():
        got = network(Batch(None, mask, torch.arange(len(ids)), Spec(), ids=ids, types=types)).logits
    assert torch.equal(got[mask], _whole(backbone.stack, ids, mask, types)[mask])


def test_every_cut_lies_at_another_place(backbone):
    ids, mask, types = _texts(backbone)
    states = [backbone.trunk(depth)(ids, mask, types)[mask] for depth in _depths(backbone)]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.pairwise(states))


def test_no_mask_equals_a_mask_of_ones(backbone):
    ids, mask, types = _texts(backbone)
    one = slice(0, 1), slice(0, int(mask[0].sum()))
    trunk = backbone.trunk(0)
    part = None if types is None else types[one]
    assert torch.allclose(trunk(ids[one], None, part), trunk(ids[one], mask[one], part), atol=1e-6)


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_every_precision_is_a_trunk_of_its_own(backbone, precision):
    other = load_backbone(backbone.folder, trunk_precision=precision)
    ids, mask, types = _texts(backbone)
    cuts = [other.layers - depth for depth in _depths(backbone)]
    mark = "" if precision == "float32" else f"@{precision}"
    for depth, cut in zip(_depths(backbone), cuts):
        plain, trunk = backbone.trunk(depth), other.trunk(depth)
        assert trunk is other.trunk(depth), "made once"
        assert trunk.id == hashlib.sha256(f"{backbone.id}:{cut}{mark}".encode()).hexdigest()
        a, b = plain(ids, mask, types)[mask], trunk(ids, mask, types)[mask]
        nothing_rounded = cut == 0 and backbone.config.model_type != "electra"  # which projects its embeddings
        assert torch.equal(a, b) == (precision == "float32" or nothing_rounded)
        assert torch.cosine_similarity(a, b, dim=-1).mean() > (0.75 if precision == "nf4" else 0.99), "models as small as these feel 4 bits"
    stays = torch.equal(_whole(other.stack, ids, mask, types), _whole(backbone.stack, ids, mask, types))
    assert stays == (precision != "nf4"), "which is the backbone in 4 bits"


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_4_bits_of_files_in_half_precision_are_those_of_the_same_numbers(half, backbone, tmp_path):
    """They are read as they are stored, and never as a whole in float32."""
    ids, mask, types = _texts(backbone)
    states = []
    for name, dtype in (("half", half), ("whole", torch.float32)):
        folder = shutil.copytree(backbone.folder, tmp_path / name)
        AutoModel.from_pretrained(backbone.folder, dtype=half).to(half).to(dtype).save_pretrained(folder)
        other = load_backbone(folder, trunk_precision="nf4")
        assert all(p.dtype == torch.float32 for p in other.model.parameters())
        states.append(_whole(other.stack, ids, mask, types)[mask])
        if not backbone.family.whole_only:
            states.extend(p.clone() for p in other.upper(1).parameters())
    assert all(torch.equal(one, other) for one, other in zip(states[: len(states) // 2], states[len(states) // 2 :], strict=True))


def test_a_backbone_in_4_bits_has_the_published_layers_above_a_cut(backbone):
    """Their floats are read again, and stacks that are there together share them."""
    other = load_backbone(backbone.folder, trunk_precision="nf4")
    for depth in _depths(backbone):
        plain, first, second = backbone.upper(depth), other.upper(depth), other.upper(depth)
        if depth == 0:
            continue
        wanted = dict(plain.named_parameters())
        assert {name for name, _ in first.named_parameters()} == wanted.keys()
        assert all(torch.equal(p, wanted[name]) and not p.requires_grad for name, p in first.named_parameters())
        assert all(p is first.get_parameter(name) for name, p in second.named_parameters())
        rounded = other.above(depth)
        whole = dict(other.model.named_modules())
        layers = {name: module for name, module in rounded.named_modules() if isinstance(module, Nf4Linear)}
        assert layers
        assert all(whole[other.place(name, depth)].packed is layer.packed for name, layer in layers.items()), "nothing is there twice"


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_rounded_trunk_gives_a_text_the_same_states_in_any_batch(precision, tiny_folder):
    trunk = load_backbone(tiny_folder("bert"), trunk_precision=precision).trunk(0)
    ids, mask, types = _texts(trunk.backbone, pair=True)
    together = trunk(ids, mask, types)
    for row, length in enumerate(mask.sum(1).tolist()):
        one = slice(row, row + 1), slice(0, length)
        assert torch.equal(trunk(ids[one], None, types[one])[0], together[row, :length])


def test_lifted_states_are_those_of_the_trunk_in_every_precision(backbone):
    if backbone.family.whole_only:
        pytest.skip("one cut only")
    ids, mask, types = _texts(backbone)
    for precision in PRECISIONS:
        other = load_backbone(backbone.folder, trunk_precision=precision)
        low = other.layers
        for high in range(low + 1):
            lifted = Lift(other, low, high)(other.trunk(low)(ids, mask, types), mask)
            assert torch.allclose(lifted[mask], other.trunk(high)(ids, mask, types)[mask], atol=1e-5), (precision, high)


def test_a_branch_copies_no_weights(backbone):
    own = {p.data_ptr() for p in backbone.model.parameters()}
    assert {p.data_ptr() for p in backbone.upper(0 if backbone.family.whole_only else 1).parameters()} <= own


def test_depth_out_of_range_is_refused(backbone):
    for depth in (-1, backbone.layers + 1, True, 1.5, "some"):
        with pytest.raises(OptionError, match="depth="):
            backbone.check_depth(depth)


def test_an_encoder_decoder_takes_the_states_as_encoder_outputs(tiny_folder):
    from transformers import T5ForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    folder = tiny_folder("t5")
    backbone = load_backbone(folder)
    torch.manual_seed(1)
    model = T5ForConditionalGeneration(backbone.config).eval()
    model.encoder.load_state_dict(backbone.stack.state_dict())
    ids, mask, _ = _texts(backbone)
    said = ids[:, :4].contiguous()
    for depth in range(backbone.layers + 1):
        hidden = backbone.trunk(depth)(ids, mask)
        with torch.no_grad():
            states = Network(backbone, depth, Nothing()).eval()(Batch(hidden, mask, torch.arange(len(ids)), Spec())).hidden
            got = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask.long(), decoder_input_ids=said
            ).logits
            assert torch.equal(got, model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=said).logits)

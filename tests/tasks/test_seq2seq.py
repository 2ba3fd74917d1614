"""seq2seq: what is learned, depth through both halves, and that it says what it learned."""

import dataclasses

import numpy as np
import pytest

from tests import tiny
from tests.model.writing.test_language import saved
from trunkline.branch import Branch, load
from trunkline.errors import OptionError
from trunkline.methods import full, lora, probe
from trunkline.model.backbone import ALL, Lift, load_backbone
from trunkline.model.batches import pad
from trunkline.states.live import LiveStates
from trunkline.tasks.seq2seq import TaskSpec, prepare
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import Rows

ROWS = [
    {"text": "who can help me", "label": "please cancel the order"},
    {"text": "my card", "label": ["the package was damaged", "it was damaged"]},
    {"text": "refund the money to my account today", "label": "订单还没有到"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("t5", tmp_path_factory.mktemp("t5"), tie_word_embeddings=False)


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


def test_source_with_prefix_target_with_end_and_all_references(backbone):
    words = backbone.tokenizer
    item = prepare(ROWS[1], words, TaskSpec(prefix="refund "))
    assert words.text(item.tokens[0].ids) == "refund my card"
    assert words.text(item.target) == "the package was damaged"
    assert item.target[-1] == 3
    assert item.gold == ["the package was damaged", "it was damaged"]
    assert not item.was_cut
    assert prepare({"text": "who"}, words, TaskSpec()).target is None


def test_what_is_too_long_is_cut_and_said(backbone):
    long = " ".join(tiny.TEXTS)
    item = prepare({"text": "who", "label": long}, backbone.tokenizer, TaskSpec(max_target_tokens=8))
    assert (len(item.target), item.was_cut) == (8, True)
    item = prepare({"text": long, "label": "who"}, backbone.tokenizer, TaskSpec(max_tokens=8))
    assert (len(item.tokens[0]), item.was_cut) == (8, True)


def test_depth_goes_through_the_decoder_and_on_into_the_encoder(backbone):
    seen = backbone.seen_by(TaskSpec.backbones)
    assert (backbone.layers, seen.layers) == (3, 5)
    for depth, (decoder, encoder) in {0: (0, 0), 1: (1, 0), 2: (2, 0), 3: (2, 1), 5: (2, 3)}.items():
        upper = seen.upper(depth)
        assert len(upper["decoder"].block) == decoder
        assert (len(upper["encoder"].block) if "encoder" in upper else 0) == encoder
        assert seen.trunk(depth).id == backbone.trunk(encoder).id, "the states that other tasks store are the same"
    with pytest.raises(OptionError, match="0 to 5"):
        seen.upper(6)


def test_states_are_lifted_in_the_encoder_alone(backbone):
    seen = backbone.seen_by(TaskSpec.backbones)
    ids, mask, _ = pad([backbone.tokenizer.encode(t, max_tokens=32)[0] for t in tiny.TEXTS], 0)
    for low, high in ((5, 3), (4, 1), (2, 0)):
        found = Lift(seen, low, high)(seen.trunk(low)(ids, mask), mask)
        assert np.allclose(found[mask], seen.trunk(high)(ids, mask)[mask], atol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_methods_touch_what_is_above_the_cut_and_nothing_else(backbone, depth):
    network = Branch.new(backbone, TaskSpec(), "full", full.Config(), depth).network
    assert network.learned()
    assert all(name.startswith("upper.") for name in network.learned())
    assert not any(p.requires_grad for p in network.below.parameters())
    assert not any("relative_attention_bias" in name for name in network.learned())
    assert ("upper.encoder" in " ".join(network.learned())) == (depth > 2)
    network.train()
    assert not network.below.decoder.training


@pytest.mark.parametrize("depth", [4, *(pytest.param(depth, marks=pytest.mark.wide) for depth in (2, ALL))])
def test_it_says_what_it_learned_and_says_it_again_when_loaded(depth, backbone, folder, tmp_path):
    spec = TaskSpec(max_tokens=64, max_new_tokens=12)
    branch = Branch.new(backbone, spec, "full", full.Config(), depth)
    items = branch.prepare(ROWS)
    source = branch.source()
    settings = Settings(epochs=200, patience=None, evaluate_every=50, weight_decay=0.0, dropout=0.0, precision="float32")
    fit(branch.network, Data(items, items, source, spec), settings, learning_rate=0.01, seed=0)
    wanted = [backbone.tokenizer.text(item.target) for item in items]
    assert [answer.value for answer in branch.predict(ROWS)] == wanted
    branch.save(tmp_path / "branch")
    assert [answer.value for answer in load(tmp_path / "branch", model=folder).predict(ROWS)] == wanted


def test_merged_layers_say_the_same(backbone):
    branch = Branch.new(backbone, TaskSpec(max_new_tokens=8), "lora", lora.Config(), 3)
    for parameter in branch.network.learned().values():
        parameter.data.normal_(std=0.2)
    assert [a.value for a in branch.merged().predict(ROWS)] == [a.value for a in branch.predict(ROWS)]
    items = branch.prepare(ROWS)
    assert np.allclose([a.scores for a in branch.merged().answers(items)], [a.scores for a in branch.answers(items)], rtol=1e-4)


def test_the_encoder_is_not_run_again_to_write(backbone, monkeypatch):
    branch = Branch.new(backbone, TaskSpec(max_new_tokens=4), "full", full.Config(), 1)
    batch_states = LiveStates(backbone.trunk(0))
    runs = []
    backbone.stack.block[0].register_forward_hook(lambda *_: runs.append(1))
    items = [dataclasses.replace(item, target=None) for item in branch.prepare(ROWS)]
    held = batch_states.read([item.tokens[0] for item in items])
    runs.clear()

    class Held:
        def read(self, tokens):
            keys = [item.tokens[0].key for item in items]
            return [held[keys.index(one.key)] for one in tokens]

    assert len(branch.answers(items, Held())) == 3
    assert not runs


def test_a_probe_has_nothing_to_learn(backbone):
    branch = Branch.new(backbone, TaskSpec(), "probe", probe.Config(), 1)
    items = branch.prepare(ROWS)
    with pytest.raises(OptionError, match="nothing to learn"):
        fit(branch.network, Data(items, items, branch.source(), branch.spec), Settings(), learning_rate=0.1, seed=0)


def test_nothing_is_learned_from_rows():
    assert TaskSpec().learned_from(Rows(tuple(ROWS), "seq2seq")) == {}

"""What each method trains and what it leaves alone; that it learns, merges and saves is held by tests/test_contract.py."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, DynamicCache

from tests import tiny
from tests.test_contract import bytes_of, logits, make, rows
from tests.train.samples import make_branch, make_rows, settings
from trunkline import branch as branches
from trunkline import names
from trunkline.branch import Branch, load
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.methods import adapter, lora, prefix, prompt
from trunkline.model import injected
from trunkline.model.backbone import ALL, load_backbone
from trunkline.model.nf4 import Nf4Linear, dequantise, quantise
from trunkline.states.collate import collate
from trunkline.train.fit import _optimizer
from trunkline.train.settings import Settings
from trunkline.train.tune import tune

RANGES = {
    "full": [{"learning_rate": 0}, {"learning_rate": 2}],
    "bitfit": [{"learning_rate": 0}],
    "probe": [{"learning_rate": float("nan")}],
    "lora": [{"rank": 0}, {"rank": 2000}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"ratio": 0}, {"start": "svd"}, {"bits": 8}, {"learning_rate": 0}],
    "adalora": [{"rank": 0}, {"rank": 12}, {"initial_rank": 1}, {"alpha": 0}, {"dropout": 1.0}, {"rise": 1.0}, {"rest": -0.1}, {"every": 0},
                {"orthogonality": -1}, {"learning_rate": 0}],
    "ia3": [{"learning_rate": 0}],
    "adapter": [{"size": 0}, {"placement": "parallel"}, {"learning_rate": 0}],
    "prefix": [{"length": 0}, {"length": 600}, {"learning_rate": 0}],
    "prompt": [{"length": 0}, {"encoder": "lstm"}, {"learning_rate": 0}],
    "norm": [{"learning_rate": 0}],
}  # fmt: skip


def learned(folder, method, depth=1):
    return make_branch(folder, make_rows(), method=method, depth=depth).network.learned()


def grafted(folder, config, depth=1):
    branch = make_branch(folder, make_rows(), method="probe", depth=depth)
    lora.graft(branch.network, config)
    return branch.network.learned()


@pytest.mark.parametrize(("method", "told"), [(m, t) for m, every in RANGES.items() for t in every])
def test_options_out_of_range_are_refused(method, told):
    with pytest.raises(OptionError, match=next(iter(told))):
        names.method(method).Config(**told)


@pytest.mark.parametrize("method", sorted(names.METHODS))
def test_the_head_is_always_trained(method, tiny_folder):
    for depth in (0, 1, 2, ALL):
        assert {"head.linear.weight", "head.linear.bias"} <= learned(tiny_folder("bert"), method, depth).keys()


@pytest.mark.parametrize("method", sorted(names.METHODS))
def test_at_depth_0_there_is_nothing_but_the_head(method, tiny_folder):
    assert set(learned(tiny_folder("bert"), method, 0)) == {"head.linear.weight", "head.linear.bias"}


def test_full_trains_all_that_is_above_the_cut_and_copies_it(tiny_folder):
    branch = make_branch(tiny_folder("bert"), make_rows(), depth=2)
    trained = [name for name in branch.network.learned() if name.startswith("upper.")]
    per_layer = [name for name, _ in branch.backbone.model.encoder.layer[0].named_parameters()]
    assert len(trained) == 2 * len(per_layer)
    shared = {p.data_ptr() for p in branch.backbone.model.parameters()}
    assert not any(p.data_ptr() in shared for p in branch.network.learned().values())
    assert not any(p.requires_grad for p in branch.backbone.model.parameters())


def test_at_depth_all_full_trains_the_embeddings_too(tiny_folder):
    assert any("embeddings.word_embeddings" in name for name in learned(tiny_folder("bert"), "full", ALL))


def test_bitfit_trains_biases_and_nothing_else_above_the_cut(tiny_folder):
    trained = learned(tiny_folder("bert"), "bitfit")
    assert all(name.endswith(".bias") or name.startswith("head.") for name in trained)
    assert sum(name.startswith("upper.") for name in trained) == 8, "query, key, value, two outputs, one in between, two norms"


def test_lora_has_two_matrices_of_its_rank_beside_each_target(tiny_folder):
    trained = grafted(tiny_folder("bert"), lora.Config(rank=3))
    beside = {name: tuple(p.shape) for name, p in trained.items() if name.startswith("upper.")}
    assert len(beside) == 2 * 6
    assert all(shape[0 if "lora_A" in name else 1] == 3 for name, shape in beside.items())
    assert all(not p.any() for name, p in trained.items() if "lora_B" in name), "it starts at zero"
    attention = grafted(tiny_folder("bert"), lora.Config(rank=3, targets="attention"))
    assert sorted({name.split(".")[-4] for name in attention if name.startswith("upper.")}) == ["key", "query", "value"]


def test_every_family_has_attention_targets(tiny_folder):
    for model_type in ("bert", "distilbert", "gpt2", "gpt_neox", "llama", "mpnet", "deberta-v2", "t5", "modernbert", "phi3"):
        assert any("lora" in name for name in grafted(tiny_folder(model_type), lora.Config(targets="attention")))


def test_lora_takes_targets_by_name_and_refuses_where_there_is_none(tiny_folder):
    some = grafted(tiny_folder("bert"), lora.Config(targets="query+output.dense"))
    assert sorted({name.rsplit(".", 3)[0].removeprefix("upper.encoder.layer.0.") for name in some if name.startswith("upper.")}) == [
        "attention.output.dense",
        "attention.self.query",
        "output.dense",
    ]
    with pytest.raises(OptionError, match=r"targets='wonder': no such linear layer above the cut. Use 'all', .*: dense, key, query, value"):
        grafted(tiny_folder("bert"), lora.Config(targets="wonder"))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize(
    "told", [{"dora": True}, {"rslora": True}, {"start": "pissa"}, {"start": "pissa", "dora": True}, {"start": "eva"}], ids=str
)
def test_kin_of_lora_start_as_the_plain_model_and_leave_it_alone(told, family, tiny_folder):
    plain = make(tiny_folder(family), "classify", "probe", 1)
    before = bytes_of(plain.backbone)
    branch = Branch.new(plain.backbone, plain.spec, "lora", lora.Config(rank=2, **told), 1, "float32")
    items = plain.prepare(rows("classify"))
    torch.manual_seed(0)
    plain.network.head.load_state_dict(branch.network.head.state_dict())
    assert np.allclose(logits(plain, items, plain.source()), logits(branch, items, branch.source()), atol=1e-5)
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    merged = branch.merged()
    assert np.allclose(logits(branch, items, branch.source()), logits(merged, items, merged.source()), atol=1e-4)
    assert bytes_of(plain.backbone) == before


def test_pissa_puts_the_strongest_directions_into_the_update(tiny_folder):
    branch = make_branch(tiny_folder("bert"), make_rows(), method="probe")
    lora.graft(branch.network, lora.Config(rank=3, alpha=3.0, start="pissa"))
    layer = branch.network.upper.encoder.layer[0].attention.self.query
    whole = branch.backbone.model.encoder.layer[2].attention.self.query.weight
    left, sizes, right = np.linalg.svd(whole.detach().numpy())
    strongest = (left[:, :3] * sizes[:3]) @ right[:3]
    update = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().numpy()
    assert np.allclose(update, strongest, atol=1e-4)


def test_a_branch_that_started_with_pissa_answers_the_same_when_loaded(tiny_folder, tmp_path):
    plain = make(tiny_folder("bert"), "classify", "probe", 1)
    branch = Branch.new(plain.backbone, plain.spec, "lora", lora.Config(rank=2, start="pissa"), 1, "float32")
    items = plain.prepare(rows("classify"))
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert np.allclose(logits(again, items, again.source()), logits(branch, items, branch.source()), atol=1e-5)


def test_lora_plus_gives_the_b_matrices_a_rate_of_their_own(tiny_folder):
    branch = make_branch(tiny_folder("bert"), make_rows(), method="probe")
    lora.graft(branch.network, lora.Config(rank=2, ratio=16.0))
    optimizer, rates = _optimizer(branch.network.learned(), Settings(head_learning_rate=0.5), 1e-3, branch.network.guide.rate)
    by_parameter = {id(p): rate for group, rate in zip(optimizer.param_groups, rates) for p in group["params"]}
    for name, parameter in branch.network.learned().items():
        wanted = 0.5 if name.startswith("head.") else 16e-3 if "lora_B" in name else 1e-3
        assert by_parameter[id(parameter)] == pytest.approx(wanted)


@pytest.mark.parametrize("family", sorted(set(tiny.SIZES) - {"albert"}))
def test_every_family_says_where_its_sublayers_end(family, tiny_folder):
    """One attention and one feed-forward block a layer, and as wide as the model; T5's decoder has two attentions."""
    network = make_branch(tiny_folder(family), make_rows(), method="probe", depth=2).network
    layers, width = injected.linear(network), network._backbone.width
    for ends in (injected.attention_ends(network), injected.feedforward_ends(network)):
        assert len(ends) == 2
        assert all(width in layers[name].weight.shape for name in ends)
    assert len(injected.keys_and_values(network)) in (2, 4)


def test_adapters_stand_where_the_placement_says(tiny_folder):
    every = {"houlsby": ["attention.output.dense", "output.dense"], "pfeiffer": ["output.dense"]}
    for placement, wanted in every.items():
        branch = make_branch(tiny_folder("bert"), make_rows(), method="probe", depth=2)
        adapter.graft(branch.network, adapter.Config(size=5, placement=placement))
        shapes = {name: tuple(p.shape) for name, p in branch.network.learned().items() if name.endswith("down.weight")}
        found = sorted({name.removeprefix("upper.encoder.layer.")[2:].removesuffix(".adapter.down.weight") for name in shapes})
        assert found == wanted
        assert len(shapes) == 2 * len(wanted)
        assert set(shapes.values()) == {(5, 32)}


def test_norm_trains_the_norms_and_nothing_else(tiny_folder):
    for family, count in (("bert", 4), ("llama", 3), ("t5", 3), ("deberta-v2", 4)):
        trained = [name for name in learned(tiny_folder(family), "norm") if name.startswith("upper.")]
        assert len(trained) == count, trained
        assert all("norm" in name.lower() for name in trained)


def test_ia3_scales_keys_values_and_the_widened_states(tiny_folder):
    trained = make_branch(tiny_folder("bert"), make_rows(), method="ia3").network.learned()
    shapes = {name.rsplit(".", 3)[-3]: tuple(p.shape) for name, p in trained.items() if name.startswith("upper.")}
    assert shapes == {"key": (32, 1), "value": (32, 1), "dense": (1, 32)}
    assert all(bool((p == 1).all()) for name, p in trained.items() if name.startswith("upper."))


# Prefix and prompt


SERVED = sorted(set(tiny.SIZES) - {"mpnet", "deberta-v2", "gemma2"})


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("depth", [1, ALL])
def test_every_attention_above_the_cut_gets_a_prefix(family, depth, tiny_folder):
    if family == "albert" and depth == 1:
        pytest.skip("its layers cannot be cut")
    plain, branch = (make_branch(tiny_folder(family), make_rows(), method=method, depth=depth) for method in ("probe", "prefix"))
    count = 1 if depth == 1 or family == "albert" else branch.backbone.layers
    assert sum(name.endswith("prefix.keys") for name in branch.network.learned()) == count
    items = plain.prepare(make_rows()[:4])
    plain.network.head.load_state_dict(branch.network.head.state_dict())
    assert np.allclose(logits(plain, items, plain.source()), logits(branch, items, branch.source()), atol=1e-6), "the gate is closed"
    with torch.no_grad():
        for name, parameter in branch.network.learned().items():
            if name.endswith("gate"):
                parameter.fill_(1.0)
    assert not np.allclose(logits(plain, items, plain.source()), logits(branch, items, branch.source()), atol=1e-4)


@pytest.mark.parametrize("family", sorted(set(tiny.SIZES) - set(SERVED)))
def test_a_family_without_a_place_for_a_prefix_is_refused(family, tiny_folder):
    with pytest.raises(OptionError, match="has no place for a prefix"):
        make_branch(tiny_folder(family), make_rows(), method="prefix")


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_prefix_in_one_softmax_is_what_the_library_s_cache_makes_of_it(family, padded, tiny_folder):
    """The same keys and values in front of those of the text, by another road: the cache that the model is given."""
    branch = make_branch(tiny_folder(family), make_rows(), method="probe", depth=ALL)
    prefix.graft(branch.network, prefix.Config(length=3, gate=False))
    ids = torch.randint(5, 100, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]) if padded else torch.ones(2, 6, dtype=torch.int64)
    with torch.no_grad():
        got = branch.network.upper(input_ids=ids, attention_mask=mask if padded else None).last_hidden_state
    kind, told = type(branch.backbone.model), AutoConfig.from_pretrained(tiny_folder(family))
    if family == "bert":
        told.is_decoder = True  # else it takes no cache; its mask is then causal, and so only its last state may be compared
    model = kind.from_pretrained(tiny_folder(family), config=told).eval()
    prefixes = [module for module in branch.network.upper.modules() if isinstance(module, prefix.Prefix)]
    cache = DynamicCache()
    for at, one in enumerate(prefixes):
        cache.update(one.keys.detach().expand(2, -1, -1, -1), one.values.detach().expand(2, -1, -1, -1), at)
    positions = torch.arange(6)[None]  # a prefix takes no positions from the text
    whole_mask = torch.cat([torch.ones(2, 3, dtype=torch.int64), mask], 1)
    if family == "bert":
        whole_mask = whole_mask[:, None, None, :].expand(2, 1, 6, 9).bool()
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=whole_mask, position_ids=positions, past_key_values=cache).last_hidden_state
    assert torch.allclose(got[mask.bool()], wanted[mask.bool()], atol=1e-5)


def test_a_text_is_written_with_its_prefix(tiny_folder):
    """With the cache and token by token as in one pass over all."""
    branch = make(tiny_folder("llama"), "generate", "prefix", 2)
    with torch.no_grad():
        for name, parameter in branch.network.learned().items():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    model = branch.network.head.model.around(branch.backbone.whole(branch.network.upper, 2)).eval()
    ids = torch.randint(5, 100, (1, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for cached in (True, False):
            said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, use_cache=cached)
            if cached:
                wanted = said
        assert said.tolist() == wanted.tolist()
        plain = make(tiny_folder("llama"), "generate", "full", 2)
        other = plain.network.head.model.around(plain.backbone.whole(plain.network.upper, 2)).eval()(input_ids=wanted).logits
        assert not torch.allclose(other, model(input_ids=wanted).logits, atol=1e-2), "the prefix does something"


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "gpt2", "llama", "t5", "modernbert", "deberta-v2", "mpnet", "distilbert"])
def test_a_prompt_at_depth_all_is_the_paper_s(family, tiny_folder):
    """In front of the word embeddings of the library's own model; behind the last layer it is cut off."""
    branch = make_branch(tiny_folder(family), make_rows(), method="prompt", depth=ALL)
    items = branch.prepare(make_rows()[:4])
    batch = collate(items, None, branch.spec, branch.backbone.tokenizer.pad_id)
    vectors = branch.network.upper.prompt.vectors.detach()
    stack = branch.backbone.stack
    embedded = torch.cat([vectors.expand(4, -1, -1), stack.get_input_embeddings()(batch.ids)], 1)
    with torch.no_grad():
        mask = torch.cat([torch.ones(4, len(vectors), dtype=torch.int64), batch.mask.long()], 1)
        wanted = stack(inputs_embeds=embedded, attention_mask=mask).last_hidden_state[:, len(vectors) :]
        got = branch.network(batch).hidden
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


@pytest.mark.parametrize("family", sorted(set(tiny.SIZES) - {"albert"}))
def test_a_prompt_enters_above_the_cut_in_every_family(family, tiny_folder):
    plain, branch = (make_branch(tiny_folder(family), make_rows(), method=method, depth=1) for method in ("probe", "prompt"))
    items = plain.prepare(make_rows()[:4])
    plain.network.head.load_state_dict(branch.network.head.state_dict())
    got = logits(branch, items, branch.source())
    assert not np.allclose(logits(plain, items, plain.source()), got, atol=1e-4)
    alone = np.concatenate([logits(branch, [item], branch.source()) for item in items])
    assert np.allclose(alone, got, atol=1e-5), "padding changes nothing"


def test_p_tuning_starts_as_a_prompt_and_learns_through_its_network(tiny_folder, tmp_path):
    rows, made = make_rows(), {}
    for encoder in ("none", "mlp"):
        branch = make_branch(tiny_folder("bert"), rows, method="probe")
        torch.manual_seed(0)
        prompt.graft(branch.network, prompt.Config(encoder=encoder))
        made[encoder] = branch
    items = made["none"].prepare(rows[:4])
    assert np.array_equal(*(logits(branch, items, branch.source()) for branch in made.values()))
    more = made["mlp"].network.learned().keys() - made["none"].network.learned().keys()
    assert sorted(name.rpartition("encoder.")[2] for name in more) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    branch = tune(
        split(rows, validation=0.2, test=0.2), tiny_folder("bert"), method="prompt:encoder=mlp", depth=1, settings=settings(epochs=4)
    )
    again = load(branch.save(tmp_path / "p"))
    assert np.array_equal(*(np.stack([answer.scores for answer in one.predict(rows[:8])]) for one in (branch, again)))


def test_a_text_that_leaves_no_room_for_the_prompt_is_refused(tiny_folder):
    branch = make_branch(tiny_folder("bert"), make_rows(), method="probe", depth=ALL)
    prompt.graft(branch.network, prompt.Config(length=62))
    with pytest.raises(OptionError, match=r"length=62 and a text of \d+ tokens: the model holds 64. Use a shorter prompt, or max_tokens=2"):
        branch.answers(branch.prepare(make_rows()))


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_what_cannot_be_merged_says_so(method, tiny_folder):
    with pytest.raises(OptionError, match=f"method='{method}': .* cannot be merged"):
        make_branch(tiny_folder("bert"), make_rows(), method=method).merged()


@pytest.mark.parametrize(("task", "family"), [("generate", "llama"), ("seq2seq", "t5")])
def test_a_prompt_for_a_task_that_writes_is_refused(task, family, tiny_folder):
    with pytest.raises(OptionError, match="method='prompt': a task that writes"):
        make(tiny_folder(family), task, "prompt", 1)


def test_a_method_that_is_not_known_is_refused_with_the_nearest(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    with pytest.raises(OptionError, match=r"method='loar': unknown. Did you mean 'lora'"):
        Branch.new(backbone, names.task("classify").TaskSpec(labels=("a", "b")), "loar", None, 1)


# QLoRA


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "told", [{}, {"targets": "attention"}, {"dora": True}, {"start": "pissa", "rank": 2}, {"start": "eva", "rank": 2}], ids=str
)
def test_with_bits_4_every_frozen_layer_is_rounded_and_merging_changes_no_answer(told, depth, family, tiny_folder):
    plain = make(tiny_folder(family), "classify", "probe", depth)
    before = bytes_of(plain.backbone)
    branch = Branch.new(plain.backbone, plain.spec, "lora", lora.Config(bits=4, **told), depth, "float32")
    layers = {name: m for name, m in branch.network.upper.named_modules() if isinstance(m, Nf4Linear)}
    assert len(layers) == len(injected.linear(plain.network))
    assert not [n for n, m in injected.linear(branch.network).items() if "lora_" not in n], "none is left in float"
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    items = branch.prepare(rows("classify"))
    merged = branch.merged()
    assert np.allclose(logits(branch, items, branch.source()), logits(merged, items, merged.source()), atol=1e-4)
    assert not [m for m in merged.network.upper.modules() if isinstance(m, Nf4Linear)]
    assert not np.allclose(logits(branch, items, branch.source()), logits(plain, items, plain.source()), atol=1e-3)
    assert bytes_of(plain.backbone) == before


def test_lora_in_4_bits_starts_as_the_model_with_rounded_weights(tiny_folder):
    plain = make(tiny_folder("bert"), "classify", "probe", 2)
    branch = make(tiny_folder("bert"), "classify", "lora:bits=4", 2)
    with torch.no_grad():
        for module in plain.network.upper.modules():
            if type(module) is torch.nn.Linear:
                module.weight = torch.nn.Parameter(dequantise(*quantise(module.weight), module.weight.shape))
    items = plain.prepare(rows("classify"))
    assert np.allclose(logits(plain, items, plain.source()), logits(branch, items, branch.source()), atol=1e-6)


def test_on_a_trunk_in_4_bits_no_weight_is_there_twice_or_in_float(tiny_folder, tmp_path):
    branch = make(tiny_folder("bert"), "classify", "lora:bits=4", 2, precision="nf4")
    held = {layer.packed.data_ptr() for layer in branch.backbone.model.modules() if isinstance(layer, Nf4Linear)}
    layers = [layer for layer in branch.network.upper.modules() if isinstance(layer, Nf4Linear)]
    assert len(layers) == 12
    assert all(layer.packed.data_ptr() in held for layer in layers)
    large = [name for name, p in branch.network.named_parameters() if p.dim() > 1 and not p.requires_grad]
    assert not large
    assert not len(branch.backbone._published), "what was read for the start is gone"
    items = branch.prepare(rows("classify"))
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert again.backbone.trunk_precision == "nf4"
    assert np.array_equal(logits(again, items, again.source()), logits(branch, items, branch.source()))


def test_lora_in_4_bits_does_not_leave_as_an_adapter(tiny_folder, tmp_path):
    with pytest.raises(OptionError, match=r"bits=4: the update was learned on layers in 4 bits.*lora:bits=32"):
        make(tiny_folder("bert"), "classify", "lora:bits=4", 1).export(tmp_path / "adapter")


@pytest.mark.parametrize(("task", "family"), [("generate", "llama"), ("seq2seq", "t5")])
def test_what_is_written_on_4_bits_is_what_was_trained_on_them(task, family, tiny_folder, tmp_path):
    """The whole model writes: its layers below the cut are those that the stored states came from."""
    branch = make(tiny_folder(family), task, "lora:bits=4", 1, precision="nf4")
    with torch.no_grad():
        for name, parameter in branch.network.learned().items():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    texts = rows(task)
    said = [answer.value for answer in branch.predict(texts)]
    assert said == [answer.value for answer in branch.merged().predict(texts)]
    branch.save(tmp_path / "branch")
    assert said == [answer.value for answer in branches.load(tmp_path / "branch").predict(texts)]
    stack = branch.backbone.whole(branch.network.upper, 1)
    in_float = [m for m in stack.modules() if type(m) is torch.nn.Linear and not m.weight.requires_grad]
    assert not in_float

"""What each method trains and what it leaves alone; that it learns, merges and saves is held by tests/test_contract.py."""

import pytest

from tests.train.samples import make_branch, make_rows
from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.methods import lora
from trunkline.model.backbone import ALL, load_backbone

RANGES = {
    "full": [{"learning_rate": 0}, {"learning_rate": 2}],
    "bitfit": [{"learning_rate": 0}],
    "probe": [{"learning_rate": float("nan")}],
    "lora": [{"rank": 0}, {"rank": 2000}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"targets": "some"}, {"learning_rate": 0}],
}


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


@pytest.mark.parametrize("method", ["probe", "lora", "full", "bitfit"])
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


def test_lora_without_a_target_is_refused(tiny_folder, monkeypatch):
    monkeypatch.setattr(lora, "_ATTENTION", ())
    with pytest.raises(OptionError, match=r"no such linear layer above the cut. Use 'all'"):
        grafted(tiny_folder("bert"), lora.Config(targets="attention"))


def test_a_method_that_is_not_known_is_refused_with_the_nearest(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    with pytest.raises(OptionError, match=r"method='loar': unknown. Did you mean 'lora'"):
        Branch.new(backbone, names.task("classify").TaskSpec(labels=("a", "b")), "loar", None, 1)

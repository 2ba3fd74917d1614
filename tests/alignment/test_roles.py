import numpy as np
import pytest
import torch

from tests import tiny
from trunkline import branch as branches
from trunkline.alignment.roles import begin, fresh, log_probabilities, of_rows, policy_from, same_trunk, token_log_probabilities
from trunkline.errors import OptionError
from trunkline.model.backbone import load_backbone
from trunkline.states.collate import collate
from trunkline.states.encode import encode
from trunkline.states.store import States
from trunkline.types import Rows

ANSWERS = ("my account", "the order has not arrived", "today", "please help me with my account", "it was damaged", "yes", "no")


def rows(task="generate"):
    return Rows(tuple({"text": text, "label": answer} for text, answer in zip(tiny.TEXTS, ANSWERS)), task)


@pytest.fixture
def start(tiny_folder):
    branch = fresh(load_backbone(tiny_folder("llama")), rows(), "lora", 2, "float32")
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return branch


def test_the_policy_starts_as_the_reference_and_shares_what_is_frozen(start):
    policy = policy_from(start)
    items = start.prepare(rows())
    was = token_log_probabilities(start, items)
    assert all(np.array_equal(a, b) for a, b in zip(was, token_log_probabilities(policy, items)))
    frozen = {name: p for name, p in start.network.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(p.data_ptr() == frozen[name].data_ptr() for name, p in policy.network.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        for parameter in policy.network.learned().values():
            parameter.add_(1.0)
    assert all(np.array_equal(a, b) for a, b in zip(was, token_log_probabilities(start, items))), "the reference never moves"
    assert not np.allclose(was[0], token_log_probabilities(policy, items)[0])


@pytest.mark.parametrize("depth", [1, 3, "all"])
@pytest.mark.parametrize(("family", "task"), [("llama", "generate"), ("gpt2", "generate"), ("t5", "seq2seq")])
def test_a_fresh_start_gives_each_token_the_log_probability_of_the_plain_model(family, task, depth, tiny_folder):
    branch = fresh(load_backbone(tiny_folder(family)), rows(task), "lora", depth)
    plain = branches.Branch.new(branch.backbone, branch.spec, "probe", branches.names.method("probe").Config(), depth, branch.states)
    items = branch.prepare(rows(task))
    found, wanted = token_log_probabilities(branch, items), token_log_probabilities(plain, items, max_tokens=1)
    assert [len(one) for one in found] == [int((np.asarray(item.target) != -100).sum()) for item in items]
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted))


def test_a_decoders_are_those_of_the_library(tiny_folder):
    branch = fresh(load_backbone(tiny_folder("gpt2")), rows(), "lora", 2, "float32")
    (item,) = branch.prepare(rows()[:1])
    ids = torch.from_numpy(item.tokens[0].ids).long()[None]
    with torch.no_grad():
        hidden = branch.backbone.model(input_ids=ids).last_hidden_state[0]
        logits = hidden @ branch.backbone.model.get_input_embeddings().weight.T
    wanted = torch.log_softmax(logits[:-1], -1)[torch.arange(len(ids[0]) - 1), ids[0, 1:]].numpy()
    (found,) = token_log_probabilities(branch, [item])
    assert np.allclose(found, wanted[-len(found) :], atol=1e-5)
    assert np.isclose(log_probabilities([found])[0], wanted[-len(found) :].sum(), atol=1e-4)


def test_stored_states_give_what_live_ones_give(start, tmp_path):
    items, trunk = start.prepare(rows()), start.backbone.trunk(start.depth)
    store = States.open(tmp_path / "states", trunk_id=trunk.id, width=trunk.width, dtype=start.states)
    encode([item.tokens[0] for item in items], trunk, store, progress=False)
    for one, other in zip(token_log_probabilities(start, items, store), token_log_probabilities(start, items)):
        assert np.allclose(one, other, atol=1e-5)


def test_sums_over_sequences_keep_the_gradient(start):
    items = start.prepare(rows())
    out = start.network.eval()(collate(items, start.source(), start.spec, start.backbone.tokenizer.pad_id))
    sums, counts = of_rows(out.logits, out.extra["rows"], len(items))
    alone = token_log_probabilities(start, items)
    assert np.allclose(sums.detach().numpy(), log_probabilities(alone), atol=1e-4)
    assert counts.tolist() == [len(one) for one in alone]
    sums.sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum()) for p in start.network.learned().values())


def test_a_start_that_cannot_be_gone_on_from_is_refused(start, tiny_folder, tmp_path):
    start.save(tmp_path / "sft")
    assert begin(tmp_path / "sft").method == "lora"
    config = branches.names.method("full").Config()
    spec = branches.names.task("classify").TaskSpec(labels=("a", "b"))
    with pytest.raises(OptionError, match="a policy writes"):
        begin(branches.Branch.new(start.backbone, spec, "full", config, 1))
    with pytest.raises(OptionError, match="no plain model"):
        fresh(start.backbone, rows(), "prompt", 1)
    with pytest.raises(OptionError, match="by their trunk"):
        same_trunk({"policy": start, "reference": fresh(start.backbone, rows(), "lora", 1, "float32")})
    same_trunk({"policy": start, "reference": policy_from(start)})

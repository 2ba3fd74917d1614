"""LoRA's start by EVA: the directions are those in which a layer's inputs vary most, and a run that was stopped goes on bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.alignment.worlds import PROMPTS, count, start
from tests.test_contract import logits, make, rows
from tests.train.samples import make_branch, make_data, make_rows, settings, weights, without_seconds
from trunkline import branch as branches
from trunkline.alignment import ppo
from trunkline.alignment.online import learn
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.methods import lora
from trunkline.model.injected import injected
from trunkline.states.collate import collate
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import Data, _Loop, fit

CONFIG = lora.Config(rank=4, start="eva")


def new(folder, config=CONFIG, depth=1):
    plain = make_branch(folder, make_rows(), method="probe", depth=depth)
    torch.manual_seed(0)
    return Branch.new(plain.backbone, plain.spec, "lora", config, depth, "float32")


def begun(branch, data, seed=0):
    _Loop(branch.network, data, settings(), 1e-3, seed, None).resume()
    return branch


def downs(branch):
    return {name: layer.lora_A["default"].weight.detach().clone() for name, layer in injected(branch.network).items()}


@pytest.mark.parametrize("depth", [2, "all"])
def test_its_directions_are_those_of_most_variance_of_what_goes_into_each_layer(depth, tiny_folder):
    branch = new(tiny_folder("bert"), depth=depth)
    data = make_data(branch, make_rows()[:24])
    assert sum(len(item.tokens[0]) for item in data.train) < 256, "one piece: exact"
    seen = {name: [] for name in injected(branch.network)}
    hooks = [
        layer.register_forward_pre_hook(lambda module, given, name=name: seen[name].append(given[0][0].numpy()))
        for name, layer in injected(branch.network).items()
    ]
    with torch.no_grad():
        for item in data.train:
            branch.network.eval()(collate([item], data.source, data.spec))
    for hook in hooks:
        hook.remove()
    found = downs(begun(branch, data))
    assert len(found) == 6 * (3 if depth == "all" else 2)
    for name, inputs in seen.items():
        centred = np.concatenate(inputs) - np.concatenate(inputs).mean(0)
        wanted = np.linalg.svd(centred, full_matrices=False)[2][:4]
        got = found[name].numpy()
        assert np.allclose(got.T @ got, wanted.T @ wanted, atol=1e-4), name


def test_in_pieces_it_finds_almost_the_same(tiny_folder, monkeypatch):
    whole = downs(begun(new(tiny_folder("bert")), make_data(new(tiny_folder("bert")), make_rows()[:24])))
    monkeypatch.setattr(lora, "_AT_ONCE", 40)
    pieces = downs(begun(new(tiny_folder("bert")), make_data(new(tiny_folder("bert")), make_rows()[:24])))
    shared = [float(torch.linalg.matrix_norm(whole[name] @ pieces[name].T) ** 2) / 4 for name in whole]
    assert min(shared) > 0.6, "1 would be the same four directions, and four by chance share an eighth"
    assert sum(shared) / len(shared) > 0.8
    monkeypatch.setattr(lora, "_TOKENS", 40)
    first = downs(begun(new(tiny_folder("bert")), make_data(new(tiny_folder("bert")), make_rows()[:24])))
    assert any(not torch.equal(first[name], pieces[name]) for name in first), "after so many tokens it looks no further"


@pytest.mark.parametrize(
    ("task", "family"),
    [("classify", "bert"), ("rank", "bert"), ("tag", "gpt2"), ("generate", "llama"), ("seq2seq", "t5"), ("classify", "t5")],
)
def test_it_starts_as_the_plain_model_for_every_kind_of_task_and_model(task, family, tiny_folder):
    plain = make(tiny_folder(family), task, "full", 1)
    branch = Branch.new(plain.backbone, plain.spec, "lora", CONFIG, 1, "float32")
    plain.network.head.load_state_dict(branch.network.head.state_dict())
    items = branch.prepare(rows(task))
    before = downs(branch)
    begun(branch, Data(items, items, branch.source(), branch.spec, branch.backbone.tokenizer.pad_id))
    assert not any(torch.equal(down, before[name]) for name, down in downs(branch).items())
    for down in downs(branch).values():
        assert torch.allclose(down @ down.T, torch.eye(4), atol=1e-4)
    assert np.allclose(logits(plain, items, plain.source()), logits(branch, items, branch.source()), atol=1e-5)


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.wide), 7])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(stop_at, tiny_folder, tmp_path):
    def train(branch, on_step=None, checkpoints=None):
        data = make_data(branch, make_rows())
        return fit(branch.network, data, settings(), learning_rate=5e-3, seed=0, on_step=on_step, checkpoints=checkpoints)

    def stop(progress, steps):
        if progress.step == stop_at:
            raise KeyboardInterrupt

    whole, again = new(tiny_folder("bert")), new(tiny_folder("bert"))
    wanted = train(whole)
    with Checkpoints(tmp_path / "checkpoints", {}) as kept, pytest.raises(KeyboardInterrupt):
        train(new(tiny_folder("bert")), stop, kept)
    with Checkpoints(tmp_path / "checkpoints", {}) as kept:
        got = train(again, checkpoints=kept)
    assert weights(again) == weights(whole)
    assert without_seconds(got.history) == without_seconds(wanted.history)
    whole.save(tmp_path / "branch")
    loaded = branches.load(tmp_path / "branch")
    assert weights(loaded) == weights(whole)


def test_a_branch_that_is_gone_on_with_keeps_what_it_learned(tiny_folder):
    branch = new(tiny_folder("bert"))
    layer = next(iter(injected(branch.network).values()))
    with torch.no_grad():
        layer.lora_B["default"].weight[0, 0] = 0.1
    before = downs(branch)
    begun(branch, make_data(branch, make_rows()))
    assert all(torch.equal(down, before[name]) for name, down in downs(branch).items())


def test_fewer_tokens_than_directions_are_refused(tiny_folder):
    branch = new(tiny_folder("bert"), replace(CONFIG, rank=30))
    with pytest.raises(OptionError, match=r"rank=30: start='eva' .* the training rows have \d+ tokens. Use a smaller rank"):
        begun(branch, make_data(branch, make_rows()[:2], validation=2))


def test_a_policy_that_has_no_rows_to_begin_from_refuses_it(tiny_folder):
    with pytest.raises(OptionError, match="start='eva': begins from training rows"):
        learn(start(tiny_folder("gpt2"), "lora:start=eva"), PROMPTS, count, ppo.GOAL, ppo.Config(steps=1))

"""Answers that are drawn, and the states that are caught while they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from trunkline.alignment.roles import fresh, token_log_probabilities
from trunkline.alignment.rollout import Drawing, check_policy, roll_out
from trunkline.alignment.scoring import cut_states, token_scores
from trunkline.errors import OptionError
from trunkline.model.backbone import load_backbone
from trunkline.states.collate import collate
from trunkline.types import Rows

PROMPTS = [{"text": text} for text in ("my card", "please cancel the order", "refund", "the package was damaged when it")]


def policy(tiny_folder, family="gpt2", depth=2, method="full"):
    task = "seq2seq" if family in ("t5", "bart") else "generate"
    rows = Rows(tuple({"text": text, "label": "today"} for text in tiny.TEXTS), task)
    made = fresh(load_backbone(tiny_folder(family)), rows, method, depth, "float32")
    with torch.no_grad():
        for parameter in made.network.learned().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def batch_of(branch, rollouts):
    return collate(list(rollouts.items), rollouts.source, branch.spec, branch.backbone.tokenizer.pad_id)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma3_text"])
def test_states_that_are_caught_while_writing_are_those_of_a_fresh_trunk_pass(family, tiny_folder):
    branch = policy(tiny_folder, family)
    found = roll_out(branch, PROMPTS * 2, Drawing(max_new_tokens=6), seed=3)
    tokens = [item.tokens[0] for item in found.items] + list(found.said)
    for caught, fresh_pass in zip(found.source.read(tokens), branch.source().read(tokens), strict=True):
        assert caught.shape == fresh_pass.shape
        assert np.abs(caught - fresh_pass).max() < 1e-5 * max(1, np.abs(fresh_pass).max())


def test_an_answer_goes_to_its_end_and_no_further(tiny_folder):
    branch = policy(tiny_folder)
    found = roll_out(branch, PROMPTS * 40, Drawing(max_new_tokens=8), seed=0)
    (end,) = branch.backbone.ends
    assert 0 < found.ended.sum() < len(found)
    for ids, ended, text, item, said in zip(found.ids, found.ended, found.texts, found.items, found.said):
        assert (ids[-1] == end) == ended
        assert end not in ids[:-1]
        assert ended or len(ids) == 8
        assert text == branch.backbone.tokenizer.text(ids.tolist())
        assert item.tokens[0].ids.tolist() == [*item.about.tolist(), *ids.tolist()]
        assert said.ids.tolist() == item.tokens[0].ids[: len(item.tokens[0]) - ended].tolist()
    assert found.mask.sum() == sum(map(len, found.ids))


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(tiny_folder):
    branch = policy(tiny_folder)
    once, again, other = (roll_out(branch, PROMPTS, Drawing(max_new_tokens=8), seed=seed) for seed in (5, 5, 6))
    assert once.texts == again.texts != other.texts


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_writes_too(family, depth, tiny_folder):
    branch = policy(tiny_folder, family, depth)
    found = roll_out(branch, PROMPTS, Drawing(max_new_tokens=6), seed=0)
    batch = batch_of(branch, found)
    scores = token_scores(branch.network.eval(), batch)
    assert len(scores.log_probability) == sum(map(len, found.ids)) == found.mask.sum()
    alone = np.concatenate(token_log_probabilities(branch, list(found.items)))
    assert np.abs(scores.log_probability.detach().numpy() - alone).max() < 1e-5


def test_tokens_are_drawn_as_often_as_they_are_likely(tiny_folder):
    branch = policy(tiny_folder)
    drawing = Drawing(max_new_tokens=1, temperature=2.0)
    found = roll_out(branch, PROMPTS[:1] * 1000, drawing, seed=0)
    counts = np.bincount(np.concatenate(found.ids), minlength=branch.backbone.config.vocab_size) / 1000
    with torch.no_grad():
        scores = token_scores(branch.network, batch_of(branch, found), temperature=2.0)
    likely = {int(ids[0]): float(p) for ids, p in zip(found.ids, scores.log_probability.exp())}
    for token, p in likely.items():
        assert abs(counts[token] - p) < 4.5 * (p * (1 - p) / 1000) ** 0.5 + 1e-3


def test_scores_are_those_of_the_whole_plain_model_and_so_are_their_gradients(tiny_folder):
    """Log-probabilities and entropies, and through both back into a weight, against autograd through the library's own logits."""
    branch = policy(tiny_folder, method="lora")
    found = roll_out(branch, PROMPTS, Drawing(max_new_tokens=6), seed=0)
    scores = token_scores(branch.network.eval(), batch_of(branch, found), temperature=1.5, with_entropy=True)
    weights = torch.linspace(-1, 1, len(scores.entropy))
    (weights * scores.log_probability + weights.flip(0) * scores.entropy).sum().backward()
    learned = {name: p.grad.clone() for name, p in branch.network.learned().items() if p.grad is not None}
    branch.network.zero_grad()

    model, logs, entropies = branch.network.writer().model, [], []
    for item, ids in zip(found.items, found.ids):
        logits = model(input_ids=torch.from_numpy(item.tokens[0].ids).long()[None]).logits[0, len(item.about) - 1 : -1] / 1.5
        every = torch.log_softmax(logits, -1)
        logs.append(every[torch.arange(len(ids)), torch.from_numpy(ids)])
        entropies.append(-(every.exp() * every).sum(-1))
    logs, entropies = torch.cat(logs), torch.cat(entropies)
    assert torch.allclose(scores.log_probability, logs, atol=1e-5)
    assert torch.allclose(scores.entropy, entropies, atol=1e-5)
    (weights * logs + weights.flip(0) * entropies).sum().backward()
    assert learned
    for name, parameter in branch.network.learned().items():
        if name in learned:
            assert torch.allclose(learned[name], parameter.grad, atol=1e-5), name


def test_values_are_read_from_the_state_before_each_token(tiny_folder):
    branch = policy(tiny_folder)
    found = roll_out(branch, PROMPTS, Drawing(max_new_tokens=4), seed=0)
    states = cut_states(batch_of(branch, found)).numpy()
    whole = found.source.read([item.tokens[0] for item in found.items])
    wanted = np.concatenate([one[len(item.about) - 1 : -1] for one, item in zip(whole, found.items)])
    assert np.array_equal(states, wanted)


def test_a_policy_without_a_trunk_or_with_other_ends_is_refused(tiny_folder):
    with pytest.raises(OptionError, match="depth=all"):
        check_policy(policy(tiny_folder, depth="all"))
    branch = policy(tiny_folder)
    branch.spec = replace(branch.spec, stop="today")
    with pytest.raises(OptionError, match="stop='today'"):
        check_policy(branch)
    with pytest.raises(OptionError, match="Shorten the prompts"):
        roll_out(policy(tiny_folder), PROMPTS, Drawing(max_new_tokens=64), seed=0)

"""A reward that is learned beside the policy: its gradient on a world that can be counted out, both modes, both kinds of model."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.alignment.test_estimators import world
from tests.alignment.worlds import PROMPTS, WORD, start
from trunkline.alignment import ift
from trunkline.alignment.estimators import kl_k1, policy_loss, token_rewards
from trunkline.alignment.online import _weights
from trunkline.alignment.rollout import Drawing, roll_out
from trunkline.data.split import split
from trunkline.errors import DataError
from trunkline.train.settings import Settings
from trunkline.types import Rows

IFT = {"answers": 64, "asked": 64, "max_new_tokens": 4, "learning_rate": 2e-2, "hacking": "off", "kl": 0.01, "steps": 2, "rounds": 6}
ANSWERS = list(itertools.product(range(3), range(3)))


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
@pytest.mark.parametrize("group", [1, 2])
def test_the_expected_gradient_is_that_of_the_expected_reward_and_the_baseline_does_not_move_it(group, coefficient):
    """All pairs of answers of a world of two tokens and three words, by their probability; against autograd through sum p (f - beta log p/q)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    reference, f = torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(9, generator=generator, dtype=torch.float64)
    logs = torch.stack([world(logits, answer) for answer in ANSWERS])
    theirs = torch.stack([world(reference, answer) for answer in ANSWERS])
    p = logs.sum(1).exp()
    assert abs(float(p.sum().detach()) - 1) < 1e-12
    wanted = torch.autograd.grad(-(p * (f - coefficient * (logs - theirs).sum(1))).sum(), logits, retain_graph=True)[0]

    mask, found = torch.ones(2, 2, dtype=torch.bool), torch.zeros_like(logits)
    for one, other in itertools.product(range(9), range(9)):
        new, at = logs[[one, other]], [one, other]
        rewards = token_rewards(f[at], kl_k1(new.detach(), theirs[at]), mask, coefficient)
        gained, _ = ift.advantages(SimpleNamespace(rewards=rewards, mask=mask), SimpleNamespace(group=group))
        loss = policy_loss(new, new.detach(), gained, mask, float("inf"), _weights(ift.GOAL.weights, mask).reshape(2, 2).double())
        found += float((p[one] * p[other]).detach()) * torch.autograd.grad(loss.loss, logits, retain_graph=True)[0]
    assert float((found - wanted).abs().max()) < 1e-9


@pytest.mark.wide
def test_cooperative_the_policy_pleases_people_who_like_one_word(tiny_folder):
    found = ift.learn(
        start(tiny_folder("gpt2")), PROMPTS, ift.Config(**{**IFT, "rounds": 8}), feedback=lambda rows, texts: [len(t) / 10 for t in texts]
    )
    told = [entry["told"] for entry in found.history]
    assert told[-1] > told[0] + 0.2, told
    assert found.history[0]["kl"] == 0.0


def test_cooperative_rounds_without_gain_end_it(tiny_folder):
    told = {**IFT, "rounds": 20, "patience": 2, "steps": 1, "answers": 8, "asked": 8}
    found = ift.learn(start(tiny_folder("gpt2")), PROMPTS, ift.Config(**told), feedback=lambda rows, texts: [1.0] * len(texts))
    assert "liked the answers no better" in found.stopped
    assert found.history[-1]["round"] == 1


@pytest.mark.wide
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_adversarial_psi_tells_the_start_from_people_and_the_policy_becomes_like_them(family, tiny_folder):
    rows = [{**row, "label": " ".join([WORD] * 3)} for row in PROMPTS] * 8
    branch = start(tiny_folder(family), task="seq2seq" if family == "t5" else "generate")
    found = ift.learn(branch, rows, ift.Config(**{**IFT, "mode": "adversarial", "rounds": 7, "kl": 0.0}))
    assert found.history[0]["told"] > 0.8, "a random model is told from people at once"
    scores = [entry["reward"] for entry in found.history]
    assert all(abs(score) < 100 for score in scores)
    assert found.history[-1]["kl"] > 0.05, "it has moved"


def test_adversarial_ends_when_psi_cannot_tell_any_more(tiny_folder):
    """People's answers are the policy's own."""
    branch = start(tiny_folder("gpt2"))
    rollouts = roll_out(branch, PROMPTS * 20, Drawing(4), seed=9)
    rows = [{**row, "label": text} for row, text in zip(PROMPTS * 20, rollouts.texts) if text]
    told = {
        **IFT,
        "mode": "adversarial",
        "rounds": 30,
        "learning_rate": 1e-9,
        "patience": 1,
        "margin": 0.2,
        "psi_steps": 1,
        "steps": 1,
        "answers": 8,
    }
    found = ift.learn(branch, rows, ift.Config(**told))
    assert found.stopped
    assert "took the policy's answers for people's" in found.stopped


def test_rows_that_say_nothing_are_refused(tiny_folder):
    branch = start(tiny_folder("gpt2"))
    with pytest.raises(DataError, match="needs people's answers"):
        ift.learn(branch, PROMPTS, ift.Config(mode="adversarial"))
    with pytest.raises(DataError, match="nothing says what is good"):
        ift.learn(branch, PROMPTS, ift.Config())
    liked = [{**row, "label": "refund", "liked": True} for row in PROMPTS]
    found = ift.learn(branch, liked, ift.Config(**{**IFT, "rounds": 3, "answers": 8, "steps": 1, "patience": 1}))
    assert [entry["round"] for entry in found.history] == [0, 1, 2], "nobody is asked, so no round is known to be without gain"
    assert [entry["told"] for entry in found.history] == [None] * 3


def test_a_run_that_ends_before_its_first_step_is_reported_too(tiny_folder, tmp_path):
    """psi cannot tell the policy's own answers from the policy's: with a patience of one round nothing is ever learned."""
    rows = Rows(tuple({**row, "label": "refund"} for row in PROMPTS), "generate")
    config = ift.Config(**{**IFT, "mode": "adversarial", "patience": 1, "margin": 0.5, "psi_steps": 1, "answers": 8, "asked": 8})
    policy = ift.align(start(tiny_folder("gpt2")), split(rows, validation=0.0, test=0.2), config, Settings(), tmp_path / "out")
    assert policy.report.data["notes"][0] == "ift: no step was taken"
    assert "took the policy's answers for people's" in policy.report.data["notes"][1]
    assert (tmp_path / "out.history/history.html").is_file()


def test_align_takes_the_seed_of_the_settings(tiny_folder, monkeypatch):
    class Stop(Exception):
        pass

    def learn(start, rows, config, on_round):
        raise Stop(config.seed)

    monkeypatch.setattr(ift, "learn", learn)
    rows = Rows(tuple({**row, "label": "refund", "liked": True} for row in PROMPTS), "generate")
    parts = split(rows, validation=0.0, test=0.2)
    with pytest.raises(Stop, match="7"):
        ift.align(start(tiny_folder("gpt2")), parts, ift.Config(), Settings(seed=7))

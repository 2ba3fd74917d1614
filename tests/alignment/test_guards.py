"""What stops a run, and what is not promoted."""

import math

import numpy as np
import pytest
import torch

from tests.alignment.worlds import PROMPTS, TOY, count, start
from trunkline.alignment import online, ppo
from trunkline.alignment.guards import Guard, distinct, promotion, require_promotion
from trunkline.alignment.online import Loop, learn
from trunkline.alignment.rewards import Part
from trunkline.alignment.rollout import Drawing
from trunkline.errors import DataError, OptionError, TrainingError


def entry(step=0, **told):
    return {"step": step, "kl": 0.0, "reward": 0.0, "length": 10.0, "distinct": 0.9, "ended": 1.0, **told}


def test_a_kl_over_twice_the_target_stops_after_ten_updates_and_one_over_the_cap_at_once():
    """R1."""
    guard = Guard(target=1.0)
    assert [guard.judge(entry(step, kl=2.1)) for step in range(9)] == [None] * 9
    assert "twice its target of 1" in guard.judge(entry(9, kl=2.1))
    broken = Guard(target=1.0)
    found = [broken.judge(entry(step, kl=0.5 if step == 5 else 2.1)) for step in range(14)]
    assert found == [None] * 14, "one good update, and the count begins anew"
    assert "over the cap of 5" in Guard(cap=5.0).judge(entry(kl=5.1))
    assert not Guard(target=1.0).good(2.1)
    assert Guard(target=1.0).good(1.9)


def test_a_kl_far_below_zero_stops_with_the_cause():
    """R3."""
    with pytest.raises(TrainingError, match="drawn in another way than they are scored"):
        Guard().judge(entry(kl=-1.01))
    assert Guard().judge(entry(kl=-0.9)) is None


def test_answers_that_are_not_drawn_from_what_scores_them_are_noticed(tiny_folder):
    """R3 in a run: another policy draws, as other settings do."""
    branch = start(tiny_folder("gpt2"))
    loop = Loop(branch, PROMPTS, lambda rows, texts: [0.0] * len(texts), ppo.GOAL, ppo.Config(**TOY), None, None)
    with torch.no_grad():
        for parameter in loop.policy.network.learned().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    found = loop.entry(loop.score(loop.draw()))
    assert found["kl"] > 1.0, "drawn as it is scored, the KL is above zero"
    loop.policy, loop.start = loop.start, loop.policy
    drawn = loop.draw()
    loop.policy, loop.start = loop.start, loop.policy
    loop.draw = lambda: drawn
    with pytest.raises(TrainingError, match="below zero beyond chance"):
        loop.step()


def test_a_ratio_above_ten_skips_the_minibatch_and_three_in_a_row_stop_the_run(tiny_folder, monkeypatch):
    """R2."""
    guard = Guard()
    assert guard.allows(0.5, 9.9)
    assert not guard.allows(0.5, 10.1)
    assert guard.skipped_out is None
    assert guard.allows(0.05, 3.0), "an alarm, but a step"
    assert not any(guard.allows(0.5, value) for value in (11.0, math.inf, math.nan))
    assert "3 minibatches in a row" in guard.skipped_out

    scored = online.token_scores
    monkeypatch.setattr(online, "token_scores", lambda *given, **told: _louder(scored(*given, **told)))
    branch = start(tiny_folder("gpt2"))
    found = learn(branch, PROMPTS, count, ppo.GOAL, ppo.Config(**{**TOY, "steps": 2, "answers": 64, "minibatch": 8}))
    assert "3 minibatches in a row" in found.stopped
    assert found.history[-1]["skipped"] == 3
    assert found.history[-1]["alarm"] == 3
    for one, other in zip(found.policy.network.learned().values(), branch.network.learned().values()):
        assert torch.equal(one, other), "no step was taken"


def _louder(scores):
    """With a gradient, as in an update, log-probabilities that have risen by 3."""
    if scores.log_probability.requires_grad:
        object.__setattr__(scores, "log_probability", scores.log_probability + 3.0)
    return scores


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_blow_up_is_stopped_and_taken_back_before_entropy_is_halved(seed, tiny_folder):
    """R1: ten times the learning rate."""
    branch = start(tiny_folder("gpt2"))
    settings = ppo.Config(**{**TOY, "learning_rate": 0.1, "kl": 0.0, "kl_target": None, "kl_cap": 6.0, "seed": seed, "steps": 12})
    found = learn(branch, PROMPTS, count, ppo.GOAL, settings)
    assert found.stopped
    good = [one for one in found.history if one["kl"] <= 6.0]
    assert good[-1]["entropy"] > 0.5 * found.history[0]["entropy"]
    again = Loop(found.policy, PROMPTS, count, ppo.GOAL, settings, None, None)
    again.start = branch
    now = again.entry(again.score(again.draw()))
    assert now["kl"] <= 7.0, "what is given back is from before the blow-up"
    assert now["entropy"] > 0.5 * found.history[0]["entropy"]


@pytest.mark.parametrize(
    ("told", "sign"),
    [({"length": 16.0}, "1.6 times as long"), ({"distinct": 0.5}, "44% fewer different"), ({"ended": 0.8}, "20% fewer come to an end")],
)
def test_signs_of_a_gamed_reward_stop_the_run_or_are_noted(told, sign):
    """R5, without another reward."""
    guard, noting = Guard(), Guard(hacking="note")
    for step in range(4):
        assert guard.judge(entry(step)) is None
        noting.judge(entry(step))
    reasons = [guard.judge(entry(4 + step, **told)) for step in range(6)]
    assert any(reasons)
    assert sign in next(reason for reason in reasons if reason)
    last = entry(5, **told)
    assert [noting.judge(last) for _ in range(4)] == [None] * 4
    assert sign in last["signs"][0]
    off = Guard(hacking="off")
    assert not any(off.judge(entry(step, **(told if step > 4 else {}))) for step in range(12))


@pytest.mark.parametrize("seed", range(10))
def test_a_second_reward_that_falls_while_the_first_rises_stops_the_run_near_its_peak(seed):
    """R5, with gold: it rises, then the policy finds the exploit. Noise of 1% on both."""
    chance, guard, gold = np.random.default_rng(seed), Guard(), []
    for step in range(60):
        real = 1.0 + 0.05 * min(step, 20) - 0.012 * max(0, step - 20)
        gold.append(real)
        seen = entry(step, reward=step * 0.1 + chance.normal(0, 0.01), gold=real + chance.normal(0, 0.01))
        if reason := guard.judge(seen):
            assert "the other reward is" in reason
            break
    assert reason
    assert gold[-1] > 0.9 * max(gold)


def test_distinct_n_is_the_share_of_different_runs():
    assert distinct([np.array([1, 2, 3])]) == 1.0
    assert distinct([np.array([1, 1, 1, 1])]) == 1 / 3
    assert distinct([np.array([1])]) == 1.0
    assert distinct([np.array([1, 2]), np.array([1, 2])]) == 0.5


@pytest.mark.parametrize("kind", ["constant", "one token", "empty"])
def test_constant_rewards_short_and_empty_answers_go_through_a_whole_step(kind, tiny_folder, monkeypatch):
    """R7."""
    branch = start(tiny_folder("gpt2"))
    told = {**TOY, "answers": 4, "minibatch": 2, "max_new_tokens": 1 if kind == "one token" else 4, "steps": 1}
    loop = Loop(branch, PROMPTS, lambda rows, texts: [1.0] * len(texts), ppo.GOAL, ppo.Config(**told), None, None)
    if kind == "empty":
        monkeypatch.setattr("trunkline.alignment.rollout._answer", lambda ids, most, ends: np.array([ends[0]]))
    loop.step()
    loop.step()
    for name, value in loop.progress.history[0].items():
        if isinstance(value, float):
            assert math.isfinite(value), name
    assert all(bool(torch.isfinite(p).all()) for p in loop.learned.values())
    assert kind != "empty" or loop.progress.history[0]["samples"][0]["answer"] == ""


def test_a_policy_whose_safety_falls_is_not_promoted(tiny_folder):
    """Point 7: the same policy as penalised and as rewarded for what is unsafe."""
    branch = start(tiny_folder("gpt2"))
    learned = learn(branch, PROMPTS, count, ppo.GOAL, ppo.Config(**TOY)).policy
    unsafe, drawing = Part(count, weight=-1.0), Drawing(max_new_tokens=4)
    refused = promotion(learned, branch, unsafe, PROMPTS * 8, drawing=drawing)
    assert not refused.allowed
    assert refused.after < refused.before
    assert refused.high < 0
    with pytest.raises(TrainingError, match="not promoted: the safety score fell"):
        require_promotion(refused)
    allowed = promotion(learned, branch, count, PROMPTS * 8, drawing=drawing)
    assert allowed.allowed
    require_promotion(allowed)
    assert promotion(branch, branch, unsafe, PROMPTS, drawing=drawing).difference == 0


def test_what_cannot_be_learned_from_is_said(tiny_folder):
    branch = start(tiny_folder("gpt2"))
    with pytest.raises(DataError, match="no prompts"):
        learn(branch, [], count, ppo.GOAL, ppo.Config())
    with pytest.raises(DataError, match=r"gave \(1,\) numbers for 2 answers"):
        learn(branch, PROMPTS, lambda rows, texts: [1.0], ppo.GOAL, ppo.Config(answers=2))
    with pytest.raises(DataError, match="gave nan for the answer"):
        learn(branch, PROMPTS, lambda rows, texts: [math.nan] * len(texts), ppo.GOAL, ppo.Config(answers=2))
    with pytest.raises(OptionError, match="answers=10: not a multiple of group=4"):
        ppo.Config(answers=10, group=4)
    with pytest.raises(OptionError, match="gives no number"):
        learn(branch, PROMPTS, branch, ppo.GOAL, ppo.Config())

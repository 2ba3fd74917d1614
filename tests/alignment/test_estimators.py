"""The mathematics against closed forms, formulas written out in numpy, and a world small enough to differentiate by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from trunkline.alignment.estimators import (
    Coefficient,
    Scale,
    explained_variance,
    gae,
    group_normalised,
    kl_k1,
    kl_k3,
    leave_one_out,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from trunkline.errors import OptionError

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_gae_is_the_sum_of_discounted_differences():
    rewards, values, discount, decay = drawn(2, 4), drawn(2, 4), 0.9, 0.8
    found, returns = gae(rewards, values, MASK, discount=discount, decay=decay)
    for row, length in enumerate((4, 2)):
        v = [*values[row, :length].tolist(), 0.0]
        delta = [float(rewards[row, t]) + discount * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((discount * decay) ** (k - t) * delta[k] for k in range(t, length))
            assert math.isclose(float(found[row, t]), wanted, abs_tol=1e-12)
            assert math.isclose(float(returns[row, t]), wanted + v[t], abs_tol=1e-12)
        assert not found[row, length:].any()
        assert not returns[row, length:].any()


def test_gae_with_decay_1_is_the_return_minus_the_value_and_with_0_the_one_step_difference():
    rewards, values = drawn(2, 4), drawn(2, 4)
    whole, _ = gae(rewards, values, MASK, decay=1.0)
    short, _ = gae(rewards, values, MASK, decay=0.0)
    assert math.isclose(float(whole[1, 0]), float(rewards[1, :2].sum() - values[1, 0]), abs_tol=1e-12)
    assert math.isclose(float(short[0, 1]), float(rewards[0, 1] + values[0, 2] - values[0, 1]), abs_tol=1e-12)
    assert math.isclose(float(short[1, 1]), float(rewards[1, 1] - values[1, 1]), abs_tol=1e-12), "behind the end the value is 0"


def test_rewards_of_tokens_hold_the_kl_everywhere_and_the_score_at_the_end():
    mask = torch.cat([MASK, torch.zeros(1, 4, dtype=torch.bool)])  # the third answer is empty
    found = token_rewards(torch.tensor([5.0, 7.0, 9.0]), torch.full((3, 4), 2.0), mask, 0.5)
    assert found.tolist() == [[-1, -1, -1, 4], [-1, 6, 0, 0], [0, 0, 0, 0]]


def world(logits, words):
    """log p of two words in a row: the first from logits[0], the second from logits[1 + first]. No part of a network is in it."""
    first, second = words
    table = logits - logits.exp().sum(1, keepdim=True).log()
    return torch.stack([table[0, first], table[1 + first, second]])


@pytest.mark.parametrize("clip", [0.2, 0.05])
def test_the_gradient_of_ppo_is_that_worked_out_by_hand_in_a_world_of_two_tokens_and_three_words(clip):
    """By hand: d/dlogits of -mean min(r A, clip(r) A) is -A r (onehot - p) / M where the clip does not hold, and 0 where it does."""
    logits, before = drawn(4, 3).requires_grad_(), drawn(4, 3)
    rollouts, advantages = [(0, 2), (1, 1), (2, 0), (0, 1)], drawn(4, 2)
    new = torch.stack([world(logits, words) for words in rollouts])
    old = torch.stack([world(before, words) for words in rollouts])
    loss = policy_loss(new, old, advantages, torch.ones(4, 2, dtype=torch.bool), clip)
    loss.loss.backward()

    z, b, wanted, value, held_back = logits.detach().numpy(), before.numpy(), np.zeros((4, 3)), 0.0, 0
    for words, row in zip(rollouts, advantages.tolist()):
        for at, (state, word) in enumerate(((0, words[0]), (1 + words[0], words[1]))):
            p, q = np.exp(z[state]) / np.exp(z[state]).sum(), np.exp(b[state]) / np.exp(b[state]).sum()
            ratio, a = p[word] / q[word], row[at]
            outside = ratio > 1 + clip if a > 0 else ratio < 1 - clip
            value -= (min(max(ratio, 1 - clip), 1 + clip) if outside else ratio) * a / 8
            held_back += outside
            if not outside:
                wanted[state] -= a * ratio * (np.eye(3)[word] - p) / 8
    assert 0 < held_back < 8, "both cases must be there"
    assert abs(float(loss.loss.detach()) - value) < 1e-9
    assert np.abs(logits.grad.numpy() - wanted).max() < 1e-9
    assert loss.clipped == held_back / 8


def test_the_clipped_loss_has_the_four_cases_of_the_paper():
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    for ratio, advantage, loss, slope in (
        (1.5, 1, -1.2, 0),
        (1.5, -1, 1.5, 1.5),
        (0.5, 1, -0.5, -0.5),
        (0.5, -1, 0.8, 0),
        (1.1, 2, -2.2, -2.2),
    ):
        new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        found = policy_loss(new, old, torch.tensor([[float(advantage)]], dtype=torch.float64), mask, 0.2)
        found.loss.backward()
        assert math.isclose(float(found.loss.detach()), loss, abs_tol=1e-12)
        assert math.isclose(float(new.grad), slope, abs_tol=1e-12)
        assert found.low == found.high == pytest.approx(ratio)


def test_the_value_loss_takes_the_worse_of_the_clipped_and_the_plain():
    old, returns, mask = torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.1]]), torch.ones(1, 3, dtype=torch.bool)
    loss, clipped = value_loss(torch.tensor([[0.9, 0.1, 0.15]]), old, returns, mask, 0.2)
    assert math.isclose(float(loss), 0.5 * (0.8**2 + 0.9**2 + 0.05**2) / 3, rel_tol=1e-6)
    assert math.isclose(clipped, 1 / 3, rel_tol=1e-6)


def test_both_kl_estimates_have_the_closed_form_as_their_mean_and_k3_is_never_negative():
    p, q = torch.softmax(drawn(6), 0), torch.softmax(drawn(6), 0)
    exact = float((p * (p / q).log()).sum())
    assert math.isclose(float((p * kl_k1(p.log(), q.log())).sum()), exact, abs_tol=1e-12)
    assert math.isclose(float((p * kl_k3(p.log(), q.log())).sum()), exact, abs_tol=1e-12)
    assert bool((kl_k3(p.log(), q.log()) >= 0).all())
    assert bool((kl_k1(p.log(), q.log()) < 0).any())


def test_whitening_leaves_mean_0_and_deviation_1_where_it_counts():
    values = drawn(2, 4) * 5 + 3
    white = whiten(values, MASK)
    assert abs(float(white[MASK].mean())) < 1e-12
    assert abs(float(white[MASK].std(unbiased=False)) - 1) < 1e-12
    assert not white[~MASK].any()
    assert math.isclose(float(whiten(values, MASK, keep_mean=True)[MASK].mean()), float(values[MASK].mean()), rel_tol=1e-12)


def test_rloo_and_grpo_advantages_are_their_formulas():
    scores = drawn(6)
    for name, size in (("pairs", 2), ("threes", 3)):
        found, scaled, plain = leave_one_out(scores, size), group_normalised(scores, size), group_normalised(scores, size, scale=False)
        for at in range(6):
            group = scores[at // size * size : (at // size + 1) * size].numpy()
            others = np.delete(group, at % size)
            assert math.isclose(float(found[at]), float(scores[at]) - others.mean(), abs_tol=1e-12), name
            assert math.isclose(float(plain[at]), float(scores[at]) - group.mean(), abs_tol=1e-12), name
            assert math.isclose(float(scaled[at]), (float(scores[at]) - group.mean()) / group.std(), abs_tol=1e-9), name
    for wrong in (1, 4):
        with pytest.raises(OptionError, match="2 or more answers"):
            leave_one_out(scores, wrong)


def test_the_coefficient_follows_the_kl_and_never_by_more_than_2_percent():
    beta = Coefficient(1.0, target=2.0)
    beta.update(200.0)
    assert math.isclose(beta.value, 1.02)
    beta.update(0.0)
    assert math.isclose(beta.value, 1.02 * 0.98)
    beta.update(2.2)
    assert math.isclose(beta.value, 1.02 * 0.98 * 1.01)
    fixed = Coefficient(1.0)
    fixed.update(200.0)
    assert fixed.value == 1.0


def test_rewards_are_scaled_by_the_deviation_of_all_that_were_seen():
    scores, scale = drawn(12) * 3 + 1, Scale()
    scale.see(scores[:5])
    scale.see(scores[5:])
    assert math.isclose(scale.mean, float(scores.mean()), rel_tol=1e-9)
    assert torch.allclose(scale.apply(scores), scores / scores.std(unbiased=False))


def test_explained_variance_is_1_for_the_returns_themselves_and_0_for_a_constant():
    returns = drawn(2, 4)
    assert explained_variance(returns, returns, MASK) == 1.0
    assert abs(explained_variance(torch.full_like(returns, 0.3), returns, MASK)) < 1e-12


@given(
    lengths=some.lists(some.integers(0, 3), min_size=2, max_size=4).filter(lambda found: len(found) % 2 == 0),
    reward=some.floats(-5, 5, width=32), constant=some.booleans(),
)  # fmt: skip
def test_constant_rewards_short_and_empty_answers_give_finite_numbers(lengths, reward, constant):
    """R7."""
    rows, longest = len(lengths), max(1, max(lengths))
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    scores = torch.full((rows,), reward) if constant else torch.arange(rows) * reward
    log_ratios, values = torch.zeros(rows, longest), torch.zeros(rows, longest)
    rewards = token_rewards(scores, log_ratios, mask, 0.1)
    advantages, returns = gae(rewards, values, mask)
    loss = policy_loss(log_ratios, log_ratios, whiten(advantages, mask), mask, 0.2)
    told = [loss.loss, value_loss(values, values, returns, mask, 0.2)[0], masked_mean(rewards, mask), whiten(rewards, mask)]
    told += [leave_one_out(scores, 2), group_normalised(scores, 2)]
    assert all(bool(torch.isfinite(one).all()) for one in told)
    assert math.isfinite(explained_variance(values, returns, mask))
    scale = Scale()
    scale.see(scores)
    assert bool(torch.isfinite(scale.apply(scores)).all())

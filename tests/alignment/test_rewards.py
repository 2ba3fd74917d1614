"""Judges: branches that read the states of rollouts give what they give on texts; functions, mixes, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.alignment.worlds import PROMPTS, TOY, start
from trunkline import names
from trunkline.alignment import ppo
from trunkline.alignment.finish import judges_of
from trunkline.alignment.online import learn
from trunkline.alignment.rewards import Part, judge, parts_of, reads_states, require_worthy
from trunkline.alignment.rollout import Drawing, Rollouts, roll_out
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.evaluation.report import Report
from trunkline.model.backbone import load_backbone

LABELS = ("bad", "good")


def classifier(backbone, depth, states="float32"):
    spec = names.task("classify").TaskSpec(labels=LABELS, pooling="last")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Branch.new(backbone, spec, "full", names.method("full").Config(), depth, states)
        for parameter in made.network.learned().values():
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    return made


@pytest.fixture
def policy(tiny_folder):
    return start(tiny_folder("gpt2"), depth=3)


@pytest.fixture
def rollouts(policy):
    return roll_out(policy, PROMPTS, Drawing(5), seed=0)


@pytest.mark.parametrize("depth", [3, 2, 0])
def test_a_branch_reads_the_states_of_the_rollouts_as_it_reads_their_tokens(depth, policy, rollouts):
    """At the policy's own cut, and at higher ones through the frozen layers between; against the branch's own pass over the whole."""
    branch = classifier(policy.backbone, depth)
    part = Part(branch, label="good")
    assert reads_states(part, policy)
    found = judge(parts_of(part, policy), rollouts, policy).total
    items = [replace(item, tokens=(said,), target=None, about=None) for item, said in zip(rollouts.items, rollouts.said)]
    alone = np.array([answer.scores[1] for answer in branch.answers(items)])
    assert np.allclose(found, np.log(alone / (1 - alone)), atol=1e-4)
    assert np.ptp(found) > 0.01


def test_the_trunk_does_not_run_for_a_judge_on_the_same_states(policy, rollouts, monkeypatch):
    branch = classifier(policy.backbone, 2)
    monkeypatch.setattr("trunkline.model.backbone.Trunk.__call__", lambda *given: pytest.fail("the trunk ran"))
    assert len(judge(parts_of(branch, policy), rollouts, policy).total) == len(PROMPTS)
    learn(policy, PROMPTS, branch, ppo.GOAL, ppo.Config(**{**TOY, "steps": 1, "answers": 8, "minibatch": 4}))


def test_a_branch_on_another_trunk_or_a_lower_cut_reads_texts(policy, rollouts, tiny_folder):
    for branch in (classifier(load_backbone(tiny_folder("bert")), 1), classifier(policy.backbone, 4)):
        part = Part(branch)
        assert not reads_states(part, policy)
        found = judge(parts_of(part, policy), rollouts, policy).total
        texts = [policy.backbone.tokenizer.text(one.ids.tolist()) for one in rollouts.said]
        alone = np.array([answer.scores[1] for answer in branch.predict(texts)])
        assert np.allclose(found, np.log(alone / (1 - alone)), atol=1e-4)


def test_the_answer_alone_is_read_where_that_is_asked(policy, rollouts):
    branch = classifier(policy.backbone, 2)
    part = Part(branch, reads="answer")
    assert not reads_states(part, policy)
    alone = [answer.scores[1] for answer in branch.predict([text or " " for text in rollouts.texts])]
    assert np.allclose(judge(parts_of(part, policy), rollouts, policy).total, np.log(np.array(alone) / (1 - np.array(alone))), atol=1e-4)


def test_a_mix_is_the_weighted_sum_with_penalties_and_the_missing_end_taken_off(policy, rollouts):
    branch = classifier(policy.backbone, 3)
    parts = parts_of({"good": Part(branch, label="good"), "unsafe": Part(lambda rows, texts: [2.0] * len(texts), weight=-3.0)}, policy)
    found = judge(parts, rollouts, policy, missing_end=0.5)
    assert np.allclose(found.total, found.parts["good"] - 6.0 - 0.5 * ~rollouts.ended)
    assert set(found.parts["unsafe"]) == {2.0}


def test_a_function_is_given_whole_rows(policy):
    rows = [{**row, "label": "gold"} for row in PROMPTS]
    found = roll_out(policy, rows, Drawing(3), seed=0)
    assert isinstance(found, Rollouts)
    told = judge(parts_of(lambda rows, texts: [float(row["label"] == "gold") for row in rows], policy), found, policy)
    assert set(told.total) == {1.0}


def test_what_cannot_judge_is_refused_by_name(policy):
    branch = classifier(policy.backbone, 2)
    for wrong, said in (
        ({}, "at least one judge"),
        ({"a": 3}, "reward 'a' is 3"),
        ({"a": Part(branch, label="fine")}, "label='fine'"),
        ({"a": Part(branch, reads="all")}, "Allowed: answer, both"),
        ({"a": Part(branch, weight=float("nan"))}, "use a finite number"),
    ):
        with pytest.raises(OptionError, match=said):
            parts_of(wrong, policy)


def test_judges_are_named_by_folders_with_weights_and_share_the_policys_backbone(policy, tmp_path):
    branch = classifier(policy.backbone, 2)
    branch.save(tmp_path / "kind")
    found = judges_of(f"{tmp_path}/kind*-2+{tmp_path}/kind", "good", policy)
    assert [part.weight for part in found.values()] == [1.0] or len(found) == 1  # the same folder is one judge
    (part,) = found.values()
    assert part.judge.backbone is policy.backbone
    assert part.label == "good"
    with pytest.raises(OptionError, match="weight"):
        judges_of(f"{tmp_path}/kind*much", None, policy)
    assert len(tiny.TEXTS) == len(PROMPTS)


def measured_reward(backbone, tuned, lengths):
    """A reward branch whose report says that it tells so large a share of the held-out pairs, and the lengths so many."""
    made = Branch.new(backbone, names.task("reward").TaskSpec(), "full", names.method("full").Config(), 1, "float32")
    results = [{"name": name, "metrics": {"pair_accuracy": {"value": value}}} for name, value in (("length", lengths), ("tuned", tuned))]
    made.report = Report("reward", results=results)
    return made


@pytest.mark.parametrize(("tuned", "lengths", "worthy"), [(0.70, 0.60, True), (0.65, 0.60, True), (0.64, 0.50, False), (0.70, 0.66, False)])
def test_a_reward_that_hardly_tells_pairs_is_not_learned_from(tuned, lengths, worthy, policy):
    """Bar R6."""
    found = parts_of({"kind": measured_reward(policy.backbone, tuned, lengths)}, policy)
    if worthy:
        require_worthy(found)
        return
    with pytest.raises(OptionError, match=rf"reward 'kind': of held-out pairs it tells {tuned:.1%}.*{lengths:.1%}.*weak_reward=note"):
        require_worthy(found)
    with pytest.warns(UserWarning, match="would learn its errors"):
        require_worthy(found, "note")


def test_learning_from_a_weak_reward_is_refused_before_anything_is_drawn(policy, monkeypatch):
    monkeypatch.setattr("trunkline.alignment.online.roll_out", lambda *given, **told: pytest.fail("answers were drawn"))
    with pytest.raises(OptionError, match="weak_reward=note"):
        learn(policy, PROMPTS, measured_reward(policy.backbone, 0.6, 0.55), ppo.GOAL, ppo.Config(**{**TOY, "steps": 1}))


def test_judges_without_such_figures_are_taken_as_they_are(policy):
    require_worthy(parts_of({"kind": classifier(policy.backbone, 1), "short": lambda rows, said: [0.0] * len(said)}, policy))

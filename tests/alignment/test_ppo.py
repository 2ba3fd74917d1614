"""PPO whole: a toy that must be learned and that no mutant learns; a step against a plain implementation; guards; stop and go on."""

import copy
import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.alignment.test_rewards import classifier
from tests.alignment.worlds import PROMPTS, TOY, count, start
from trunkline.alignment import finish, grpo, online, ppo, rloo
from trunkline.alignment.align import align
from trunkline.alignment.history import Events, page
from trunkline.alignment.online import Loop, learn
from trunkline.branch import load
from trunkline.errors import MissingExtra, OptionError
from trunkline.train import settings as training
from trunkline.types import Rows


def toy(branch, *, goal=ppo.GOAL, config=ppo.Config, reward=count, **told):
    return learn(branch, PROMPTS, reward, goal, config(**{**TOY, **told}))


def solved(found):
    """The word comes at least ten times as often as at the start (where it is 1 of 116), and the policy is still near the reference."""
    last = found.history[-1]
    return last["reward"] > 0.25 and last["kl"] < 7.5


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.wide) for seed in range(1, 5))])
def test_the_toy_is_learned_with_every_seed(seed, tiny_folder):
    found = toy(start(tiny_folder("gpt2")), seed=seed)
    assert solved(found), found.history[-1]
    assert found.history[0]["kl"] == 0.0
    assert found.history[0]["reward"] < 0.1


@pytest.mark.parametrize("mutant", ["reward", *(pytest.param(sign, marks=pytest.mark.wide) for sign in ("kl", "advantage"))])
def test_no_mutant_learns_the_toy(mutant, tiny_folder, monkeypatch):
    """R4: each of three signs turned round, in the code that is run."""
    token_rewards, policy_loss = online.token_rewards, online.policy_loss
    if mutant == "reward":
        monkeypatch.setattr(online, "token_rewards", lambda scores, *rest: token_rewards(-scores, *rest))
    if mutant == "kl":
        monkeypatch.setattr(online, "token_rewards", lambda scores, ratios, *rest: token_rewards(scores, -ratios, *rest))
    if mutant == "advantage":
        monkeypatch.setattr(online, "policy_loss", lambda new, old, advantages, *rest: policy_loss(new, old, -advantages, *rest))
    assert not solved(toy(start(tiny_folder("gpt2")), seed=0))


@pytest.mark.parametrize(
    ("goal", "config"), [(rloo.GOAL, rloo.Config), pytest.param(grpo.GOAL, grpo.Config, marks=pytest.mark.wide)], ids=["rloo", "grpo"]
)
def test_groups_learn_the_toy_too(goal, config, tiny_folder):
    assert toy(start(tiny_folder("gpt2")), goal=goal, config=config, kl=0.01, learning_rate=1e-2).history[-1]["reward"] > 0.25


class Plain:
    """PPO written out: four whole models from token ids, nothing cached, one sequence at a time. It shares no code with ours but the drawing."""

    def __init__(self, branch, settings, value):
        self.settings = settings
        self.policy = copy.deepcopy(branch.network.writer().model).double().requires_grad_(False)
        self.reference = copy.deepcopy(self.policy)
        self.value_trunk = copy.deepcopy(branch.backbone.model).double()
        self.value = copy.deepcopy(value).double()
        self.learned = [p for layer in self.policy.transformer.h[2:] for p in layer.parameters()] + list(
            self.policy.transformer.ln_f.parameters()
        )
        for parameter in self.learned:
            parameter.requires_grad_(True)
        groups = [
            {"params": self.learned, "lr": settings.learning_rate},
            {"params": self.value.parameters(), "lr": settings.value_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)

    def logs(self, model, ids, prompt):
        every = torch.log_softmax(model(input_ids=ids[None]).logits[0, prompt - 1 : -1], -1)
        return every[torch.arange(len(ids) - prompt), ids[prompt:]]

    def values(self, ids, prompt):
        with torch.no_grad():
            hidden = self.value_trunk(input_ids=ids[None], output_hidden_states=True).hidden_states[2][0, prompt - 1 : -1]
        hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return (torch.tanh(hidden @ self.value.inner.weight.T + self.value.inner.bias) @ self.value.outer.weight.T + self.value.outer.bias)[
            :, 0
        ]

    def step(self, sequences, scores, minibatches):
        told, s = [], self.settings
        with torch.no_grad():
            for (ids, prompt), score in zip(sequences, scores):
                old, reference, values = (
                    self.logs(self.policy, ids, prompt),
                    self.logs(self.reference, ids, prompt),
                    self.values(ids, prompt),
                )
                rewards = [-s.kl * float(a - b) for a, b in zip(old, reference)]
                rewards[-1] += score
                advantages, running = [0.0] * len(rewards), 0.0
                for t in reversed(range(len(rewards))):
                    after = float(values[t + 1]) if t + 1 < len(rewards) else 0.0
                    running = rewards[t] + s.discount * after - float(values[t]) + s.discount * s.decay * running
                    advantages[t] = running
                told.append((old, values, advantages))
        every = np.concatenate([one[2] for one in told])
        for indices in minibatches:
            losses, of_value = [], []
            for at in indices:
                (ids, prompt), (old, values, advantages) = sequences[at], told[at]
                white = (torch.tensor(advantages) - every.mean()) / every.std()
                ratio = (self.logs(self.policy, ids, prompt) - old).exp()
                losses.append(torch.maximum(-ratio * white, -ratio.clamp(1 - s.clip, 1 + s.clip) * white))
                new, returns = self.values(ids, prompt), torch.tensor(advantages) + values
                held = values + (new - values).clamp(-s.value_clip, s.value_clip)
                of_value.append(torch.maximum((new - returns) ** 2, (held - returns) ** 2))
            self.optimizer.zero_grad()
            (torch.cat(losses).mean() + 0.5 * torch.cat(of_value).mean()).backward()
            torch.nn.utils.clip_grad_norm_(self.learned, s.clip_gradient)
            torch.nn.utils.clip_grad_norm_(self.value.parameters(), s.clip_gradient)
            self.optimizer.step()


def test_a_whole_step_is_that_of_four_plain_models_without_any_cache(tiny_folder):
    """Two steps, so that in the second policy and reference differ, and the value is not 0."""
    branch = start(tiny_folder("gpt2"))
    branch.backbone.model.double()
    branch.network.double()
    settings = ppo.Config(
        **{**TOY, "answers": 16, "minibatch": 8, "epochs": 2, "scale_rewards": False, "max_new_tokens": 6, "learning_rate": 1e-3}
    )
    branch.network.head.model.shell.double()
    loop = Loop(branch, PROMPTS, lambda rows, texts: [float(len(text) % 5) for text in texts], ppo.GOAL, settings, None, None)
    loop.policy.network.double()
    loop.value.double()
    loop.policy.network.head.model.shell.double()
    as_double = loop._batch  # the states that are kept are float32, whatever the model is
    loop._batch = lambda rollouts, indices: replace(batch := as_double(rollouts, indices), hidden=batch.hidden.double())
    plain = Plain(branch, settings, loop.value)
    for _ in range(2):
        number, step = loop.progress.step, {}
        loop.score = lambda rollouts, scored=loop.score, step=step: step.setdefault("found", type(loop).score(loop, rollouts))
        loop.step()
        found = step["found"]
        sequences = [(torch.from_numpy(item.tokens[0].ids).long(), len(item.about)) for item in found.rollouts.items]
        parts = []
        for epoch in range(2):
            order = np.random.default_rng((settings.seed, number, epoch, 1)).permutation(16)
            parts += [order[:8], order[8:]]
        plain.step(sequences, found.told.total.tolist(), parts)
    ours = [p for name, p in loop.learned.items() if not name.startswith("value.")]
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(ours, branch.network.learned().values()))
    assert moved > 1e-3
    layers = dict(loop.policy.network.writer().model.transformer.named_parameters())
    theirs = dict(plain.policy.transformer.named_parameters())
    apart = {name: float((layers[name] - theirs[name]).detach().abs().max()) for name in layers if name.startswith(("h.2", "h.3", "ln_f"))}
    assert len(apart) > 20
    assert max(apart.values()) < 1e-6, apart
    for mine, other in zip(loop.value.parameters(), plain.value.parameters()):
        assert float((mine - other).detach().abs().max()) < 1e-6


@pytest.mark.wide
def test_a_t5_learns_from_rewards_too_and_its_value_reads_the_policys_states(tiny_folder):
    branch = start(tiny_folder("t5"), task="seq2seq", depth=2)
    told = {"kl": 0.01, "steps": 6, "temperature": 0.2, "learning_rate": 3e-3}  # cold, since the tiny T5 finds all words alike
    found = toy(branch, reward=lambda rows, texts: [-len(text) / 10 for text in texts], **told)  # short words
    rewards = [entry["reward"] for entry in found.history]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.05, rewards
    assert found.history[-1]["kl"] > 0.5
    assert found.policy.predict(["my card"])[0].value is not None


def test_the_value_can_read_the_policys_last_states_and_an_entropy_bonus_keeps_the_policy_open(tiny_folder):
    plain = toy(start(tiny_folder("gpt2")), value_from="policy", steps=4)
    open_ = toy(start(tiny_folder("gpt2")), value_from="policy", steps=4, entropy=3.0)
    assert open_.history[-1]["entropy"] > plain.history[-1]["entropy"] + 0.05


def test_align_takes_prompts_and_a_judge_from_its_folder_and_saves_the_policy_with_its_history(tiny_folder, tmp_path):
    branch = start(tiny_folder("gpt2"))
    judge = classifier(branch.backbone, 2)
    judge.save(tmp_path / "judge")
    branch.save(tmp_path / "start")
    rows = Rows(tuple(PROMPTS), "generate")
    goal = f"ppo:reward={tmp_path}/judge:label=good:steps=2:answers=8:minibatch=4:max_new_tokens=4:epochs=1"
    policy = align(
        rows, goal, start=tmp_path / "start", settings=training.Settings(test=0.2), out=tmp_path / "out", tensorboard=tmp_path / "events"
    )
    assert "ppo: reward" in policy.report.data["notes"][0]
    loaded = load(tmp_path / "out")
    for name, parameter in policy.network.learned().items():
        assert torch.equal(parameter, loaded.network.learned()[name])
    steps = json.loads((tmp_path / "out.history" / "history.json").read_text())["steps"]
    assert [one["step"] for one in steps] == [0, 1, 2]
    shown = EventAccumulator(str(tmp_path / "events")).Reload()
    for name in ("reward", "kl", "entropy", "length"):
        told = [(one.step, one.value) for one in shown.Scalars(name)]
        assert told == [(one["step"], pytest.approx(one[name], rel=1e-5, abs=1e-6)) for one in steps]
    assert f"parts/{tmp_path}/judge" in shown.Tags()["scalars"]
    shown = (tmp_path / "out.history" / "history.html").read_text()
    assert "KL to the reference" in shown
    assert "<script" not in shown
    assert not (tmp_path / "out.checkpoints").exists()
    with pytest.raises(OptionError, match="what is rewarded"):
        align(rows, "ppo", start=branch)
    with pytest.raises(OptionError, match=r"learning_rate=0.001: is for learning from rows.* Leave learning_rate out"):
        align(rows, goal, start=tmp_path / "start", settings=training.Settings(learning_rate=1e-3))


def test_seed_and_seconds_come_from_the_settings():
    config = finish.settled("ppo", ppo.Config(), training.Settings(seed=5, checkpoint_seconds=1.0))
    assert (config.seed, config.checkpoint_seconds) == (5, 1.0)


def test_events_need_their_package_and_a_goal_on_rewards(tiny_folder, tmp_path, monkeypatch):
    rows = Rows(({"text": "a", "text_b": "b", "rejected": "c"},), "reward")
    with pytest.raises(OptionError, match="goal='dpo' learns from rows"):
        align(rows, "dpo", tensorboard=tmp_path)
    with pytest.raises(OptionError, match="Name one folder"):
        align(rows, "ppo:tensorboard=elsewhere", tensorboard=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'trunkline\[tensorboard\]'"):
        Events(tmp_path)
    with Events("") as events:
        events.add({"step": 0})


def test_texts_of_people_are_escaped_on_the_page():
    entry = {"step": 0, "reward": 1.0, "samples": [{"prompt": "<script>x</script>", "answer": "<b>", "reward": 1.0}]}
    made = page([entry], "<i>")
    assert "<script>" not in made
    assert "<b>" not in made
    assert "<i>" not in made

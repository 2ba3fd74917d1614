"""dpo, ipo, kto, orpo: their formulas by hand, what the reference costs, cached against live, and that flipped signs are not learned."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trunkline import branch as branches
from trunkline.alignment import dpo, ipo, kto, orpo, preference
from trunkline.alignment.align import align, reads
from trunkline.alignment.preference import Job, PairGoal, Pairs
from trunkline.alignment.roles import begin, fresh, token_log_probabilities
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import compute
from trunkline.model.backbone import load_backbone
from trunkline.model.network import Network
from trunkline.states.collate import collate
from trunkline.states.held import HeldStates
from trunkline.train import fit as fit_module
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import Rows

WORDS = ("card", "order", "money", "account", "password", "package")
POLICY = [[-3.0, -4.5], [-10.0, -2.0], [-0.7, -1.1]]
REFERENCE = [[-3.5, -4.0], [-9.0, -2.5], [-0.9, -1.0]]


def rows(count=24, start=0, task="reward"):
    """Pairs of which the polite answer is preferred, whatever the prompt."""
    made = []
    for at in range(start, start + count):
        word, other = WORDS[at % 6], WORDS[(at // 6 + at) % 6]
        both = {"text_b": f"please, {word} today", "rejected": f"the {word} was damaged"}
        if task == "generate":
            both = {"label": both["text_b"], "rejected": both["rejected"]}
        made.append({"text": f"who can help me with the {word} {other}", "group": f"{word} {other}", **both})
    return Rows(tuple(made), task)


def pairs(liked=(True, True, True)):
    return Pairs(
        torch.tensor(POLICY, dtype=torch.float64),
        torch.tensor(REFERENCE, dtype=torch.float64),
        torch.tensor([[4, 5]] * 3),
        torch.tensor(liked),
    )


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def changes():
    return [(p[0] - r[0]) - (p[1] - r[1]) for p, r in zip(POLICY, REFERENCE)]


def test_dpo_is_its_formula():
    for smooth in (0.0, 0.2):
        found = dpo.losses(pairs(), dpo.TaskSpec(beta=0.3, label_smoothing=smooth))
        wanted = [-(1 - smooth) * math.log(sigmoid(0.3 * h)) - smooth * math.log(sigmoid(-0.3 * h)) for h in changes()]
        assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def test_ipo_is_its_formula():
    wanted = [(h - 1 / (2 * 0.3)) ** 2 for h in changes()]
    assert ipo.losses(pairs(), ipo.TaskSpec(beta=0.3)).tolist() == pytest.approx(wanted, abs=1e-9)


def test_kto_is_its_formula():
    liked = (True, False, True)
    drift = max(0.0, sum(p[1] - r[1] for p, r in zip(POLICY, REFERENCE)) / 3)
    wanted = [
        (1.5 if good else 0.5) * (1 - sigmoid(0.3 * ((p[0] - r[0]) - drift) * (1 if good else -1)))
        for p, r, good in zip(POLICY, REFERENCE, liked)
    ]
    found = kto.losses(pairs(liked), kto.TaskSpec(beta=0.3, liked=1.5, disliked=0.5))
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def test_orpo_is_its_formula():
    def log_odds(logp):
        return math.log(math.exp(logp) / (1 - math.exp(logp)))

    wanted = [-p[0] - 0.3 * math.log(sigmoid(log_odds(p[0]) - log_odds(p[1]))) for p in POLICY]
    assert orpo.losses(pairs(), orpo.TaskSpec(beta=0.3)).tolist() == pytest.approx(wanted, abs=1e-9)


def start_of(folder, task="generate", depth=2):
    backbone = load_backbone(folder)
    return fresh(backbone, preference.written(rows(), task), "lora", depth, "float32")


def ready(goal, start, data=None):
    """The items of a goal, with the reference's part, and their states in memory."""
    spec = goal.TaskSpec(policy=start.spec, max_tokens=start.spec.max_tokens)
    made = preference.make if goal is not kto else kto.make
    job = Job(PairGoal(made), start, spec, Settings(precision="float32"), None)
    items = {"train": made(data or rows(task=goal.READS), start, spec)}
    states = HeldStates([t for i in items["train"] for t in i.tokens], start.source(), lambda hidden, mask: hidden, "float32")
    return spec, job.with_reference(items, states, start)["train"], states


@pytest.mark.parametrize(("family", "task"), [("llama", "generate"), ("t5", "seq2seq")])
def test_a_batch_says_what_each_answer_says_alone(family, task, tiny_folder):
    start = start_of(tiny_folder(family), task)
    spec, items, states = ready(dpo, start)
    out = start.network.eval()(batch := collate(items, states, spec, start.backbone.tokenizer.pad_id))
    found = preference.pairs(out, batch)
    alone = [token_log_probabilities(start, [one], states)[0].sum() for item in items for one in preference._apart(item)]
    assert np.allclose(found.policy.detach().numpy().reshape(-1), alone, atol=1e-4)
    assert np.allclose(found.ratios.detach().numpy(), 0.0, atol=1e-4), "the policy begins as the reference"
    live = collate(items, start.source(), spec, start.backbone.tokenizer.pad_id)
    assert torch.allclose(start.network(live).logits, out.logits, atol=1e-5), "cached = live"


@pytest.mark.parametrize("goal", [dpo, ipo, orpo])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(goal, tiny_folder):
    """Of pairs of very different lengths: each pair weighs the same, however many tokens it has."""
    data, learned = rows(8), []
    uneven = [{**row, "text_b": row["text_b"] * (1 + at % 4), "rejected": row["rejected"] * (1 + at % 3)} for at, row in enumerate(data)]
    for parts in (1, 4):
        start = start_of(tiny_folder("llama"))
        spec, items, states = ready(goal, start, uneven)
        told = Settings(epochs=1, batch_size=8, accumulate=parts, optimizer="sgd", warmup=0.0, precision="float32", clip=None)
        fit(start.network, Data(items, items[:2], states, spec), told, learning_rate=0.1, seed=0)
        learned.append([p.detach().clone() for p in start.network.learned().values()])
    moved = max(float((p.detach() - q).abs().max()) for p, q in zip(start_of(tiny_folder("llama")).network.learned().values(), learned[0]))
    assert moved > 1e-4
    assert max(float((p - q).abs().max()) for p, q in zip(*learned)) < 1e-3 * moved


@pytest.mark.parametrize(("goal", "parts"), [(dpo, 8), (kto, 1)])
def test_steps_are_computed_in_parts_but_for_kto_whose_drift_is_of_the_batch(goal, parts, tiny_folder, monkeypatch):
    monkeypatch.setitem(fit_module._TOKENS_AT_ONCE, "cpu", 1)
    start = start_of(tiny_folder("llama"))
    spec, items, states = ready(goal, start, rows(8, task=goal.READS))
    loop = fit_module._Loop(start.network, Data(items[:8], items[:2], states, spec), Settings(batch_size=8), 1e-3, 0, None)
    assert len(loop.parts(np.arange(8))) == parts


@pytest.mark.parametrize("goal", [dpo, ipo, kto, orpo])
def test_the_first_step_is_the_gradient_of_the_formula(goal, tiny_folder):
    """Of the loop's loss against a difference: the same weights moved a little, and the formula of plain log-probabilities."""
    start = start_of(tiny_folder("llama"))
    spec, items, states = ready(goal, start)
    network, batch = start.network.eval(), collate(items[:6], states, spec, start.backbone.tokenizer.pad_id)
    loss = goal.loss(network(batch), batch)
    loss.backward()
    name, weight = next((n, p) for n, p in network.learned().items() if p.grad is not None and float(p.grad.abs().max()) > 0)
    direction = weight.grad / weight.grad.norm()
    slope = float((weight.grad * direction).sum())
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            weight.add_(step * direction)
            values.append(float(goal.loss(network(batch), batch)))
            weight.sub_(step * direction)
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(slope, rel=0.05, abs=1e-3), name


def learn(goal, start, seed, *, data=None, loss=None):
    spec, items, states = ready(goal, start, data)
    _, held, more = ready(goal, start, rows(12, 24, goal.READS))
    states._held |= more._held
    policy = branches.Branch.new(start.backbone, start.spec, start.method, start.config, start.depth, start.states)
    branches.restore(policy.network, {n: p.detach() for n, p in start.network.learned().items()}, "start")
    told = Settings(epochs=6, batch_size=8, dropout=0.0, precision="float32", patience=None, evaluate_every=10**6, metric="pair_loss")
    fit(policy.network, Data(items, held, states, spec, loss=loss), told, learning_rate=0.01, seed=seed)
    found = replace(policy, spec=spec).answers(held, states)
    return compute(["pair_accuracy"], *truth_and_scores(spec, held, found))["pair_accuracy"], policy


@pytest.mark.parametrize("goal", [dpo, ipo, kto, orpo])
def test_the_toy_is_learned_by_each_goal(goal, tiny_folder):
    assert learn(goal, start_of(tiny_folder("llama")), 0)[0] == 1.0


def test_dpo_learns_in_five_of_five_seeds_and_a_flipped_order_or_sign_fails(tiny_folder):
    start = start_of(tiny_folder("llama"))
    assert [learn(dpo, start, seed)[0] for seed in range(5)] == [1.0] * 5

    def flipped_sign(out, batch):
        found = preference.pairs(out, batch)
        return dpo.losses(replace(found, policy=-found.policy, reference=-found.reference), batch.spec).mean()

    turned = Rows(tuple({**row, "text_b": row["rejected"], "rejected": row["text_b"]} for row in rows()), "reward")
    assert learn(dpo, start, 0, data=turned)[0] < 0.5
    assert learn(dpo, start, 0, loss=flipped_sign)[0] < 0.5


def test_the_reference_reads_each_answer_once(tiny_folder, tmp_path, monkeypatch):
    start = start_of(tiny_folder("llama"))
    calls, forward = [], Network.forward

    def counted(network, batch):
        calls.append((id(network), len(batch.mask)))
        return forward(network, batch)

    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Network, "forward", counted)
    parts = split(rows(36), by="group", validation=0.2, test=0.2)
    settings = Settings(epochs=3, batch_size=8, device="cpu", threads=1, precision="float32")
    policy = align(parts, "dpo:samples=0", start=start, settings=settings, out=tmp_path / "dpo")
    of_reference = sum(size for network, size in calls if network == id(start.network))
    assert of_reference == 2 * 36
    assert not (tmp_path / "dpo.checkpoints").exists()
    loaded = begin(tmp_path / "dpo")
    assert (loaded.task, loaded.method, loaded.depth) == (start.task, start.method, start.depth)
    items = start.prepare(preference.written(rows(4), "generate"))
    one, other, was = (token_log_probabilities(branch, items) for branch in (policy, loaded, start))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(one, other))
    assert not np.allclose(one[0], was[0])
    assert [result["name"] for result in policy.report.results] == ["length", "before", "after", "tuned"]
    assert policy.report.html()


def test_what_the_reference_said_is_kept_for_a_run_that_was_stopped(tiny_folder, tmp_path):
    start = start_of(tiny_folder("llama"))
    spec = dpo.TaskSpec(policy=start.spec)
    job = Job(PairGoal(preference.make), start, spec, Settings(precision="float32"), tmp_path / "dpo")
    job.folder.mkdir()
    items = {"train": preference.make(rows(), start, spec)}
    first = job.with_reference(items, start.source(), start)

    class Broken:
        def read(self, tokens):
            raise AssertionError("read again")

    again = job.with_reference(items, Broken(), start)
    assert all(np.array_equal(a.about["reference"], b.about["reference"]) for a, b in zip(first["train"], again["train"]))
    with torch.no_grad():
        next(iter(start.network.learned().values())).add_(0.1)
    with pytest.raises(AssertionError, match="read again"):
        job.with_reference(items, Broken(), start)  # another reference


def test_what_does_not_fit_is_refused(tiny_folder, tmp_path):
    assert (reads("dpo:beta=0.2"), reads("kto")) == ("reward", "generate")
    start = start_of(tiny_folder("llama"))
    with pytest.raises(OptionError, match="goal='dpoo': unknown"):
        align(rows(), "dpoo", start=start)
    with pytest.raises(OptionError, match="read for 'generate'"):
        align(rows(task="generate"), "dpo", start=start)
    with pytest.raises(OptionError, match="Leave model and depth out"):
        align(rows(), "dpo", start=start, depth=2)
    with pytest.raises(OptionError, match="beta"):
        align(rows(), "dpo:betta=1", start=start)

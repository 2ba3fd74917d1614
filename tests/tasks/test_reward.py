"""reward: its loss by hand, what swapping a pair does, how prompt and answer are encoded, and that flipped pairs are not learned."""

import math

import numpy as np
import pytest
import torch

from tests import tiny
from trunkline import names
from trunkline.branch import Branch
from trunkline.data.split import split
from trunkline.errors import DataError
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import compute
from trunkline.model.backbone import load_backbone
from trunkline.states.collate import collate
from trunkline.states.held import HeldStates
from trunkline.tasks import reward
from trunkline.tasks.reward import TaskSpec
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Batch, Output, Rows

SOLVED = Settings(epochs=1, threads=1)
WORDS = ("card", "order", "money", "account", "password", "package")


def batch(spec, margins):
    pairs = len(margins)
    owner = torch.repeat_interleave(torch.arange(pairs), 2)
    return Batch(None, torch.ones(2 * pairs, 1, dtype=torch.bool), owner, spec, targets=torch.tensor(margins, dtype=torch.float64))


def toy(count=24, start=0):
    """Pairs of which the polite answer is preferred, whatever the prompt."""
    made = []
    for at in range(start, start + count):
        word, other = WORDS[at % 6], WORDS[(at // 6 + at) % 6]
        rude = f"the {word} was damaged {at % 2 * 'today'}".strip()
        polite, asked = f"please, {word} today", f"who can help me with the {word} {other}"
        made.append({"text": asked, "text_b": polite, "rejected": rude, "group": f"{word} {other}"})
    return Rows(tuple(made), "reward")


def test_the_loss_is_the_formula():
    rewards = torch.tensor([0.3, -0.2, 1.0, 1.5, -0.7, -2.0], dtype=torch.float64)
    spec = TaskSpec(margin=0.5, center=0.25)
    margins = [0.0, 1.0, 2.0]
    wanted = 0.0
    for (good, bad), margin in zip(((0.3, -0.2), (1.0, 1.5), (-0.7, -2.0)), margins):
        wanted += -math.log(1 / (1 + math.exp(-(good - bad - 0.5 * margin)))) + 0.25 * (good + bad) ** 2
    found = reward.loss(Output(rewards[:, None], rewards), batch(spec, margins))
    assert float(found) == pytest.approx(wanted / 3, abs=1e-9)


def test_swapping_a_pair_turns_every_margin_round(tiny_folder):
    for family in ("bert", "llama"):
        branch = Branch.new(load_backbone(tiny_folder(family)), TaskSpec(), "full", names.method("full").Config(), 1, "float32")
        rows = toy()
        swapped = [{**row, "text_b": row["rejected"], "rejected": row["text_b"]} for row in rows]
        one, other = ([a.scores for a in branch.answers(branch.prepare(some))] for some in (rows, swapped))
        assert np.allclose(one, [-margin for margin in other], atol=1e-5)
        assert all(np.sign(a) == -np.sign(b) for a, b in zip(one, other))


def test_an_answer_gets_the_same_reward_alone_and_in_a_pair(tiny_folder):
    branch = Branch.new(load_backbone(tiny_folder("llama")), TaskSpec(temperature=0.5), "full", names.method("full").Config(), 1, "float32")
    (row,) = toy(1)
    (pair,) = branch.predict([row])
    alone, worse = branch.predict([(row["text"], row["text_b"]), (row["text"], row["rejected"])])
    assert pair.value == pytest.approx(alone.value, abs=1e-5)
    assert pair.scores == pytest.approx(alone.value - worse.value, abs=1e-5)
    assert pair.probability == pytest.approx(1 / (1 + math.exp(-pair.scores)))
    assert alone.probability is None


def test_a_long_prompt_loses_its_beginning_and_the_answer_stays(tiny_folder):
    for family in ("bert", "llama"):
        tokenizer = load_backbone(tiny_folder(family)).tokenizer
        for messages in (None, [{"role": "user", "content": "order " * 60 + "money"}]):
            row = {"text": "order " * 60 + "money", "text_b": "please cancel today", "rejected": "today"} | (
                {"messages": messages} if messages else {}
            )
            item = reward.prepare(row, tokenizer, TaskSpec(max_tokens=16))
            said = tokenizer.text(item.tokens[0].ids.tolist())
            assert item.was_cut
            assert len(item.tokens[0]) <= 16
            assert "money" in said
            assert "please cancel today" in said


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "llama", "t5"])
@pytest.mark.parametrize("chat", [False, True])
def test_the_answers_own_tokens_are_averaged(family, chat, tiny_folder):
    backbone = load_backbone(tiny_folder(family))
    messages = {"messages": [{"role": "user", "content": "where is my order"}]} if chat else {}
    row = {"text": "where is my order", "text_b": "please cancel today", "rejected": "money"} | messages
    item = reward.prepare(row, backbone.tokenizer, TaskSpec())
    for tokens, begin, answer in zip(item.tokens, item.about, (row["text_b"], row["rejected"]), strict=True):
        said = [backbone.tokenizer.text(part.tolist()) for part in (tokens.ids[:begin], tokens.ids[begin:])]
        assert "order" in said[0]
        assert answer in said[1]
        assert "order" not in said[1]
        assert answer not in said[0]
    branch = Branch.new(backbone, TaskSpec(), "full", names.method("full").Config(), 1, "float32")
    branch.network.eval()
    made = collate([item], branch.source(), branch.spec)
    with torch.no_grad():
        out = branch.network(made)
        wanted = [branch.network.head.linear(hidden[begin : len(tokens)].mean(0))
                  for hidden, tokens, begin in zip(out.hidden, item.tokens, item.about)]  # fmt: skip
    assert torch.allclose(out.logits, torch.stack(wanted), atol=1e-5)


def test_a_head_alone_is_solved(tiny_folder):
    """It is the linear reward of the report's baseline "untuned", its answers have a mean of 0, and training rows are told by it."""
    branch = tune(split(toy(60), validation=0.2, test=0.2), load_backbone(tiny_folder("bert")), method="probe", depth=0, settings=SOLVED)
    found = {one["name"]: one["metrics"] for one in branch.report.results}
    assert found["tuned"]["pair_accuracy"]["value"] == found["untuned"]["pair_accuracy"]["value"] > 0.8
    rows = toy(60)
    given = branch.predict([(row["text"], row[name]) for row in rows for name in ("text_b", "rejected")])
    assert abs(np.mean([answer.value for answer in given])) < 0.2 * np.std([answer.value for answer in given])


def test_rows_without_a_pair_or_a_margin_that_is_asked_for_are_refused():
    with pytest.raises(DataError, match="no pair of answers"):
        TaskSpec().learned_from(Rows(({"text": "a", "text_b": "b"},), "reward"))
    with pytest.raises(DataError, match="how much better"):
        TaskSpec(margin=1.0).learned_from(toy(2))


def learn(branch, rows, seed, mutate=lambda loss: loss):
    items = branch.prepare(rows)
    held = branch.prepare(toy(12, start=24))
    tokens = [one for item in (*items, *held) for one in item.tokens]
    states = HeldStates(tokens, branch.source(), lambda hidden, mask: hidden, "float32")
    data = Data(items, held, states, branch.spec, branch.backbone.tokenizer.pad_id, loss=mutate(reward.loss))
    settings = Settings(epochs=8, batch_size=8, dropout=0.0, precision="float32", patience=None, evaluate_every=24, head_learning_rate=0.02)
    fit(branch.network, data, settings, learning_rate=5e-3, seed=seed)
    return compute(["pair_accuracy"], *truth_and_scores(branch.spec, held, branch.answers(held, states)))["pair_accuracy"]


@pytest.fixture
def fresh(tiny_folder):
    def make(seed):
        torch.manual_seed(seed)
        return Branch.new(load_backbone(tiny_folder("llama")), TaskSpec(dropout=0.0), "full", names.method("full").Config(), 2, "float32")

    return make


def test_it_learns_the_toy_in_five_of_five_seeds_and_flipped_pairs_fail_it(fresh):
    assert [learn(fresh(seed), toy(), seed) for seed in range(5)] == [1.0] * 5
    flipped = Rows(tuple({**row, "text_b": row["rejected"], "rejected": row["text_b"]} for row in toy()), "reward")
    assert learn(fresh(0), flipped, 0) < 0.5, "the order of the pairs"
    mutant = learn(fresh(0), toy(), 0, lambda loss: lambda out, batch: loss(Output(-out.logits, out.hidden), batch))
    assert mutant < 0.5, "the sign of the reward"


def test_tune_calibrates_it_and_puts_the_lengths_beside_it(tiny_folder):
    rows = split(toy(36), by="group", validation=0.2, test=0.3)
    branch = tune(
        rows, str(tiny_folder("llama")), method="full", depth=1, settings=Settings(epochs=4, batch_size=8, device="cpu", threads=1)
    )
    report = branch.report
    names_of = [result["name"] for result in report.results]
    assert names_of == ["length", "untuned", "tuned"]
    assert {"pair_accuracy", "pair_loss", "pair_ece"} <= set(report.results[-1]["metrics"])
    assert branch.spec.temperature != 1.0
    assert report.calibration["temperature"] == branch.spec.temperature
    assert "there are 36 pairs" in " ".join(report.data["findings"])
    assert report.html()


def test_the_texts_of_tiny_models_are_known():
    assert set(WORDS) <= set(" ".join(tiny.TEXTS).replace(",", "").split())

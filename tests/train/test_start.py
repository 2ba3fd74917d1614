"""A head of tags that learns alone is what the baseline "untuned" is, for each place of a word in its token; where more learns, it begins so."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import trunkline as tl
from tests import tiny
from tests.train.samples import make_branch, make_data, settings
from trunkline.evaluation import linear
from trunkline.evaluation.baselines import entities
from trunkline.evaluation.baselines.entities import untuned_tagger, word_vectors
from trunkline.train import depth as depths
from trunkline.train.fit import fit
from trunkline.train.start import solve_head
from trunkline.types import Rows

KINDS = {"card": "THING", "order": "THING", "account": "PLACE"}
ENGLISH = ("my", "refund", "please", "today", "the", "for", "about", "who", *KINDS)
CITIES, CHINESE = ("北京", "上海", "天"), ("很好", "不大", "我们去")
NONE = {"text": "\u200b", "label": []}
"""A text without a word."""


@pytest.fixture(autouse=True)
def _own_cache(cache):
    """Every test fills a states store of its own."""


@pytest.fixture
def model(tiny_folder):
    return tiny_folder("bert")


@pytest.fixture
def by_word(tmp_path):
    """A model whose tokens are runs of characters: several words of a Chinese text are in one token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*special, *CITIES, *CHINESE])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special))
    return tiny.save("bert", tmp_path / "model", PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names))


def english(count=80):
    chance = random.Random(0)
    return Rows(tuple(row(chance.choices(ENGLISH, k=chance.randint(2, 9)), KINDS) for _ in range(count)), "tag")


def chinese(count=300):
    chance = random.Random(0)
    return Rows(tuple(row(chance.choices((*CITIES, *CHINESE), k=4), dict.fromkeys(CITIES, "CITY")) for _ in range(count)), "tag")


def clear(folder, rows, **told):
    """A branch and its data; the layers change little, so that the states say clearly which word is read."""
    branch = make_branch(folder, rows, **told)
    with torch.no_grad():
        for weight in branch.backbone.model.encoder.parameters():
            weight.mul_(0.1 if weight.dim() > 1 else 1.0)
    return branch, make_data(branch, rows)


def row(words, kinds):
    text = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    return {"text": text, "label": [[at, at + len(word), kinds[word]] for at, word in zip(starts, words) if word in kinds]}


def untuned(branch, data, rows):
    """What the baseline answers to rows, learned from the data."""
    items = {"train": data.train, "validation": data.validation, "test": branch.prepare(rows)}
    vectors = {name: word_vectors(branch.backbone, branch.depth, part, branch.source(), branch.spec) for name, part in items.items()}
    return untuned_tagger(vectors, items, branch.spec).test


@pytest.mark.parametrize(
    "told", [{"depth": 0}, {"depth": 1, "method": "probe"}, {"depth": 0, "max_tokens": 6}, {"depth": 0, "scheme": "bioes"}]
)
def test_a_head_of_tags_alone_answers_as_the_baseline(told, model):
    rows = replace(english(), rows=(*english().rows, NONE))
    branch, data = clear(model, rows, **told)
    assert solve_head(branch, data)
    wanted = untuned(branch, data, english(120))
    assert any(wanted)
    assert [answer.scores for answer in branch.answers(branch.prepare(english(120)))] == wanted


def test_words_of_one_token_are_told_apart_by_their_place(by_word):
    branch, data = clear(by_word, chinese(), depth=0)
    assert solve_head(branch, data)
    assert branch.spec.places == 4
    assert max(item.about.slots[-1] % 4 for item in data.train) == 2, "nothing was at the fourth place, and nothing is known of it"
    answers = [answer.scores for answer in branch.answers(data.train)]
    assert answers == untuned(branch, data, chinese())
    assert answers == [[tuple(entity) for entity in item.gold] for item in data.train]


def test_a_tag_that_no_word_had_is_never_given(model, monkeypatch):
    branch, data = clear(model, english(), depth=0)
    monkeypatch.setattr(entities, "sampled", lambda items, spec: [item for item in items if "account" not in item.about.text])
    assert solve_head(branch, data)
    assert {kind for answer in branch.answers(data.train) for _, _, kind in answer.scores} == {"THING"}


def test_head_and_baseline_are_solved_once(model, monkeypatch):
    solved, before = [], linear._solve
    monkeypatch.setattr(linear, "_solve", lambda *given: solved.append(given[-1]) or before(*given))
    branch = tl.tune(tl.read(list(english()), task="tag"), model, depth=0, settings=settings())
    assert solved == list(entities._STRENGTHS)
    assert [entry["step"] for entry in branch.report.history[0]] == [0]
    untuned, tuned = ({name: metric["value"] for name, metric in one["metrics"].items()} for one in branch.report.results[-2:])
    assert tuned == untuned


@pytest.mark.parametrize("told", [{"depth": 1}, {"depth": 1, "method": "lora"}, {"depth": 0, "crf": True}])
def test_where_more_learns_the_head_begins_with_a_tenth_of_the_solution(told, model):
    (alone, data), (branch, same) = clear(model, english(), depth=0), clear(model, english(), **told)
    assert solve_head(alone, data)
    assert not solve_head(branch, same)
    for whole, tenth in zip(alone.network.head.linear.parameters(), branch.network.head.linear.parameters(), strict=True):
        assert torch.allclose(tenth, (0.1 * whole).clamp(min=-10), atol=1e-4)


def test_a_tag_that_no_word_had_can_be_learned_where_more_learns(model, monkeypatch):
    branch, data = clear(model, english(), depth=1)
    monkeypatch.setattr(entities, "sampled", lambda items, spec: [item for item in items if "account" not in item.about.text])
    solve_head(branch, data)
    assert branch.network.head.linear.bias.min() == -10
    fit(branch.network, data, settings(epochs=30, patience=None), learning_rate=1e-3, seed=0)
    assert {kind for answer in branch.answers(data.train) for _, _, kind in answer.scores} == {"THING", "PLACE"}


def test_with_a_crf_it_learns_in_steps(model):
    branch = tl.tune(tl.read(list(english()), task="tag"), model, depth=0, settings=settings(epochs=1, task_options="crf=true"))
    assert branch.report.history[0][-1]["step"] > 0


def test_the_search_for_a_depth_solves_it_too(model, monkeypatch):
    solved = []
    monkeypatch.setattr(depths, "solve_head", lambda branch, data: solved.append((branch.depth, solve_head(branch, data))) or solved[-1][1])
    tl.tune(tl.read(list(english()), task="tag"), model, settings=settings(epochs=1, budget="1h"))
    assert solved[:2] == [(0, True), (1, False)]

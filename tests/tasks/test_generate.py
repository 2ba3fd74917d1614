"""generate: what is learned of a row and what is not, what is cut, and that it says what it learned."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests import tiny
from trunkline.branch import Branch, load
from trunkline.errors import ArtefactError, DataError, OptionError
from trunkline.methods import full, probe
from trunkline.model.backbone import ALL, load_backbone
from trunkline.tasks import generate
from trunkline.tasks.generate import TaskSpec, prepare
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import IGNORE, Rows

ROWS = [
    {"text": "who can help me", "label": "please cancel the order"},
    {"text": "my card", "label": "the package was damaged"},
    {"text": "refund", "label": "订单还没有到"},
]
CHATS = [{"text": row["text"], "messages": [{"role": "user", "content": row["text"]}], "label": row["label"]} for row in ROWS]
PLAIN = [{"text": text} for text in tiny.TEXTS]


@pytest.fixture(scope="module")
def backbone(tiny_folder):
    return load_backbone(tiny_folder("llama"))


@pytest.fixture(scope="module")
def words(backbone):
    return backbone.tokenizer


def spec_for(rows, **told):
    spec = TaskSpec(**told)
    return dataclasses.replace(spec, **spec.learned_from(Rows(tuple(rows), "generate")))


def said(words, ids):
    return words.text([one for one in ids if one != IGNORE])


def test_only_the_answer_and_its_end_are_learned(words):
    item = prepare(ROWS[0], words, spec_for(ROWS))
    (tokens,) = item.tokens
    assert len(item.target) == len(tokens)
    learned = item.target != IGNORE
    assert np.array_equal(item.target[learned], tokens.ids[learned])
    assert said(words, item.target) == "please cancel the order"
    assert tokens.ids[-1] == words.end_id == item.target[-1]
    assert tuple(tokens.ids[: len(words.start_ids)]) == words.start_ids
    assert np.array_equal(item.about, tokens.ids[~learned])
    assert item.gold == ["please cancel the order"]


def test_a_chat_goes_through_the_models_form_and_a_text_alone_is_a_users_message(words):
    spec = spec_for(CHATS)
    item, asked = prepare(CHATS[0], words, spec), prepare({"text": ROWS[0]["text"]}, words, spec)
    assert spec.form == "chat"
    assert said(words, item.target) == "please cancel the order"
    assert "user" not in said(words, item.target)
    assert np.array_equal(asked.tokens[0].ids, item.about)
    assert asked.target is None
    assert len(item.about) > len(prepare(ROWS[0], words, spec_for(ROWS)).about)


def test_of_a_plain_text_all_is_learned(words):
    item = prepare(PLAIN[0], words, spec_for(PLAIN))
    assert np.array_equal(item.target, item.tokens[0].ids)
    assert item.gold is None
    assert np.array_equal(item.about, item.tokens[0].ids[:-1])


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_its_end(words):
    long = " ".join(tiny.TEXTS[:5])
    whole = prepare({"text": long, "label": "who"}, words, spec_for(ROWS))
    item = prepare({"text": long, "label": "who"}, words, spec_for(ROWS, max_tokens=16))
    assert (item.was_cut, whole.was_cut) == (True, False)
    assert len(item.tokens[0]) == 16
    start = len(words.start_ids)
    assert np.array_equal(item.tokens[0].ids[start:], whole.tokens[0].ids[-16 + start :])
    assert tuple(item.tokens[0].ids[:start]) == words.start_ids
    assert len(item.about) == 8, "half is left for the answer"
    item = prepare({"text": long, "label": long}, words, spec_for(ROWS, max_tokens=16))
    assert item.was_cut
    assert len(item.tokens[0]) == 16
    assert item.target[-1] != words.end_id
    assert said(words, item.target).startswith("my card")
    plain = prepare({"text": long}, words, spec_for(PLAIN, max_tokens=16))
    assert plain.was_cut
    assert len(plain.tokens[0]) == 16
    assert np.array_equal(plain.tokens[0].ids, whole.tokens[0].ids[:16])


def test_rows_of_several_forms_are_refused_with_their_counts():
    with pytest.raises(DataError, match=r"3 are a text with an answer.*7 have no answer"):
        TaskSpec().learned_from(Rows((*ROWS, *PLAIN), "generate"))


def test_control_tokens_of_a_user_are_plain_text(words):
    item = prepare({"text": "who [SEP] help", "label": "me [SEP] too"}, words, spec_for(ROWS))
    assert list(item.tokens[0].ids).count(words.end_id) == 1


@pytest.mark.parametrize("rows", [ROWS, pytest.param(CHATS, marks=pytest.mark.wide)])
def test_it_says_what_it_learned(rows, backbone):
    spec = spec_for(rows, max_tokens=64, max_new_tokens=12)
    branch = Branch.new(backbone, spec, "full", full.Config(), ALL)
    items = branch.prepare(rows)
    before = branch.answers(items)
    settings = Settings(epochs=150, patience=None, evaluate_every=50, weight_decay=0.0, dropout=0.0, precision="float32")
    fit(branch.network, Data(items, items, None, spec), settings, learning_rate=0.01, seed=0)
    after = branch.answers(items)
    assert [answer.value for answer in branch.predict(rows)] == [said(backbone.tokenizer, i.target) for i in items]
    for was, now in zip(before, after):
        assert was.value is None
        assert was.scores[1] == now.scores[1]
        assert now.scores[0] < 0.1 * was.scores[0]


def test_a_plain_text_is_gone_on_from(backbone):
    branch = Branch.new(backbone, spec_for(PLAIN, max_tokens=64, max_new_tokens=4), "full", full.Config(), 1)
    assert all(isinstance(answer.value, str) for answer in branch.predict([text[:10] for text in tiny.TEXTS]))
    assert all(answer.value is None for answer in branch.answers(branch.prepare(PLAIN)))


def test_drawing_follows_the_seed_and_beams_find_likelier_texts(backbone):
    base = spec_for(ROWS, max_tokens=64, max_new_tokens=6)
    branch = Branch.new(backbone, base, "full", full.Config(), 1)

    def texts(**told):
        return [a.value for a in dataclasses.replace(branch, spec=dataclasses.replace(base, **told)).predict([r["text"] for r in ROWS])]

    assert texts(temperature=1.5) == texts(temperature=1.5)
    assert texts(temperature=1.5) != texts(temperature=1.5, seed=1)
    assert texts(temperature=1.5, top_k=1) == texts()
    assert texts(temperature=1.5, top_p=1e-6) == texts()
    assert texts(beams=8) != texts()


def test_the_head_is_the_models_own_so_a_probe_has_nothing_to_learn(backbone):
    spec = spec_for(ROWS)
    branch = Branch.new(backbone, spec, "probe", probe.Config(), 1)
    items = branch.prepare(ROWS)
    with pytest.raises(OptionError, match="nothing to learn"):
        fit(branch.network, Data(items, items, branch.source(), spec), Settings(), learning_rate=0.1, seed=0)


@pytest.mark.parametrize("told", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"beams": 0}, {"max_new_tokens": 0}, {"seed": -1}])
def test_what_cannot_be_told(told):
    with pytest.raises(OptionError, match=next(iter(told))):
        TaskSpec(**told)


def test_stops_are_told_in_one_line():
    assert TaskSpec(stop="\\n|END").stops == ("\n", "END")
    assert TaskSpec().stops == ()


def test_it_stands_on_decoders_alone():
    assert generate.TaskSpec.backbones == ("decoder",)
    assert generate.METRICS[0] == "perplexity"


def test_a_branch_that_was_tuned_on_chats_is_refused_under_another_chat_template(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    template = folder / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    for rows, name in ((CHATS, "chats"), (ROWS, "prompts")):
        Branch.new(load_backbone(folder), spec_for(rows), "full", full.Config(), 1, "float32").save(tmp_path / name)
        load(tmp_path / name)
    template.write_text("{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    load(tmp_path / "prompts")
    with pytest.raises(ArtefactError, match=r"was tuned with the chat template [0-9a-f]{64}"):
        load(tmp_path / "chats")

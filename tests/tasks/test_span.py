"""span: windows and their targets, the loss and the best span against plain definitions, the threshold for no answer."""

import dataclasses
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests import tiny
from trunkline.data.read import read
from trunkline.errors import DataError, OptionError, TrunklineError
from trunkline.evaluation.kinds.spans import f1
from trunkline.model import sources
from trunkline.model.tokenizer import Tokenizer
from trunkline.states.collate import collate
from trunkline.tasks import span
from trunkline.tasks.span import Passage, TaskSpec
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Answer, Item, Output, Rows, Tokens

QUESTION = "who can help me with the password"
LONG = " ".join(tiny.TEXTS[:5] * 4)


def row(passage=LONG, label=(), question=QUESTION):
    return {"text": question, "text_b": passage, "label": [list(one) for one in label]}


def answer_in(passage, text, at=0):
    """The place and the text of its occurrence number `at`."""
    return [[found.start() for found in re.finditer(text, passage)][at], text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save("bert", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def tokenizer(request, folder):
    return Tokenizer(folder, segments=not request.param, pairs_joined=request.param)


@pytest.fixture
def encoder(folder):
    return Tokenizer(folder, segments=True, pairs_joined=False)


# Windows


def test_a_short_passage_is_one_window_as_the_pair_is_encoded(tokenizer):
    item = span.prepare(row("the order has arrived today", [[4, "order"]]), tokenizer, TaskSpec())
    (tokens,) = item.tokens
    plain, _ = tokenizer.encode(QUESTION, "the order has arrived today", max_tokens=384)
    assert tokens.key == plain.key
    assert not item.was_cut
    ((start, end),) = item.target
    (places,) = item.about.windows
    assert "the order has arrived today"[places[start, 0] : places[end, 1]] == "order"
    assert item.gold == ["order"]


@pytest.mark.parametrize("stride", [1, 8, 13, 1000])
def test_windows_cover_the_passage_and_share_the_stride(tokenizer, stride):
    spec = TaskSpec(max_tokens=48, stride=stride, max_windows=100)
    item = span.prepare(row(), tokenizer, spec)
    assert len(item.tokens) > 4
    assert not item.was_cut
    assert all(len(tokens) <= 48 for tokens in item.tokens)
    question = set(tokenizer.encode(QUESTION, max_tokens=48)[0].ids.tolist())
    assert all(question - {3} <= set(tokens.ids.tolist()) for tokens in item.tokens), "the question stands in each window"
    seen = set()
    for places in item.about.windows:
        seen |= {at for start, end in places.tolist() for at in range(start, end)}
    assert {at for at in range(len(LONG)) if not LONG[at].isspace()} <= seen
    room = 48 - len(tokenizer.encodings(QUESTION, "", max_tokens=48)[0])
    pairs = [
        [set(map(tuple, places[places[:, 1] > 0].tolist())) for places in two] for two in zip(item.about.windows, item.about.windows[1:])
    ]
    assert {len(one & other) for one, other in pairs} == {min(stride, room // 2)}


def test_the_target_is_the_answer_where_it_lies_whole_in_a_window(tokenizer):
    spec = TaskSpec(max_tokens=48, stride=12, max_windows=100)
    for text in ("waiting", "money to my account", "damaged when it arrived"):
        for at in range(3):
            label = [answer_in(LONG, text, at)]
            item = span.prepare(row(label=label), tokenizer, spec)
            there = 0
            for (start, end), places in zip(item.target, item.about.windows):
                inside = places[places[:, 1] > 0]
                whole = inside[0, 0] <= label[0][0] and label[0][0] + len(text) <= inside[-1, 1]
                assert whole == (end > 0)
                if whole:
                    assert (places[start, 0], LONG[places[start, 0] : places[end, 1]]) == tuple(label[0])
                    there += 1
            assert there in (1, 2)


def test_the_first_answer_of_a_window_is_its_target_and_no_answer_is_the_first_token(encoder):
    passage = "the order has arrived, the refund has arrived"
    item = span.prepare(row(passage, [[27, "refund"], [4, "order"]]), encoder, TaskSpec())
    start, _ = item.target[0]
    assert item.about.windows[0][start, 0] == 27
    assert span.prepare(row(passage), encoder, TaskSpec()).target.tolist() == [[0, 0]]
    assert span.prepare({"text": "who", "text_b": passage}, encoder, TaskSpec()).target is None


def test_what_is_cut_is_said(tokenizer):
    spec = TaskSpec(max_tokens=48, stride=8, max_windows=2)
    item = span.prepare(row(), tokenizer, spec)
    assert len(item.tokens) == 2
    assert item.was_cut
    long = span.prepare(row("the order", question=" ".join(["password"] * 100)), tokenizer, dataclasses.replace(spec, max_windows=10))
    assert long.was_cut
    assert all(len(tokens) <= 48 for tokens in long.tokens)
    assert "the order"[long.about.windows[0][:, 0].min() : long.about.windows[0][:, 1].max()] == "the order"
    huge = span.prepare(row("the order " * 10_000), tokenizer, spec)
    assert huge.was_cut
    assert len(huge.tokens) == 2


def test_chinese_is_answered_by_character(encoder):
    passage = "我要退款 谢谢,订单还没有到"
    item = span.prepare(row(passage, [[8, "订单"]], "什么还没有到"), encoder, TaskSpec())
    ((start, end),) = item.target
    assert end == start + 1
    assert passage[item.about.windows[0][start, 0] : item.about.windows[0][end, 1]] == "订单"


def test_a_question_without_a_passage_is_refused(encoder):
    with pytest.raises(DataError, match="needs the passage"):
        span.prepare({"text": "who"}, encoder, TaskSpec())


# Loss and answers


def items(encoder, count=2):
    spec = TaskSpec(max_tokens=40, stride=8)
    made = [
        span.prepare(row(label=[answer_in(LONG, "waiting")]), encoder, spec),
        span.prepare(row("the order", [[4, "order"]]), encoder, spec),
    ]
    return made[:count]


class Random:
    """States of random numbers."""

    def read(self, tokens):
        return [np.random.default_rng(len(one)).normal(size=(len(one), 4)).astype(np.float32) for one in tokens]


def batch_of(made, spec=None):
    return collate(made, Random(), spec or TaskSpec())


def test_the_loss_is_cross_entropy_over_the_passage_and_the_first_token(encoder):
    made = items(encoder)
    batch = batch_of(made)
    logits = torch.randn(*batch.mask.shape, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = span.loss(Output(logits, logits), batch)
    wanted, at = [], 0
    for item in made:
        each = []
        for (start, end), places in zip(item.target, item.about.windows):
            allowed = [0, *np.flatnonzero(places[:, 1] > 0)]
            for side, right in ((0, start), (1, end)):
                each.append(functional.cross_entropy(logits[at, allowed, side][None], torch.tensor([allowed.index(right)])))
            at += 1
        wanted.append(torch.stack(each).mean())
    assert at == len(logits) > 4
    assert torch.allclose(found, torch.stack(wanted).mean(), atol=1e-6)
    found.backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~batch.mask].any(), "nothing is learned from padding"
    parts = []
    for item in made:
        one = batch_of([item])
        parts.append(span.loss(Output(logits[: len(one.mask)] if item is made[0] else logits[-1:, : one.mask.shape[1]], logits), one))
    assert torch.allclose(found, sum(parts) / 2, atol=1e-6), "a batch in parts gives the same"


def by_brute_force(logits, passage, most):
    """Every span of every window, each against the first token of its window."""
    found = []
    for window, places in zip(logits, passage.windows):
        inside = [at for at, (start, end) in enumerate(places.tolist()) if end > start]
        found += [
            (float(window[i, 0] + window[j, 1] - window[0, 0] - window[0, 1]), passage.text[places[i, 0] : places[j, 1]])
            for i in inside
            for j in inside
            if i <= j < i + most
        ]
    return max(found)


@pytest.mark.parametrize("most", [1, 3, 30])
def test_the_best_span_over_all_windows(encoder, most):
    spec, batch = TaskSpec(max_answer_tokens=most, no_answers=True), batch_of(items(encoder))
    for seed in range(8):
        logits = torch.randn(*batch.mask.shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
        said, at = span.decode(Output(logits, logits), batch, spec), 0
        for answer, passage in zip(said, batch.abouts):
            score, text = by_brute_force(logits[at : at + len(passage.windows)], passage, most)
            at += len(passage.windows)
            assert answer.scores == answer.value["text"] == (text if score >= 0 else "")
            assert answer.value["no_answer"] == pytest.approx(-score, abs=1e-5)
            assert 0 < answer.probability <= 1
            if score >= 0:
                assert passage.text[answer.value["start"] : answer.value["end"]] == text


def test_the_probability_is_a_softmax_over_the_candidates():
    passage = Passage("ab", (np.array([[0, 0], [0, 1], [1, 2]], dtype=np.int32),))
    item = Item((Tokens(np.array([1, 2, 3], dtype=np.int32)),), about=passage)
    logits = torch.tensor([[[1.0, 2.0], [3.0, 0.5], [0.0, 4.0]]])
    scores = {"a": 3.5, "ab": 7.0, "b": 4.0, "": 3.0}
    total = sum(math.exp(score) for score in scores.values())
    for told, allowed in ((TaskSpec(no_answers=True), total), (TaskSpec(), total - math.exp(3))):
        (answer,) = span.decode(Output(logits, logits), batch_of([item], told), told)
        assert answer.value["text"] == "ab"
        assert answer.probability == pytest.approx(math.exp(7) / allowed)
        assert ("no_answer" in answer.value) == told.no_answers
    silent = TaskSpec(no_answers=True, no_answer_threshold=-4.5)
    (answer,) = span.decode(Output(logits, logits), batch_of([item], silent), silent)
    assert answer.value == {"text": "", "start": None, "end": None, "no_answer": -4.0}
    assert answer.probability == pytest.approx(math.exp(3) / total)


def test_without_questions_that_have_no_answer_each_gets_one(encoder):
    batch = batch_of(items(encoder, 1))
    logits = torch.zeros(*batch.mask.shape, 2)
    logits[:, 0] = 50  # every window says: not in here
    (answer,) = span.decode(Output(logits, logits), batch, TaskSpec())
    assert answer.scores
    (answer,) = span.decode(Output(logits, logits), batch, TaskSpec(no_answers=True))
    assert answer.scores == ""


def test_a_window_s_level_does_not_matter(encoder):
    """The softmax of each window leaves its level free; so must the choice between windows."""
    batch, spec = batch_of(items(encoder, 1)), TaskSpec(no_answers=True)
    logits = torch.randn(*batch.mask.shape, 2, generator=torch.Generator().manual_seed(1))
    levels = torch.randn(len(logits), 1, 2, generator=torch.Generator().manual_seed(2)) * 20
    (one,) = span.decode(Output(logits, logits), batch, spec)
    (other,) = span.decode(Output(logits + levels, logits), batch, spec)
    assert one.value["text"] == other.value["text"]
    assert torch.allclose(span.loss(Output(logits, logits), batch), span.loss(Output(logits + levels, logits), batch), atol=1e-4)


def test_a_passage_of_which_nothing_is_read_has_no_answer():
    item = Item((Tokens(np.array([1, 2], dtype=np.int32)),), about=Passage("", (np.zeros((2, 2), dtype=np.int32),)))
    (answer,) = span.decode(Output(torch.zeros(1, 2, 2), torch.zeros(1)), batch_of([item]), TaskSpec())
    assert (answer.value, answer.scores, answer.probability) == ({"text": "", "start": None, "end": None}, "", 1.0)


def test_white_space_around_a_span_is_left_out():
    passage = Passage("a  order b", (np.array([[0, 0], [1, 8]], dtype=np.int32),))
    item = Item((Tokens(np.array([1, 2], dtype=np.int32)),), about=passage)
    (answer,) = span.decode(Output(torch.zeros(1, 2, 2), torch.zeros(1)), batch_of([item]), TaskSpec())
    assert answer.value == {"text": "order", "start": 3, "end": 8}


def test_the_head_starts_small_and_gives_nothing_on_padding(encoder):
    batch = batch_of(items(encoder))
    torch.manual_seed(0)
    made = span.head(4, TaskSpec(dropout=0.0))
    assert not made.linear.bias.any()
    assert made.linear.weight.abs().max() < 0.1
    logits = made(batch.hidden, batch)
    assert logits.shape == (*batch.mask.shape, 2)
    assert not logits[~batch.mask].any()
    assert torch.allclose(logits[batch.mask], made.linear(batch.hidden[batch.mask]))


# The threshold


def said(margin, text="right"):
    return Answer({"text": text, "start": 0, "end": 1, "no_answer": margin}, text)


def test_the_threshold_is_the_best_of_all_cuts():
    generator = np.random.default_rng(0)
    for _ in range(50):
        count = int(generator.integers(1, 12))
        answers = [said(float(m), str(generator.choice(["right", "right word", "wrong"]))) for m in generator.normal(size=count).round(1)]
        truth = [["right"] if generator.random() < 0.6 else [] for _ in answers]

        def total(threshold, answers=answers, truth=truth):
            return sum(f1(right, "" if one.value["no_answer"] > threshold else one.scores) for right, one in zip(truth, answers))

        found = span.fit_threshold(answers, truth, f1)
        assert total(found) == pytest.approx(max(total(cut) for cut in np.arange(-6, 6, 0.05)))


def test_of_equal_thresholds_the_one_nearest_to_zero_is_taken():
    assert span.fit_threshold([said(-1.0), said(3.0)], [["right"], []], f1) == 1.0
    assert span.fit_threshold([said(2.0), said(4.0)], [["right"], []], f1) == 3.0
    assert span.fit_threshold([said(-5.0), said(-5.0)], [["right"], []], f1) == -4.5


# What is learned from rows


def test_whether_some_have_no_answer_is_learned():
    rows = Rows((row(label=[[0, "my"]]), row()), "span")
    assert TaskSpec().learned_from(rows) == {"no_answers": True}
    assert TaskSpec().learned_from(dataclasses.replace(rows, rows=rows.rows[:1])) == {"no_answers": False}
    with pytest.raises(DataError, match="none of the 1 training rows has an answer"):
        TaskSpec().learned_from(dataclasses.replace(rows, rows=rows.rows[1:]))


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 8), ("stride", 0), ("max_windows", 0), ("max_answer_tokens", 0), ("dropout", 1.0)]
)
def test_options_out_of_range(name, value):
    with pytest.raises(OptionError, match=f"{name}={value}: use"):
        TaskSpec(**{name: value})


# From rows to a branch


def asked(count, none=0):
    """Questions whose answer is always the word "account"; every `none`-th has none."""
    made = []
    for n in range(count):
        lacks = none and n % none == 0
        passage = f"{tiny.TEXTS[n % 5 if not lacks else 4]} {'order' if lacks else 'account'} number {n}"
        made.append({"text": f"{QUESTION} {n}", "text_b": passage, "label": [] if lacks else [answer_in(passage, "account")]})
    return Rows(tuple(made), "span")


def test_tune_measures_beside_the_overlap_and_picks_the_threshold(cache, tiny_folder):
    settings = Settings(epochs=6, learning_rate=0.01, threads=1)
    branch = tune(asked(90, none=3), tiny_folder("bert"), depth=1, settings=settings)
    assert branch.spec.no_answers
    assert isinstance(branch.spec.no_answer_threshold, float)
    assert branch.spec.no_answer_threshold != 0
    names = [result["name"] for result in branch.report.results]
    assert names == ["majority", "overlap", "tuned"]
    tuned, majority = branch.report.results[-1]["metrics"], branch.report.results[0]["metrics"]
    assert tuned["span_f1"]["value"] > majority["span_f1"]["value"]
    assert set(tuned) == set(span.METRICS)
    assert "tuned branch" in str(branch.report)
    page = branch.report.html()
    assert "Exact match" in page
    said = [answer.value["text"] for answer in branch.predict(asked(90, none=3))]
    assert said.count("account") > 15
    assert said.count("") > 5
    told = tune(
        asked(90, none=3), tiny_folder("bert"), depth=1, settings=dataclasses.replace(settings, task_options="no_answer_threshold=0.5")
    )
    assert told.spec.no_answer_threshold == 0.5


def test_a_threshold_is_left_where_every_question_has_an_answer(cache, tiny_folder):
    branch = tune(asked(40), tiny_folder("bert"), depth=1, settings=Settings(epochs=1, threads=1))
    assert branch.spec.no_answer_threshold is None
    assert [result["name"] for result in branch.report.results] == ["overlap", "tuned"]


@pytest.mark.real
@pytest.mark.parametrize("file", ["xquad/xquad.en.json", "xquad/xquad.de.json", "drcd/DRCD_dev.json"])
def test_answers_of_real_data_can_be_said_in_tokens(file):
    """The tokens that training points at give the answer back, over windows, in nearly every row: the rest ends within a token."""
    path = Path(os.environ.get("TRUNKLINE_DATA", Path(__file__).parents[3] / "shared" / "data"), file)
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    try:
        folder = sources.locate("minilm")
    except TrunklineError as error:
        pytest.skip(f"minilm cannot be had here: {error}")
    tokenizer, spec = Tokenizer(folder, segments=True, pairs_joined=False), TaskSpec(max_tokens=256)
    values = []
    for one in read(path, "span")[:600]:
        item = span.prepare(one, tokenizer, spec)
        places, (start, end) = next((p, t) for p, t in zip(item.about.windows, item.target) if t.any())
        values.append(f1(item.gold, item.about.text[places[start, 0] : places[end, 1]]))
    assert np.mean(values) > 0.995

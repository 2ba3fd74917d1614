"""Words to tokens and back, the loss by hand, constrained answers, and rows that do not fit the model."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from trunkline.errors import DataError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.states.collate import collate
from trunkline.tasks import tag
from trunkline.types import IGNORE, Batch, Item, Output, Rows, Tokens

ROWS = Rows(
    (
        {"text": "refund the money to my account", "label": [[11, 16, "THING"], [20, 30, "PLACE"]]},
        {"text": "我要退款 谢谢", "label": [[2, 4, "THING"]]},
    ),
    "tag",
)


class OneToken:
    """A tokenizer that gives the tokens it was told, with special tokens around them."""

    def __init__(self, *offsets):
        self.offsets = [(0, 0), *offsets, (0, 0)]
        self.overflowing = []

    def encodings(self, text, *, max_tokens):
        return [self]

    def tokens(self, encoding):
        return Tokens(np.arange(len(self.offsets), dtype=np.int32))


def made(scheme="bio", crf=False, rows=ROWS, **options):
    spec = tag.TaskSpec(scheme=scheme, crf=crf, dropout=0.0, **options)
    return dataclasses.replace(spec, **spec.learned_from(rows))


@pytest.fixture
def tokenizer(tiny_folder):
    return load_backbone(tiny_folder("bert")).tokenizer


def test_labels_words_and_places_are_learned():
    assert made().labels == ("O", "B-PLACE", "I-PLACE", "B-THING", "I-THING")
    assert made("bioes").labels[1:5] == ("B-PLACE", "I-PLACE", "E-PLACE", "S-PLACE")
    assert (made().places, made().words) == (tag.PLACES, 6.0)
    english = Rows(({"text": "a b", "label": [[0, 1, "X"]]},), "tag")
    assert (made(rows=english).places, made(rows=english).words) == (1, 2.0)
    with pytest.raises(DataError, match="none of the 1 training rows has an entity"):
        made(rows=Rows(({"text": "a", "label": []},), "tag"))
    with pytest.raises(OptionError, match="scheme='iob'"):
        tag.TaskSpec(scheme="iob")


def test_the_first_piece_of_a_word_carries_its_tag():
    spec = made(rows=Rows(({"text": "unhappy Ann", "label": [[8, 11, "P"]]},), "tag"))
    item = tag.prepare({"text": "unhappy Ann", "label": [[8, 11, "P"]]}, OneToken((0, 2), (2, 7), (7, 9), (9, 11)), spec)
    assert item.target.tolist() == [[IGNORE], [0], [IGNORE], [1], [IGNORE], [IGNORE]]
    assert item.gold == [(8, 11, "P")]
    assert item.about.words == [(0, 7), (8, 11)]


def test_characters_in_one_token_are_told_apart_by_their_place():
    spec = made(rows=Rows(({"text": "在北京大学里", "label": [[1, 5, "ORG"]]},), "tag"))
    item = tag.prepare({"text": "在北京大学里", "label": [[1, 5, "ORG"]]}, OneToken((0, 2), (2, 6)), spec)
    o, b, i = range(3)
    assert item.target.tolist() == [[IGNORE] * 4, [o, b, IGNORE, IGNORE], [i, i, i, o], [IGNORE] * 4]
    longer = tag.prepare({"text": "在北京大学里面", "label": [[1, 5, "ORG"]]}, OneToken((0, 7)), spec)
    assert longer.target.tolist()[1] == [o, b, i, i]
    assert longer.about.words == [(0, 1), (1, 2), (2, 3), (3, 7)]


def test_words_without_a_token_are_left_out(tokenizer):
    spec = made()
    item = tag.prepare({"text": "refund the money to my account", "label": [[11, 16, "THING"], [20, 30, "PLACE"]]}, tokenizer,
                       dataclasses.replace(spec, max_tokens=6))  # fmt: skip
    assert item.was_cut
    assert item.about.words == [(0, 6), (7, 10), (11, 16), (17, 19)]
    assert item.gold == [(11, 16, "THING"), (20, 30, "PLACE")]
    dropped = tag.prepare({"text": "a b c", "label": []}, OneToken((0, 1), (4, 5)), spec)
    assert dropped.about.words == [(0, 1), (4, 5)]


def test_an_entity_that_was_cut_ends_where_the_text_ends(tokenizer):
    spec = dataclasses.replace(made("bioes"), max_tokens=7)
    item = tag.prepare({"text": "refund the money to my account", "label": [[11, 30, "THING"]]}, tokenizer, spec)
    tags = [spec.labels[t] for t in item.target.ravel() if t != IGNORE]
    assert tags == ["O", "O", "B-THING", "I-THING", "E-THING"]


def test_a_type_that_training_did_not_have_counts_as_missed(tokenizer):
    item = tag.prepare({"text": "my account", "label": [[3, 10, "NEW"]]}, tokenizer, made())
    assert set(item.target.ravel().tolist()) == {IGNORE, 0}
    assert item.gold == [(3, 10, "NEW")]


def test_rows_without_labels_and_without_words(tokenizer):
    item = tag.prepare({"text": "my account"}, tokenizer, made())
    assert item.target is None
    assert item.gold is None
    assert item.about.words == [(0, 2), (3, 10)]
    own = tag.prepare({"text": "my account", "words": [[0, 10]]}, tokenizer, made())
    assert own.about.words == [(0, 10)]


def batch_of(items, spec, seed=0):
    """Random logits for some items, and their batch."""
    torch.manual_seed(seed)
    longest = max(len(item.tokens[0]) for item in items)
    logits = 3 * torch.randn(len(items), longest, spec.places, len(spec.labels))

    class Zeros:
        def read(self, tokens):
            return [np.zeros((len(one), 2), dtype=np.float32) for one in tokens]

    batch = collate(items, Zeros(), spec)
    extra = dict(tag.TagHead(2, spec).steps()) if spec.crf else {}
    return Output(logits, batch.hidden, {name: torch.randn_like(value) for name, value in extra.items()}), batch


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("scheme", tag.SCHEMES)
def test_loss_is_the_log_likelihood_of_the_tags(crf, scheme, tokenizer):
    spec = made(scheme, crf)
    items = [tag.prepare(row, tokenizer, spec) for row in ROWS]
    out, batch = batch_of(items, spec)
    total = 0.0
    for row, item in enumerate(items):
        flat = out.logits[row].flatten(0, 1)[item.about.slots]
        tags = item.target.ravel()[item.about.slots].tolist()
        if not crf:
            total -= float(flat.log_softmax(1)[range(len(tags)), tags].sum())
            continue
        steps = tag._steps(out, spec, torch.device("cpu"))
        forward = flat[0] + steps.start
        for word in flat[1:]:
            forward = torch.logsumexp(forward[:, None] + steps.pair, 0) + word
        value = steps.start[tags[0]] + steps.end[tags[-1]] + flat[range(len(tags)), tags].sum()
        value = value + sum(steps.pair[a, b] for a, b in itertools.pairwise(tags))
        total += float(torch.logsumexp(forward + steps.end, 0) - value)
    assert float(tag.loss(out, batch)) == pytest.approx(total / (2 * spec.words), rel=1e-5)


@pytest.mark.parametrize("crf", [False, True])
def test_a_batch_in_parts_gives_the_same_loss(crf, tokenizer):
    spec = made(crf=crf)
    items = [tag.prepare(row, tokenizer, spec) for row in ROWS]
    out, batch = batch_of(items, spec)
    whole = float(tag.loss(out, batch))
    parts = [float(tag.loss(Output(out.logits[i : i + 1], out.hidden, out.extra), Batch(None, batch.mask[i : i + 1], batch.owner[:1], spec,
             targets=batch.targets[i : i + 1]))) for i in range(2)]  # fmt: skip
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-5)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("scheme", tag.SCHEMES)
def test_answers_are_entities_of_the_text_whatever_the_logits_are(crf, scheme, tokenizer):
    spec = made(scheme, crf)
    rows = [*ROWS, {"text": "\u200b"}, {"text": "the order, i changed my mind"}]
    items = [tag.prepare({"text": row["text"]}, tokenizer, spec) for row in rows]
    found = 0
    for seed in range(20):
        out, batch = batch_of(items, spec, seed)
        for row, item, answer in zip(rows, items, tag.decode(out, batch, spec)):
            assert [(e["start"], e["end"], e["type"]) for e in answer.value] == answer.scores
            assert all(e["text"] == row["text"][e["start"] : e["end"]] for e in answer.value)
            assert answer.scores == sorted(answer.scores)
            assert all(a[1] <= b[0] for a, b in zip(answer.scores, answer.scores[1:]))
            assert (answer.probability is None) == (not item.about.words)
            assert answer.probability is None or 0 < answer.probability <= 1
            found += len(answer.scores)
    assert found > 50


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("scheme", tag.SCHEMES)
def test_answers_of_the_true_tags_are_the_truth(crf, scheme, tokenizer):
    spec = made(scheme, crf)
    items = [tag.prepare(row, tokenizer, spec) for row in ROWS]
    out, batch = batch_of(items, spec)
    for row, item in enumerate(items):
        out.logits[row].flatten(0, 1)[item.about.slots, item.target.ravel()[item.about.slots]] = 100.0
    assert [answer.scores for answer in tag.decode(out, batch, spec)] == [item.gold for item in items]


def test_a_tag_that_may_not_follow_is_not_given():
    spec = made(rows=Rows(({"text": "a b", "label": [[0, 3, "X"]]},), "tag"))
    item = tag.prepare({"text": "a b"}, OneToken((0, 1), (2, 3)), spec)
    logits = torch.full((1, 4, 1, 3), -10.0)
    logits[0, 1, 0] = torch.tensor([1.0, 0.5, -9.0])  # O is best, then B
    logits[0, 2, 0] = torch.tensor([0.0, -9.0, 3.0])  # I is best
    (answer,) = tag.decode(
        Output(logits, logits), Batch(None, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1), spec, abouts=[item.about]), spec
    )
    assert answer.scores == [(0, 3, "X")]
    wanted = min(math.exp(0.5) / (math.e + math.exp(0.5) + math.exp(-9)), math.exp(3) / (1 + math.exp(-9) + math.exp(3)))
    assert answer.probability == pytest.approx(wanted, rel=1e-5)


def test_a_crf_learns_what_a_word_alone_does_not_say():
    """The second word is an entity only behind the first tag, and its own logits are the same both times."""
    torch.manual_seed(0)
    spec = dataclasses.replace(tag.TaskSpec(crf=True, dropout=0.0), labels=("O", "B-X", "I-X"), words=2.0)
    head = tag.head(2, spec)
    hidden = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    targets = torch.tensor([[[1], [2]], [[0], [0]]])
    batch = Batch(hidden, torch.ones(2, 2, dtype=torch.bool), torch.arange(2), spec, targets=targets,
                  abouts=[tag.About("a b", [(0, 1), (2, 3)], np.array([0, 1]))] * 2)  # fmt: skip
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(100):
        logits, extra = head(hidden, batch)
        optimizer.zero_grad()
        tag.loss(Output(logits, hidden, extra), batch).backward()
        optimizer.step()
    with torch.no_grad():
        logits, extra = head(hidden, batch)
        assert [a.scores for a in tag.decode(Output(logits, hidden, extra), batch, spec)] == [[(0, 3, "X")], []]


def test_the_head_needs_no_words_for_fixed_tokens():
    spec = made()
    logits, extra = tag.head(4, spec)(torch.zeros(1, 3, 4), Batch(None, torch.ones(1, 3), torch.zeros(1), spec, abouts=[Item(()).about]))
    assert logits.shape == (1, 3, tag.PLACES, 5)
    assert extra == {}

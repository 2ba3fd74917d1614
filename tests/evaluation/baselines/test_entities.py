"""A dictionary by hand, and a linear model on states from which the tags can be read off."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny import TEXTS
from trunkline.errors import DataError
from trunkline.evaluation.baselines import entities
from trunkline.evaluation.baselines.entities import entity_baselines, sampled, untuned_tagger
from trunkline.evaluation.features import word_states
from trunkline.model.backbone import load_backbone
from trunkline.states.live import LiveStates
from trunkline.tasks import tag
from trunkline.types import IGNORE, Item, Rows


def row(text, *entities):
    return {"text": text, "label": [[text.index(part), text.index(part) + len(part), kind] for part, kind in entities]}


TRAIN = [
    row("New York is large", ("New York", "LOC")),
    row("York is old", ("York", "LOC")),
    row("Will left New York City", ("Will", "PER"), ("New York City", "LOC")),
    row("Will Ann come", ("Ann", "PER")),
    row("will it rain"),
    row("he said he will"),
]


def found(text, train=TRAIN, **options):
    return [(text[start:end], kind) for start, end, kind in entity_baselines(train, [{"text": text}], None, **options)[0].test[0]]


def test_the_longest_entity_is_found_with_its_usual_type():
    assert found("from New York City to York") == [("New York City", "LOC"), ("York", "LOC")]
    assert found("ann") == []
    assert found("Will Ann") == [("Will", "PER"), ("Ann", "PER")]  # half of the time is enough
    assert found("我在北京大学", [row("北京大学好", ("北京大学", "ORG")), row("北京好", ("北京", "LOC"))]) == [("北京大学", "ORG")]


def test_share_and_case_are_picked_on_the_validation_rows():
    (loose,) = entity_baselines(TRAIN, [row("ann and york")], None, validation=[row("ann in york", ("ann", "PER"), ("york", "LOC"))])
    assert loose.options["any_case"] is True
    assert loose.test == [[(0, 3, "PER"), (8, 12, "LOC")]]
    (strict,) = entity_baselines(TRAIN, [row("Will Ann")], None, validation=[row("Will Ann rain", ("Ann", "PER"))])
    assert strict.options["share"] == 0.3  # of its occurrences in any case, "will" is an entity in one of four
    assert strict.test == [[(5, 8, "PER")]]
    assert strict.validation == [[(5, 8, "PER")]]


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="at least one of each"):
        entity_baselines(TRAIN, [], None)


def item(text, tags, spec):
    """An item with one token for each word."""
    words = [(at, at + 1) for at in range(0, len(text), 2)]
    return Item((), np.array([[spec.labels.index(t) if t else IGNORE] for t in tags]), about=tag.About(text, words, np.arange(len(words))))


def test_the_tagger_reads_tags_off_states_and_gives_entities():
    rows = Rows((row("a b c", ("a b", "X")),), "tag")
    spec = dataclasses.replace(tag.TaskSpec(), **tag.TaskSpec().learned_from(rows))
    generator = np.random.default_rng(0)
    tags = [list(generator.choice(["O", "B-X"], 3)) for _ in range(60)]
    tags = [[t if at == 0 or one[at - 1] == "O" else "I-X" for at, t in enumerate(one)] for one in tags]
    items = [item("a b c", one, spec) for one in tags]
    states = [np.eye(3)[item.target[:, 0]] + 0.1 * generator.standard_normal((3, 3)) for item in items]
    parts = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
    result = untuned_tagger({k: states[v] for k, v in parts.items()}, {k: items[v] for k, v in parts.items()}, spec)
    wanted = [tag.spans_of(one, "bio")[0] for one in tags[50:]]
    assert result.test == [[(2 * start, 2 * end - 1, kind) for start, end, kind in spans] for spans in wanted]
    assert len(result.validation) == 10
    assert result.options["words"] == 120


def test_states_of_words_are_the_last_ones_of_their_first_tokens(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    spec = dataclasses.replace(tag.TaskSpec(max_tokens=64), labels=("O", "B-PER", "I-PER"))
    items = [tag.prepare({"text": text}, backbone.tokenizer, spec) for text in (*TEXTS, "\u200b")]
    at = [item.about.slots for item in items]
    live = word_states(backbone, 1, items, LiveStates(backbone.trunk(1)), at)
    assert [one.shape for one in live] == [(len(item.about.words), backbone.width) for item in items]
    for item, places, one in zip(items, at, live):
        with torch.no_grad():
            whole = backbone.model(input_ids=torch.from_numpy(item.tokens[0].ids)[None].long()).last_hidden_state[0]
        assert np.allclose(one, whole[places].numpy(), atol=5e-3)


def test_rows_are_sampled_by_their_words(monkeypatch):
    two, three = (SimpleNamespace(labels=("O",) * count) for count in (2, 3))
    monkeypatch.setattr(entities, "MAX_WORDS", 9)
    items = [Item((), about=tag.About("", [(0, 1)] * size, np.arange(size))) for size in (5, 3, 4, 6)]
    picked = sampled(items, two)
    assert 0 < sum(len(one.about.words) for one in picked) <= 9
    assert [one for one in items if any(one is kept for kept in picked)] == picked, "in their order"
    assert sampled(items, two) == picked
    monkeypatch.setattr(entities, "MAX_WORDS", 100)
    assert sampled(items, two) == items
    monkeypatch.setattr(entities, "MAX_SCORES", 27)  # a fit costs words times tags
    assert sampled(items, three) == picked

"""Entity metrics against seqeval, and against counts made by hand."""

import random

import numpy as np
import pytest
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from trunkline.data.tagging import spans_of
from trunkline.evaluation.kinds.entities import METRICS, errors, per_type

BY_NAME = {metric.name: metric for metric in METRICS}


def random_tags(chance, rows, words, kinds):
    """Tags of sentences with letters as they fall, many of them not legal: strict mode has to judge these too."""
    tags = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in kinds)]
    return [[chance.choice(tags) for _ in range(words)] for _ in range(rows)]


def strict(tags):
    """Entities as strict mode sees them: an I without its B is no entity."""
    made = []
    for row in tags:
        kept, inside = [], None
        for tag in row:
            kind = tag[2:] if tag[0] == "B" or (tag[0] == "I" and inside == tag[2:]) else None
            kept.append(tag if kind else "O")
            inside = kind
        spans, repairs = spans_of(kept, "bio")
        assert repairs == 0
        made.append(spans)
    return made


@pytest.mark.parametrize("seed", range(220))
def test_equal_to_seqeval_strict(seed):
    chance = random.Random(seed)
    kinds = ["PER", "LOC", "ORG", "MISC"][: chance.randint(1, 4)]
    rows, words = chance.randint(1, 8), chance.randint(1, 9)
    truth = random_tags(chance, rows, words, kinds)
    scores = [
        [tag if chance.random() < 0.7 else other for tag, other in zip(*pair)]
        for pair in zip(truth, random_tags(chance, rows, words, kinds))
    ]
    for average, names in (("micro", ("entity_precision", "entity_recall", "entity_f1")), ("macro", (None, None, "entity_macro_f1"))):
        if not any(strict(truth)) and not any(strict(scores)):
            continue  # seqeval has no types to average over
        wanted = precision_recall_fscore_support(truth, scores, average=average, scheme=IOB2, zero_division=0)
        for name, value in zip(names, wanted):
            if name is not None:
                assert BY_NAME[name].function(strict(truth), strict(scores)) == pytest.approx(float(value), abs=1e-9), name


def test_weights_are_rows_drawn_again():
    truth = [[(0, 2, "A")], [(0, 1, "B"), (3, 4, "A")], []]
    scores = [[(0, 2, "A")], [(0, 1, "A")], [(5, 6, "B")]]
    drawn = [0, 0, 1, 2, 2, 2]
    for metric in METRICS:
        whole = metric.function([truth[i] for i in drawn], [scores[i] for i in drawn])
        weighted = metric.weighted(truth, scores)(np.array([[2.0, 1.0], [1.0, 0.0], [3.0, 0.0]]))
        assert weighted == pytest.approx([whole, 1.0], abs=1e-12)


def test_nothing_there_and_nothing_said_is_zero():
    assert [metric.function([[], []], [[], []]) for metric in METRICS] == [0.0] * 4


def test_an_entity_said_twice_counts_once():
    assert BY_NAME["entity_precision"].function([[(0, 1, "A")]], [[(0, 1, "A"), (0, 1, "A")]]) == 1.0


def test_per_type_counts_by_hand():
    found = per_type([[(0, 1, "A"), (2, 3, "B")], [(0, 1, "A")]], [[(0, 1, "A"), (2, 3, "A")], []])
    assert found == [
        {"label": "A", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "predicted": 2},
        {"label": "B", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 0},
    ]


def test_errors_show_what_was_missed_and_made_up_worst_first():
    rows = [{"text": "Ann saw Bob"}, {"text": "Bob left"}, {"text": "all right"}]
    truth = [[(0, 3, "PER"), (8, 11, "PER")], [(0, 3, "PER")], []]
    scores = [[(0, 3, "PER")], [(0, 3, "LOC")], []]
    assert errors(rows, truth, scores, 5) == [
        {"text": "Bob left", "label": "Bob (PER)", "predicted": "Bob (LOC)"},
        {"text": "Ann saw Bob", "label": "Bob (PER)", "predicted": "-"},
    ]
    assert len(errors(rows, truth, scores, 1)) == 1

"""The metrics of rankings against scikit-learn and against the formulas read out in plain Python; and from vectors to ranks."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from trunkline.errors import OptionError
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.kinds import ranks
from trunkline.evaluation.metrics import compute
from trunkline.types import Answer, Item

GENERATOR = np.random.default_rng(0)
NAMES = [metric.name for metric in ranks.METRICS]


def cases():
    """220 tables (N, P) of which candidates are right, with their scores, and the ranks that a plain sort gives."""
    for _ in range(220):
        rows, candidates = int(GENERATOR.integers(1, 12)), int(GENERATOR.integers(2, 40))
        right = GENERATOR.random((rows, candidates)) < GENERATOR.uniform(0.02, 0.6)
        right[np.arange(rows), GENERATOR.integers(0, candidates, rows)] = True
        yield right, np.stack([GENERATOR.permutation(candidates) for _ in range(rows)]).astype(float)


def ranks_of(right, scores):
    return [[int((row > row[at]).sum()) + 1 for at in np.flatnonzero(there)] for there, row in zip(right, scores)]


def plain(name, right, found):
    """The formulas, one row at a time. right: how many; found: the ranks."""
    kind, _, k = name.partition("_at_")
    values = []
    for n, ranks_ in zip(right, found):
        if kind == "mrr":
            values.append(max((1 / r for r in ranks_), default=0))
        elif kind == "recall":
            values.append(sum(r <= int(k) for r in ranks_) / n)
        elif kind == "ndcg":
            best = sum(1 / np.log2(1 + i) for i in range(1, min(n, int(k)) + 1))
            values.append(sum(1 / np.log2(1 + r) for r in ranks_ if r <= int(k)) / best)
        else:
            values.append(sum((sum(q <= r for q in ranks_)) / r for r in ranks_) / n)
    return sum(values) / len(values)


def test_220_random_cases_agree_with_scikit_learn_and_the_formulas():
    count = 0
    for right, scores in cases():
        truth, found = right.sum(1), ranks_of(right, scores)
        got = compute(NAMES, truth, found)
        for name in NAMES:
            assert abs(got[name] - plain(name, truth.tolist(), found)) < 1e-9, name
        assert abs(got["ndcg_at_10"] - ndcg_score(right, scores, k=10)) < 1e-9
        assert abs(got["map"] - label_ranking_average_precision_score(right, scores)) < 1e-9
        count += 1
    assert count == 220


def test_by_hand():
    truth, found = [1, 2, 1], [[2], [1, 4], []]  # the last right one was not found at all
    got = compute(NAMES, truth, found)
    assert got["mrr"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert got["recall_at_1"] == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert got["recall_at_10"] == pytest.approx(2 / 3)
    assert got["map"] == pytest.approx((1 / 2 + (1 + 2 / 4) / 2 + 0) / 3)
    assert got["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + (1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3))) / 3)


def test_a_row_without_a_right_one_does_not_count():
    assert compute(NAMES, [1, 0], [[3], []]) == compute(NAMES, [1], [[3]])
    assert set(compute(NAMES, [0], [[]]).values()) == {0.0}


def test_a_resample_is_the_metric_of_the_rows_that_were_drawn():
    truth, found = [1, 2, 1, 0], [[2], [1, 4], [7], []]
    weights = np.array([[0, 2, 1, 1], [3, 0, 0, 1]], dtype=float).T
    for metric in ranks.METRICS:
        for column in weights.T:
            drawn = [at for at, times in enumerate(column) for _ in range(int(times))]
            wanted = metric.function([truth[at] for at in drawn], [found[at] for at in drawn])
            assert metric.weighted(truth, found)(column[:, None])[0] == pytest.approx(wanted, abs=1e-12)
    interval = bootstrap(["mrr"], truth * 20, found * 20)["mrr"]
    assert interval.low < interval.value < interval.high


def about(query, passages, right, excluded=()):
    return {"query": query, "passages": passages, "right": right, "excluded": excluded}


def item(*args):
    return Item((), about=about(*args))


def answer(*vectors):
    return Answer(None, np.array(vectors, dtype=np.float32))


EAST, NORTH, WEST, BETWEEN = (1, 0), (0, 1), (-1, 0), (0.8, 0.6)


def test_vectors_become_ranks_among_the_passages_of_all_rows():
    items = [item("q1", ("a",), ("a",)), item("q2", ("b", "hard"), ("b",))]
    truth, found = ranks.collect(items, [answer(EAST, BETWEEN), answer(NORTH, WEST, NORTH)])
    assert truth.tolist() == [1, 1]
    assert found == [[1], [3]]  # the hard negative and the other row's passage are nearer to q2 than b


def test_rows_with_one_query_share_their_right_passages():
    items = [item("q", ("a",), ("a",)), item("q", ("b",), ("b",)), item(None, ("c",), ("c",)), item(None, ("a",), ("a",))]
    truth, found = ranks.collect(items, [answer(EAST, EAST), answer(EAST, BETWEEN), answer(EAST, NORTH), answer(EAST, EAST)])
    assert truth.tolist() == [2, 2, 1, 1]
    assert found == [[1, 2], [1, 2], [3], [1]]


def test_what_a_user_has_is_not_ranked():
    items = [item(None, ("old", "next"), ("next",), ("old", "elsewhere"))]
    assert ranks.collect(items, [answer(EAST, EAST, NORTH)])[1] == [[1]]


def test_equal_scores_help_nobody():
    items = [item(f"q{n}", (f"p{n}",), (f"p{n}",)) for n in range(10)]
    assert ranks.collect(items, [answer(EAST, EAST)] * 10)[1] == [[10]] * 10


def test_large_tables_are_scored_in_blocks(monkeypatch):
    vectors = GENERATOR.normal(size=(30, 2, 4)).astype(np.float32)
    items = [item(f"q{n}", (f"p{n}",), (f"p{n}",)) for n in range(30)]
    whole = ranks.collect(items, [Answer(None, pair) for pair in vectors])
    monkeypatch.setattr(ranks, "_CELLS", 70)
    assert ranks.collect(items, [Answer(None, pair) for pair in vectors])[1] == whole[1]
    scores = vectors[:, 0] @ vectors[:, 1].T
    assert whole[1] == [[int((row > row[n]).sum()) + 1] for n, row in enumerate(scores)]


def test_first_answers_and_what_they_cover():
    abouts = [about(None, ("old", "a"), ("a",), ("old",)), about(None, ("b",), ("b",))]
    what = ranks.sought(abouts, more=["c"])
    table = np.array([[9, 1, 3, 2], [1, 2, 3, 4]])
    found = ranks.first(what, lambda start, end: table[start:end], 2)
    assert [[what.candidates[at] for at in one] for one in found] == [["b", "c"], ["c", "b"]]
    assert ranks.coverage(what, found) == 2 / 4


def test_the_report_says_among_how_many():
    items = [item("q", ("a", "b"), ("a",)), item("r", ("b",), ())]
    assert ranks.notes(items) == ["each row's right answers were looked for among 2 candidates; 1 rows without a right one do not count"]


def test_a_candidate_without_a_vector_is_named():
    abouts = [about("q", ("a",), ("a",))]
    with pytest.raises(OptionError, match="'c'"):
        ranks.by_vectors(ranks.sought(abouts, ["c"]), abouts, [answer(EAST, EAST)])


def test_errors_are_the_rows_whose_right_one_stands_furthest_down():
    rows = [{"text": f"q{n}", "text_b": f"p{n}"} for n in range(5)]
    shown = ranks.errors(rows, [1, 1, 1, 1, 0], [[3], [1], [], [40], []], 2)
    assert shown == [
        {"text": "q2", "label": "p2", "predicted": "–"},
        {"text": "q3", "label": "p3", "predicted": "#40"},
    ]

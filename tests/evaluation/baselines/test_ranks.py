"""The baselines of rankings: BM25 against its formula, popularity and ALS on a log with structure, and what they say without the packages."""

import importlib.util
import math

import numpy as np
import pytest

from trunkline.errors import DataError, MissingExtra
from trunkline.evaluation.baselines import ranks
from trunkline.evaluation.kinds.ranks import sought, truth_of
from trunkline.evaluation.metrics import compute

GENERATOR = np.random.default_rng(0)


def pair(query, passage):
    return {"query": query, "passages": (passage,), "right": (passage,), "excluded": ()}


def plain_bm25(query, passages, k1=1.5, b=0.75):
    """Robertson and Zaragoza 2009, equation 3.15, with Lucene's logarithm; without its constant factor (k1 + 1)."""
    texts = [ranks.words(passage) for passage in passages]
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        total = 0.0
        for word in ranks.words(query):
            there = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - there + 0.5) / (there + 0.5))
            count = text.count(word)
            total += idf * count / (count + k1 * (1 - b + b * len(text) / mean))
        scores.append(total)
    return scores


def test_bm25_is_the_formula():
    vocabulary = [f"w{n}" for n in range(30)]
    abouts = [
        pair(f"{' '.join(GENERATOR.choice(vocabulary, 4))} q{n}", " ".join(GENERATOR.choice(vocabulary, 8 + n % 9))) for n in range(40)
    ]
    found = ranks.bm25(abouts)
    passages = [about["right"][0] for about in abouts]
    for at, about in enumerate(abouts):
        scores = plain_bm25(about["query"], passages)
        tied = sum(abs(score - scores[at]) < 1e-5 for score in scores) - 1
        above = sum(score > scores[at] + 1e-5 for score in scores)
        assert above + 1 <= found.test[at][0] <= above + 1 + tied


def test_bm25_reads_chinese():
    abouts = [pair("订单在哪里", "您的订单已经发货"), pair("怎么退款", "退款三天到账"), pair("密码忘了", "请重设密码")]
    found = ranks.bm25(abouts, abouts[:2])
    assert found.test == [[1], [1], [1]]
    assert found.validation == [[1], [1]]
    assert ranks.words("订单在") == ["订", "单", "在", "订单", "单在"]


def test_a_query_without_a_known_word_is_ranked_last():
    assert ranks.bm25([pair("!!", "one"), pair("unheard", "two"), pair("three", "three")]).test == [[3], [3], [1]]


def log(users=60):
    """Rows of users of three tastes, each with its own ten items: who has five of them takes a sixth."""
    train, test = [], []
    for user in range(users):
        items = [f"taste {user % 3} item {number}" for number in GENERATOR.permutation(10)[:6]]
        train += [{"text": "-", "history": items[:at], "text_b": items[at], "group": f"u{user}"} for at in range(1, 5)]
        test.append({"query": None, "passages": tuple(items), "right": (items[5],), "excluded": tuple(items[:5])})
    return train, test


def ndcg(abouts, found):
    return compute(["ndcg_at_10"], truth_of(sought(abouts)), found)["ndcg_at_10"]


def test_als_finds_the_taste_and_popularity_does_not():
    train, test = log()
    popular, factors = ranks.popularity(train, test, test), ranks.als(train, test, test)
    assert ndcg(test, popular.test) < 0.3
    assert ndcg(test, factors.test) > 0.4  # five items of the taste are left: 0.59 at best on average, 0.16 by chance
    assert factors.options["factors"] in (16, 64)
    assert len(factors.options["tried"]) == 4
    assert ranks.als(train, test, test).test == factors.test  # the same seed, the same ranks


def test_popularity_counts_each_user_once():
    train = [
        {"text": "-", "history": ["a"], "text_b": "b", "group": "u"},
        {"text": "-", "history": ["a", "b"], "text_b": "c", "group": "u"},
        {"text": "-", "history": ["c"], "text_b": "b", "group": "v"},
    ]
    about = {"query": None, "passages": ("a", "b", "c", "new"), "right": ("c",), "excluded": ("b",)}
    assert list(ranks.taken(train)["u"]) == ["a", "b", "c"]
    assert ranks.popularity(train, [about]).test == [[1]]  # b is more popular, but the user has it
    assert ranks.popularity(train, [{**about, "right": ("new",), "excluded": ()}]).test == [[4]]


def test_an_item_that_nobody_took_comes_last_for_als():
    train, test = log(12)
    cold = {**test[0], "passages": (*test[0]["passages"], "never seen"), "right": ("never seen",)}
    found = ranks.als(train, [cold])
    assert found.test == [[len(sought([cold]).candidates) - 5]]
    assert found.validation is None


def test_rows_without_a_history_are_refused():
    with pytest.raises(DataError, match="no history"):
        ranks.taken([{"text": "x", "text_b": "y"}])


@pytest.mark.parametrize("call", [lambda: ranks.bm25([pair("a", "b")]), lambda: ranks.als(*log(3))])
def test_without_the_packages_the_error_says_how_to_get_them(call, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'trunkline\[retrieval\]'"):
        call()

"""What a tuned ranking has to beat. For `rank`: the words alone (BM25). For `recommend`: the most popular items, and matrix factorisation (ALS),
which knows who took what and no texts. The untuned model stands beside both, as vectors that the caller has.

Every baseline ranks the same candidates as the branch does, and its scores are lists of ranks (kinds/ranks.py, which says what `about` is).
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy import sparse

from trunkline.errors import DataError, MissingExtra
from trunkline.evaluation.baselines.labels import Result
from trunkline.evaluation.kinds.ranks import Sought, ranked, sought, truth_of
from trunkline.evaluation.metrics import compute
from trunkline.types import Row

Abouts = Sequence[Mapping[str, Any]]
_FACTORS = (16, 64)
_CONFIDENCES = (3.0, 20.0)
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_WORD = re.compile(r"\w+")


def bm25(test: Abouts, validation: Abouts = ()) -> Result:
    """The passages whose words the query has, the rare words first. Nothing is learned but how often each word occurs.

    Source: Robertson and Zaragoza 2009, with k1 = 1.5 and b = 0.75 and the logarithm of Lucene, as bm25s has them.
    Raises: MissingExtra without the package bm25s.
    """
    if importlib.util.find_spec("bm25s") is None:
        raise MissingExtra("bm25s", "retrieval", "The baseline 'bm25'")
    started = time.perf_counter()
    found = [_by_words(part) if part else None for part in (test, validation)]
    options = {"words": "lower case; Chinese, Japanese: single characters and pairs", "k1": 1.5, "b": 0.75}
    return Result("bm25", time.perf_counter() - started, found[0], found[1], options)


def popularity(train: Sequence[Row], test: Abouts, validation: Abouts = ()) -> Result:
    """The same items for everybody: those that the most users of the training rows have, without what the user has already."""
    started = time.perf_counter()
    counts = Counter(item for items in taken(train).values() for item in items)
    found = [_by_count(part, counts) if part else None for part in (test, validation)]
    return Result("popularity", time.perf_counter() - started, found[0], found[1])


def als(train: Sequence[Row], test: Abouts, validation: Abouts = (), *, seed: int = 0) -> Result:
    """Matrix factorisation of who took what. A user is worked out anew from his history, so one who is new can be asked for; an item that
    nobody took while training comes last.

    The number of factors and the weight of an event are picked on the validation rows (nDCG at 10), where there are some.
    Source: Hu, Koren and Volinsky 2008, as implicit has it. Raises: MissingExtra without the package implicit.
    """
    if importlib.util.find_spec("implicit") is None:
        raise MissingExtra("implicit", "retrieval", "The baseline 'als'")
    started = time.perf_counter()
    users = taken(train)
    number = {item: at for at, item in enumerate(dict.fromkeys(item for items in users.values() for item in items))}
    tried = {
        (factors, confidence): _Factors(users, number, factors, confidence, seed)
        for factors, confidence in (product(_FACTORS, _CONFIDENCES) if validation else [(_FACTORS[-1], _CONFIDENCES[-1])])
    }
    values = {key: _ndcg(validation, model.ranks(validation)) if validation else 0.0 for key, model in tried.items()}
    best = max(tried, key=lambda key: values[key])
    options = {
        "factors": best[0],
        "confidence": best[1],
        "tried": [{"factors": f, "confidence": c, "ndcg_at_10": values[f, c]} for f, c in tried],
    }
    kept = tried[best].ranks(validation) if validation else None
    return Result("als", time.perf_counter() - started, tried[best].ranks(test), kept, options)


def taken(rows: Sequence[Row]) -> dict[str, dict[str, None]]:
    """The items of each user (`group`; without one a row is a user), from histories and what came next."""
    found: dict[str, dict[str, None]] = {}
    for at, row in enumerate(rows):
        if "history" not in row or not row.get("text_b"):
            raise DataError(
                f"row {at + 1} ({row['text'][:60]!r}) has no history or no next item. Give rows as read_interactions makes them."
            )
        found.setdefault(str(row.get("group", at)), {}).update(dict.fromkeys([*row["history"], row["text_b"]]))
    return found


def words(text: str) -> list[str]:
    """Lower-case words; Chinese and Japanese as single characters and pairs of neighbours, for they stand without spaces.

    >>> words("Where is my 订单号?")
    ['where', 'is', 'my', '订', '单', '号', '订单', '单号']
    """
    found: list[str] = []
    at = 0
    lower = text.lower()
    for run in _UNSPACED.finditer(lower):
        found += _WORD.findall(lower[at : run.start()])
        found += [*run[0], *(run[0][i : i + 2] for i in range(len(run[0]) - 1))]
        at = run.end()
    return found + _WORD.findall(lower[at:])


def _by_words(abouts: Abouts) -> list[list[int]]:
    import bm25s

    what = sought(abouts)
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    index.index([words(passage) for passage in what.candidates], show_progress=False)
    known = index.vocab_dict

    def score(start: int, end: int) -> np.ndarray:
        asked = ([word for word in words(about["query"] or "") if word in known] for about in abouts[start:end])
        return np.stack([index.get_scores(tokens) if tokens else np.zeros(len(what.candidates)) for tokens in asked])

    return ranked(what, score)


def _by_count(abouts: Abouts, counts: Mapping[str, int]) -> list[list[int]]:
    what = sought(abouts)
    row = np.array([counts.get(item, 0) for item in what.candidates])
    return ranked(what, lambda start, end: np.broadcast_to(row, (end - start, len(row))))


def _ndcg(abouts: Abouts, ranks: list[list[int]]) -> float:
    return compute(["ndcg_at_10"], truth_of(sought(abouts)), ranks)["ndcg_at_10"]


class _Factors:
    """One factorisation: users and items as vectors whose product says how well they go together."""

    def __init__(
        self, users: Mapping[str, Mapping[str, None]], number: Mapping[str, int], factors: int, confidence: float, seed: int
    ) -> None:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        self.number, self.confidence, self.limits = number, confidence, threadpool_limits
        self.model = AlternatingLeastSquares(factors=factors, regularization=0.05, iterations=15, num_threads=1, random_state=seed)
        with threadpool_limits(1, "blas"):  # implicit is up to ten times slower beside another pool of threads
            self.model.fit(self._matrix(list(users.values())), show_progress=False)

    def ranks(self, abouts: Abouts) -> list[list[int]]:
        what = sought(abouts)
        places = np.array([self.number.get(item, -1) for item in what.candidates])
        with self.limits(1, "blas"):
            users = self._users(what, abouts)
        items = np.where(places[:, None] >= 0, self.model.item_factors[places], 0.0)
        unknown = np.where(places >= 0, 0.0, -1e9)  # behind all items that were seen
        return ranked(what, lambda start, end: users[start:end] @ items.T + unknown)

    def _users(self, what: Sought, abouts: Abouts) -> np.ndarray:
        rows = self._matrix([about["excluded"] for about in abouts])
        found: np.ndarray = self.model.recalculate_user(np.arange(len(abouts)), rows)
        return found.reshape(len(abouts), -1)

    def _matrix(self, users: Sequence[Any]) -> sparse.csr_matrix:
        pairs = [(at, self.number[item]) for at, items in enumerate(users) for item in items if item in self.number]
        values = np.full(len(pairs), self.confidence, dtype=np.float32)
        rows, columns = zip(*pairs) if pairs else ((), ())
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(users), len(self.number)))

"""Answers that are a ranking: where the right ones stand among all that could have been said. For `rank` and `recommend`.

truth: (N,) how many right ones a row has; scores: N lists of the ranks of all right ones, 1 = first. A right one that is not in the list was
not found at all. A row without a right one asks nothing and does not count (as in trec_eval); where no row counts, the value is 0.

Vectors become ranks in `collect`, which needs all rows at once. What it needs to know of a row stands in the item's `about`, a dict:
    query      what the row asks (rows with the same query share their right passages), or None where every row asks for itself
    passages   what the vectors 1, 2, ... of its answer are of (vector 0 is the query's); all passages of all rows are ranked
    right      those of them that are right
    excluded   what may not be answered (a user has it already)

Source: Manning, Raghavan and Schuetze 2008, section 8.4 (recall, average precision); Voorhees 1999 (reciprocal rank);
Jarvelin and Kekalainen 2002, with the discount 1 / log2(1 + rank) from the first rank on, as in trec_eval and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trunkline.errors import OptionError
from trunkline.evaluation.metric import Metric, Weighted, ratio
from trunkline.types import Answer, Item, Row

Ranks = Sequence[Sequence[int]]
Score = Callable[[int, int], np.ndarray]
"""From the rows `start` to `end` to how well each candidate fits them, (end - start, P); more is better."""
_CELLS = 1 << 22  # rows x candidates scored at once


@dataclass(frozen=True)
class Sought:
    """What rows look for. candidates: the P distinct passages; right, excluded: N arrays of their numbers."""

    candidates: tuple[str, ...]
    right: tuple[np.ndarray, ...]
    excluded: tuple[np.ndarray, ...]


def collect(items: Sequence[Item], answers: Sequence[Answer]) -> tuple[np.ndarray, list[list[int]]]:
    """Truth and ranks of items with their answers, whose `scores` are vectors (1 + passages, D): the inner product ranks."""
    abouts = [item.about for item in items]
    what = sought(abouts)
    return truth_of(what), ranked(what, by_vectors(what, abouts, answers))


def notes(items: Sequence[Item]) -> list[str]:
    """Among how many candidates the rows were ranked, without which a rank means nothing."""
    what = sought([item.about for item in items])
    silent = int((truth_of(what) == 0).sum())
    left = f"; {silent:,} rows without a right one do not count" if silent else ""
    return [f"each row's right answers were looked for among {len(what.candidates):,} candidates{left}"]


def sought(abouts: Sequence[Mapping[str, Any]], more: Iterable[str] = ()) -> Sought:
    """What rows with these `about` look for, among all their passages and `more`."""
    every = [passage for about in abouts for passage in about["passages"]]
    candidates = tuple(dict.fromkeys([*every, *more]))
    number = {passage: at for at, passage in enumerate(candidates)}
    of_query: dict[str, set[int]] = {}
    for about in abouts:
        if about["query"] is not None:
            of_query.setdefault(about["query"], set()).update(number[passage] for passage in about["right"])
    right, excluded = [], []
    for about in abouts:
        own = {number[passage] for passage in about["right"]}
        wanted = own if about["query"] is None else of_query[about["query"]]
        right.append(np.array(sorted(wanted), dtype=np.int64))
        excluded.append(np.array(sorted({number[p] for p in about["excluded"] if p in number} - wanted), dtype=np.int64))
    return Sought(candidates, tuple(right), tuple(excluded))


def truth_of(what: Sought) -> np.ndarray:
    """(N,) how many right ones each row has."""
    return np.array([len(right) for right in what.right], dtype=np.int64)


def by_vectors(what: Sought, abouts: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> Score:
    """The inner product of the rows' queries with the candidates; of a passage that several rows have, the first vector counts.

    Raises: OptionError where a candidate has no vector.
    """
    found: dict[str, np.ndarray] = {}
    for about, answer in zip(abouts, answers, strict=True):
        for passage, vector in zip(about["passages"], answer.scores[1:], strict=True):
            found.setdefault(passage, vector)
    if absent := [passage for passage in what.candidates if passage not in found]:
        raise OptionError(f"{len(absent):,} candidates have no vector, for example {absent[0]!r:.80}. Give rows that hold them.")
    queries = np.stack([answer.scores[0] for answer in answers])
    candidates = np.stack([found[passage] for passage in what.candidates]) if what.candidates else queries[:0]
    return lambda start, end: queries[start:end] @ candidates.T


def ranked(what: Sought, score: Score) -> list[list[int]]:
    """The ranks of each row's right ones, ascending. Of equal scores a wrong one stands first: who cannot tell them apart gains nothing."""
    found: list[list[int]] = []
    for at, scores in _rows(what, score):
        right = np.sort(scores[what.right[at]])[::-1]
        wrong = np.delete(scores, np.concatenate([what.right[at], what.excluded[at]]))
        before = len(wrong) - np.searchsorted(np.sort(wrong), right, side="left")
        found.append((before + np.arange(1, len(right) + 1)).tolist())
    return found


def first(what: Sought, score: Score, k: int) -> list[list[int]]:
    """The numbers of the `k` best candidates of each row, best first, without the excluded ones."""
    found = []
    for at, scores in _rows(what, score):
        allowed = np.delete(np.arange(len(scores)), what.excluded[at])
        found.append(allowed[np.argsort(-scores[allowed], kind="stable")[:k]].tolist())
    return found


def coverage(what: Sought, firsts: Sequence[Sequence[int]]) -> float:
    """The share of all candidates that is among the first answers of any row: 1.0 recommends everything to somebody.

    Source: Ge, Delgado-Battenfeld and Jannach 2010 (Beyond accuracy), catalogue coverage.
    """
    return len({at for one in firsts for at in one}) / max(1, len(what.candidates))


def errors(rows: Sequence[Row], truth: Any, scores: Ranks, count: int) -> list[dict[str, Any]]:
    """The rows whose right answer stands furthest down, for `Report.errors`: text, label (the right one), predicted (its rank)."""
    best = [min(ranks, default=0) for ranks in scores]
    worst = sorted((at for at, (asked, rank) in enumerate(zip(truth, best)) if asked and rank != 1), key=lambda at: -(best[at] or 10**9))
    return [
        {"text": rows[at]["text"], "label": rows[at].get("text_b", ""), "predicted": f"#{best[at]}" if best[at] else "–"}
        for at in worst[:count]
    ]


def _rows(what: Sought, score: Score) -> Iterable[tuple[int, np.ndarray]]:
    block = max(1, _CELLS // max(1, len(what.candidates)))
    for start in range(0, len(what.right), block):
        end = min(start + block, len(what.right))
        for at, scores in enumerate(score(start, end), start):
            yield at, np.asarray(scores)


def _mean_of(row: Callable[[int, np.ndarray], float]) -> Callable[[Any, Any], Weighted]:
    """The weighted mean of one value a row, over the rows that have a right one. row: from (how many are right, ranks ascending)."""

    def prepare(truth: Any, scores: Ranks) -> Weighted:
        asked = np.asarray(truth) > 0
        values = np.array([row(int(n), np.sort(np.asarray(ranks, dtype=np.float64))) if n else 0.0 for n, ranks in zip(truth, scores)])
        return lambda weights: ratio(values @ weights, asked @ weights)

    return prepare


def _reciprocal(right: int, ranks: np.ndarray) -> float:
    return float(1 / ranks[0]) if len(ranks) else 0.0


def _recall(k: int) -> Callable[[int, np.ndarray], float]:
    return lambda right, ranks: float((ranks <= k).sum()) / right


def _precision(right: int, ranks: np.ndarray) -> float:
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / right


def _ndcg(k: int) -> Callable[[int, np.ndarray], float]:
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return lambda right, ranks: float((1 / np.log2(1 + ranks[ranks <= k])).sum() / ideal[min(right, k) - 1])


METRICS = (
    Metric("mrr", "MRR", _mean_of(_reciprocal), ("ranks",)),
    Metric("recall_at_1", "Recall at 1", _mean_of(_recall(1)), ("ranks",), percent=True),
    Metric("recall_at_10", "Recall at 10", _mean_of(_recall(10)), ("ranks",), percent=True),
    Metric("recall_at_100", "Recall at 100", _mean_of(_recall(100)), ("ranks",), percent=True),
    Metric("ndcg_at_10", "nDCG at 10", _mean_of(_ndcg(10)), ("ranks",)),
    Metric("map", "MAP", _mean_of(_precision), ("ranks",)),
)

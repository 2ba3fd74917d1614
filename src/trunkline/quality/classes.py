"""What there is to say of classes: which two are taken for each other, which rows stand apart, what is missing, which words give one away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trunkline.data.cells import fold
from trunkline.quality.duplicates import unit

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_HAN = re.compile(r"[\u3400-\u9fff]")
_CELLS = 1 << 24


@dataclass(frozen=True)
class Overlap:
    """Two labels that are taken for each other: the share of both's rows for which the other is likelier, and places of some such rows."""

    first: int
    second: int
    share: float
    count: int
    rows: tuple[int, ...]


def overlaps(probabilities: np.ndarray, labels: np.ndarray, least: int = 3) -> list[Overlap]:
    """Pairs of labels by how many of their rows are closer to the other one, most first. probabilities (N, K) from `probe.held_out`."""
    answers, sizes = probabilities.argmax(1), np.bincount(labels, minlength=probabilities.shape[1])
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for at in np.flatnonzero(answers != labels).tolist():
        places[min(labels[at], answers[at]), max(labels[at], answers[at])].append(at)
    found = []
    for (a, b), rows in places.items():
        rows.sort(key=lambda at: (float(probabilities[at, labels[at]]), at))
        found.append(Overlap(int(a), int(b), len(rows) / int(sizes[a] + sizes[b]), len(rows), tuple(rows[:5])))
    return sorted((one for one in found if one.count >= least), key=lambda one: (-one.count, -one.share, one.first, one.second))


def outliers(vectors: np.ndarray, k: int = 5, limit: float = 3.5) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are like no others: their places, furthest first, and (N,) the score of every row.

    Score: how far the k-th nearest row is (1 - cosine), in robust standard deviations from the median row (Source: Ramaswamy, Rastogi and Shim 2000,
    for the distance; Iglewicz and Hoaglin 1993 for the limit of 3.5).
    """
    ready = unit(vectors - vectors.mean(0)).astype(np.float32)
    k, away = min(k, len(ready) - 1), np.empty(len(ready))
    if k < 1:
        return np.empty(0, dtype=np.int64), np.zeros(len(ready))
    step = max(1, _CELLS // len(ready))
    for start in range(0, len(ready), step):
        scores = ready[start : start + step] @ ready.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -2.0
        away[start : start + step] = 1 - np.partition(scores, -k, axis=1)[:, -k]
    middle = np.median(away)
    score = (away - middle) / max(1.4826 * float(np.median(np.abs(away - middle))), 1e-9)
    order = np.argsort(-score, kind="stable")
    return order[score[order] > limit], score


@dataclass(frozen=True)
class GiveAway:
    """A word that says the label: rows that have it, and of them those with the label. surprise: minus log10 of the p value, corrected for all words."""

    word: str
    label: str
    rows: int
    with_label: int
    surprise: float


def give_aways(texts: Sequence[str], labels: Sequence[str], *, purity: float = 0.98, share: float = 0.3, least: int = 10) -> list[GiveAway]:
    """Words in at least `share` of a label's rows of which nearly all (`purity`) have that label: a trace of how the data was made, or its very meaning.

    Only a person can say which of the two; words of single letters count not. Chinese is read in pairs of characters.
    Source: hypergeometric test as in Gardner et al. 2021 (Competency Problems), with Bonferroni's correction.
    """
    sizes, total = Counter(labels), Counter[str]()
    within: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in zip(texts, labels):
        words = words_of(text)
        total.update(words)
        within[label].update(words)
    found, tests = [], sum(len(one) for one in within.values()) or 1
    for label, counts in within.items():
        for word, count in counts.items():
            if count >= max(least, share * sizes[label]) and count >= purity * total[word] and len(sizes) > 1:
                log_p = float(stats.hypergeom.logsf(count - 1, len(texts), sizes[label], total[word])) + np.log(tests)
                found.append(GiveAway(word, label, total[word], count, -log_p / np.log(10)))
    return sorted((one for one in found if one.surprise > 2), key=lambda one: (-one.with_label / sizes[one.label], -one.surprise, one.word))


def words_of(text: str) -> set[str]:
    """The words of a text, folded; of Chinese every pair of neighbouring characters.

    >>> sorted(words_of("My card, 我的卡"))
    ['card', 'my', '我的', '的卡']
    """
    found: set[str] = set()
    for word in _WORD.findall(fold(text)):
        if _HAN.search(word):
            found.update(word[at : at + 2] for at in range(len(word) - 1))
        elif len(word) > 1:
            found.add(word)
    return found


@dataclass(frozen=True)
class Gap:
    """A class with too little to learn from or to measure on: its rows, and how often the others' labels lead to it (None: not measured)."""

    label: str
    rows: int
    recall: float | None
    why: str


def gaps(labels: np.ndarray, names: Sequence[str], probabilities: np.ndarray | None = None, least: int = 10) -> list[Gap]:
    """Classes with fewer than `least` rows, under a tenth of the usual, or that the others' rows hardly ever lead to; weakest first."""
    sizes = np.bincount(labels, minlength=len(names))
    usual, found = float(np.median(sizes[sizes > 0])) if len(labels) else 0.0, []
    answers = None if probabilities is None else probabilities.argmax(1)
    overall = 0.0 if answers is None else float((answers == labels).mean())
    for at, name in enumerate(names):
        recall = None if answers is None or not sizes[at] else float((answers[labels == at] == at).mean())
        if sizes[at] < least:
            found.append(Gap(name, int(sizes[at]), recall, "few rows"))
        elif sizes[at] < 0.1 * usual:
            found.append(Gap(name, int(sizes[at]), recall, "far fewer rows than the others"))
        elif recall is not None and recall < overall / 2:
            found.append(Gap(name, int(sizes[at]), recall, "hardly recognised"))
    return sorted(found, key=lambda one: (one.rows, one.label))

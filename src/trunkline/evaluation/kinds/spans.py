"""Answers that are a piece of a passage: exact match and F1, as the official scripts of SQuAD and of CMRC 2018 work them out.

truth: N lists of right answers, strings ([] = there is none); scores: N strings ("" = no answer). A row's value is the best over its right
answers. A row is judged by the Chinese rules where its right answers or what was said hold a Chinese character, by SQuAD's elsewhere.

SQuAD    lower case, without ASCII punctuation and the words a, an, the; F1 over words, as often as each occurs. Without a right answer
         (or with right answers of which these rules leave nothing) only the empty answer is right, and it is right for nothing else.
CMRC     lower case, without the marks in `_MARKS`; each Chinese character is a token, other words are tokens; what both sides share is
         their longest common run of tokens.

Source: Rajpurkar et al. 2016 and 2018, evaluation scripts v1.1 and v2.0 (they differ only where nothing is left of a right answer: here as in
v2.0); Cui et al. 2019, cmrc2018_evaluate.py, where "lcs" is the longest common string, not subsequence. Where we differ: that script
splits what is not Chinese with NLTK, here it is split into words and marks, with no data to fetch ("don't" stays one word).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trunkline.evaluation.metric import Metric, mean_of
from trunkline.types import Row

_HAN = re.compile("[\u4e00-\u9fa5]")
_MARKS = frozenset(
    "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
)  # the ellipsis is not among them: in the script it is two characters, never met
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+(?:[.,'’]\w+)*|\S")


def exact(truth: Sequence[str], said: str) -> float:
    """1 where the answer is one of the right ones, 0 where it is not.

    >>> exact(["the Eiffel Tower"], "Eiffel tower!"), exact([], ""), exact(["北京市"], "北京")
    (1.0, 1.0, 0.0)
    """
    if _is_chinese(truth, said):
        return _best(truth, lambda right: float(_unmarked(right) == _unmarked(said)))
    return _best(_answerable(truth), lambda right: float(_plain(right) == _plain(said)))


def f1(truth: Sequence[str], said: str) -> float:
    """How far the answer and the nearest right one are the same words: 0 to 1.

    >>> f1(["in the year 1889"], "1889"), f1(["paris"], ""), round(f1(["北京市"], "北京"), 3)
    (0.5, 0.0, 0.8)
    """
    if _is_chinese(truth, said):
        return _best(truth, lambda right: _run_f1(_segments(right), _segments(said)))
    return _best(_answerable(truth), lambda right: _bag_f1(_plain(right).split(), _plain(said).split()))


def errors(rows: Sequence[Row], truth: Sequence[Sequence[str]], scores: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The rows that were answered worst, for `Report.errors`: text, text_b, label, predicted."""
    values = np.array([f1(right, said) for right, said in zip(truth, scores, strict=True)])
    worst = [int(at) for at in np.argsort(values, kind="stable")[:count] if values[at] < 1]
    return [
        {
            "text": rows[at]["text"],
            "text_b": rows[at].get("text_b", ""),
            "label": " | ".join(dict.fromkeys(truth[at])) or NONE,
            "predicted": scores[at] or NONE,
        }
        for at in worst
    ]


NONE = "∅"
"""How the report writes that there is no answer."""


def _rows(value: Callable[[Sequence[str], str], float]) -> Callable[[Any, Any], np.ndarray]:
    return lambda truth, scores: np.array([value(right, said) for right, said in zip(truth, scores, strict=True)])


METRICS = (
    Metric("span_f1", "F1", mean_of(_rows(f1)), ("spans",), percent=True),
    Metric("span_exact", "Exact match", mean_of(_rows(exact)), ("spans",), percent=True),
)


def _best(truth: Sequence[str], value: Callable[[str], float]) -> float:
    return max(map(value, truth or ("",)))


def _is_chinese(truth: Sequence[str], said: str) -> bool:
    return any(_HAN.search(text) for text in (*truth, said)) and bool(truth)


def _answerable(truth: Sequence[str]) -> list[str]:
    return [right for right in truth if _plain(right)]


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _bag_f1(right: list[str], said: list[str]) -> float:
    if not right or not said:
        return float(right == said)
    shared = sum((Counter(right) & Counter(said)).values())
    return 2 * shared / (len(right) + len(said))


def _unmarked(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _MARKS)


def _segments(text: str) -> list[str]:
    """Each Chinese character, and the words and marks between them."""
    found: list[str] = []
    for part in re.split(f"({_HAN.pattern})", _unmarked(text)):
        found += _WORD.findall(part)
    return found


def _run_f1(right: list[str], said: list[str]) -> float:
    run = _longest_run(right, said)
    return 2 * run / (len(right) + len(said)) if run else 0.0


def _longest_run(one: list[str], other: list[str]) -> int:
    """The length of the longest run of tokens that stands in both."""
    longest, before = 0, [0] * (len(other) + 1)
    for token in one:
        now = [0] + [before[at] + 1 if token == there else 0 for at, there in enumerate(other)]
        longest, before = max(longest, *now), now
    return longest

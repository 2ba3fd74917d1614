"""What a tuned branch has to beat: the majority, TF-IDF with logistic regression, and the untuned trunk with logistic regression.

Beside `evaluate`: rows in, scores out, in the shapes of metrics.py. The options of a baseline are picked on the validation
rows as the branch's are, so that none is beaten for want of a try. A number in place of a label: Ridge regression, and the mean.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from scipy import sparse

from trunkline.errors import DataError, OptionError, unknown
from trunkline.evaluation.linear import fit_linear
from trunkline.evaluation.vectors import Vectors
from trunkline.types import Row

T = TypeVar("T")

MAX_ROWS = 50_000
_TEXT_C = (3.0, 30.0)
_TEXT_ALPHA = (0.3, 1.0, 3.0, 10.0)
_LONG = 600  # characters; above this mean the letters of English texts are left out, for there are more of them than memory
_FEATURES = 300_000  # of one kind of n-grams, at most
_RARE_FROM = 2000  # of so many texts, an n-gram that only one has is left out
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿豈-﫿฀-໿]")  # kana, Chinese characters, Thai, Lao


@dataclass(frozen=True)
class Result:
    """Scores of one baseline; `seconds` is for fitting all its options; `options` says what was picked and from what."""

    name: str
    seconds: float
    test: Any
    validation: Any = None
    options: dict[str, Any] = field(default_factory=dict)


def baselines(
    train: Sequence[Row],
    test: Sequence[Row],
    spec: Any,
    *,
    validation: Sequence[Row] = (),
    features: Mapping[str, np.ndarray | Vectors] | None = None,
    seed: int = 0,
) -> list[Result]:
    """ "majority" (or "mean"), "tfidf", and "untuned" where `features` are given: "train", "validation", "test", each (N, D).

    spec: a task's spec (task, labels, multi_label). Without validation rows the middle option of each list is taken.
    Above 50,000 training rows a sample of 50,000 is learned from (`learned_from`), and `options` says so; the features "train" are of these.
    Takes about 20 seconds on one core for 10,000 short texts with 77 labels.

    Raises: DataError for a row without a label or with an unknown one; OptionError for features of another length.

    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(task="classify", labels=("no", "yes"), multi_label=False)
    >>> rows = [{"text": "good film", "label": "yes"}, {"text": "bad film", "label": "no"}, {"text": "good one", "label": "yes"}]
    >>> [result.name for result in baselines(rows, rows, spec)]
    ['majority', 'tfidf']
    """
    if not train or not test:
        raise DataError(f"{len(train)} training and {len(test)} test rows: the baselines need at least one of each.")
    split = {"train": learned_from(train, seed), "validation": validation, "test": test}
    truth = {name: targets(rows, spec) for name, rows in split.items()}
    sample = {"train_rows": len(split["train"]), "of": len(train)} if len(split["train"]) < len(train) else {}
    results = [_constant(truth, split, spec)]
    results.append(_tfidf(split, truth, spec, sample))
    if features is not None:
        _check_features(features, split)
        results.append(_fitted("untuned", features, truth, spec, sample, time.perf_counter()))
    return results


def learned_from(train: Sequence[T], seed: int = 0) -> Sequence[T]:
    """What the baselines learn from of so many training rows, or of something else that there is for each of them: all, or 50,000 drawn by the seed."""
    if len(train) <= MAX_ROWS:
        return train
    kept = np.sort(np.random.default_rng(seed).choice(len(train), MAX_ROWS, replace=False))
    return [train[at] for at in kept.tolist()]


def targets(rows: Sequence[Row], spec: Any) -> np.ndarray:
    """The labels of rows in the shapes of metrics.py: (N,) ids, (N, K) 0 or 1, or (N,) float64.

    Raises: DataError for a row without a label, or with one that is not in `spec.labels`.
    """
    for number, row in enumerate(rows):
        if row.get("label") is None:
            raise DataError(f"row {number + 1} ({row['text'][:60]!r}) has no label, so nothing can be measured on it. Leave it out.")
    if spec.task == "regress":
        return np.array([float(row["label"]) for row in rows], dtype=np.float64)
    ids = {label: at for at, label in enumerate(spec.labels)}
    wanted = [[row["label"]] if isinstance(row["label"], str) else list(row["label"]) for row in rows]
    for label in (label for labels in wanted for label in labels):
        if label not in ids:
            raise unknown("label", label, spec.labels, DataError)
    if not spec.multi_label:
        return np.array([ids[labels[0]] for labels in wanted], dtype=np.int64)
    there = np.zeros((len(rows), len(ids)), dtype=np.int64)
    for at, labels in enumerate(wanted):
        there[at, [ids[label] for label in labels]] = 1
    return there


def _check_features(features: Mapping[str, Any], split: Mapping[str, Sequence[Row]]) -> None:
    for name, rows in split.items():
        if rows and (name not in features or len(features[name]) != len(rows)):
            got = len(features[name]) if name in features else "none"
            raise OptionError(f"features[{name!r}]: {got} for {len(rows)} rows. Give one (D,) vector a row, in the order of the rows.")


def _constant(truth: Mapping[str, np.ndarray], split: Mapping[str, Sequence[Row]], spec: Any) -> Result:
    """The same scores for every row: how often each label is in training (the largest is the majority), or the mean number."""
    start = time.perf_counter()
    if spec.task == "regress":
        name, scores = "mean", truth["train"].mean()
    elif spec.multi_label:
        name, scores = "majority", truth["train"].mean(axis=0)
    else:
        name, scores = "majority", np.bincount(truth["train"], minlength=len(spec.labels)) / len(truth["train"])
    same = {part: np.broadcast_to(scores, (len(rows), *scores.shape)) for part, rows in split.items()}
    return Result(name, time.perf_counter() - start, same["test"], same["validation"] if split["validation"] else None)


def _tfidf(split: Mapping[str, Sequence[Row]], truth: Mapping[str, np.ndarray], spec: Any, sample: dict[str, Any]) -> Result:
    start = time.perf_counter()
    vectors, described = _vectors(split)
    strengths = _TEXT_ALPHA if spec.task == "regress" else _TEXT_C
    return _fitted("tfidf", vectors, truth, spec, {"features": described, **sample}, start, strengths)


def _fitted(
    name: str, vectors: Mapping[str, Any], truth: Mapping[str, np.ndarray], spec: Any, about: dict[str, Any], start: float,
    strengths: Sequence[float] = (),
) -> Result:  # fmt: skip
    """A linear model on these vectors, and its scores."""
    checked = (vectors["validation"], truth["validation"]) if len(truth["validation"]) else None
    found = fit_linear(vectors["train"], truth["train"], spec, validation=checked, strengths=strengths)
    scores = {part: found.scores(vectors[part]) for part in ("validation", "test") if len(truth[part])}
    return Result(name, time.perf_counter() - start, scores["test"], scores.get("validation"), {**about, **found.options})


def _vectors(split: Mapping[str, Sequence[Row]]) -> tuple[dict[str, Any], str]:
    """TF-IDF of every part, learned on the training rows; a pair is both texts, what they share and where they differ."""
    paired = any(row.get("text_b") for rows in split.values() for row in rows)
    first = {name: [row["text"] for row in rows] for name, rows in split.items()}
    second = {name: [row.get("text_b") or "" for row in rows] for name, rows in split.items()} if paired else {}
    blocks, described = _blocks(first["train"] + second.get("train", []))
    found: dict[str, Any] = {name: _Weighed(blocks, texts, second.get(name)) for name, texts in first.items()}
    found["train"] = found["train"][:]
    return found, described + (" of both texts, their product and difference" if paired else "")


@dataclass(frozen=True)
class _Weighed:
    """The TF-IDF of some texts, (N, D) sparse float32, worked out anew for each slice that is asked for: of many texts it is large."""

    blocks: Sequence[_Block]
    first: Sequence[str]
    second: Sequence[str] | None = None

    @property
    def shape(self) -> tuple[int]:
        return (len(self.first),)

    def __getitem__(self, rows: slice) -> Any:
        a = _transform(self.blocks, self.first[rows])
        if self.second is None:
            return a
        b = _transform(self.blocks, self.second[rows])
        return sparse.hstack([a, b, a.multiply(b), abs(a - b)]).tocsr()


def _blocks(texts: Sequence[str]) -> tuple[list[_Block], str]:
    """Words 1-2 and letters 2-5 for languages with spaces; characters 1-4 for those without (Chinese, Japanese, Thai)."""
    looked_at = "".join(text[:500] for text in texts[:1000])
    letters = sum(char.isalpha() for char in looked_at)
    if len(_UNSPACED.findall(looked_at)) > 0.2 * letters:
        return [_Block("char", (1, 4), texts)], "TF-IDF of characters 1-4"
    words = _Block("word", (1, 2), texts)
    if sum(map(len, texts)) > _LONG * len(texts):
        return [words], "TF-IDF of words 1-2"
    return [words, _Block("char_wb", (2, 5), texts)], "TF-IDF of words 1-2 and letters 2-5"


class _Block:
    """One kind of n-grams: which of their buckets training texts fill, the most frequent of them, and how rare each is.

    N-grams are hashed into a million buckets (Weinberger et al. 2009): a dictionary of those of 25,000 short texts takes twenty times as
    long and half a gigabyte, for the same accuracy.
    """

    def __init__(self, analyzer: str, lengths: tuple[int, int], texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer  # here, as in linear.py

        plain: dict[str, Any] = {"alternate_sign": False, "norm": None, "dtype": np.float32}
        self.count = HashingVectorizer(analyzer=analyzer, ngram_range=lengths, token_pattern=r"(?u)\b\w+\b", **plain)
        counts = self.count.transform(texts)
        filled = np.bincount(counts.indices, minlength=counts.shape[1])
        often = np.flatnonzero(filled >= (2 if len(texts) >= _RARE_FROM else 1))
        self.kept = np.sort(often[np.argsort(-filled[often], kind="stable")[:_FEATURES]])
        self.weigh = TfidfTransformer(sublinear_tf=True).fit(counts[:, self.kept]) if len(self.kept) else None

    def transform(self, texts: Sequence[str]) -> Any:
        """(N, D) sparse float32; D is 0 where the training texts have no such n-gram (texts of marks only have no words)."""
        counts = self.count.transform(texts)[:, self.kept]
        return counts if self.weigh is None else self.weigh.transform(counts)


def _transform(blocks: Sequence[_Block], texts: Sequence[str]) -> Any:
    found = sparse.hstack([block.transform(texts) for block in blocks]).tocsr()
    return found if found.shape[1] else sparse.csr_matrix((len(texts), 1), dtype=np.float32)

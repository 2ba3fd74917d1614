"""What a branch that finds entities has to beat: a dictionary of those seen in training, and a linear model on the untuned states of words.

The dictionary looks words up, the longest run first, and gives each the type it mostly had. A run counts as an entity from a share of its
occurrences in training on; that share, and whether case counts, are picked on the validation rows.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from trunkline.data.tagging import Span, covered, words_of
from trunkline.errors import DataError
from trunkline.evaluation.baselines.labels import Result
from trunkline.evaluation.features import word_states
from trunkline.evaluation.kinds.entities import METRICS
from trunkline.evaluation.linear import Linear, fit_linear
from trunkline.model.backbone import Backbone, Depth
from trunkline.states.collate import Source
from trunkline.tasks.tag import answers
from trunkline.types import IGNORE, Item, Row

MAX_WORDS, MAX_SCORES = 50_000, 1_600_000
"""Words that the linear model is learned from, at most (more words help), and words times tags, which is what a fit costs."""
_SHARES = (0.0, 0.3, 0.5, 0.7)
_STRENGTHS = (0.01, 0.1)
_LONGEST = 20  # words of an entity that the dictionary keeps


def entity_baselines(train: Sequence[Row], test: Sequence[Row], spec: Any, *, validation: Sequence[Row] = ()) -> list[Result]:
    """ "dictionary". Without validation rows a run of words is an entity when it was one half of the time, and case counts.

    Raises: DataError where there are no rows.

    >>> rows = [{"text": "Ann went to Bonn", "label": [[0, 3, "PER"], [12, 16, "LOC"]]}]
    >>> entity_baselines(rows, [{"text": "Bonn is where Ann is", "label": []}], None)[0].test
    [[(0, 4, 'LOC'), (14, 17, 'PER')]]
    """
    if not train or not test:
        raise DataError(f"{len(train)} training and {len(test)} test rows: the baselines need at least one of each.")
    started = time.perf_counter()
    truth = [[tuple(entity) for entity in row["label"]] for row in validation]
    best, value = (0.5, False), -1.0
    books = {fold: _Dictionary.of(train, fold) for fold in (False, True)}
    for share, fold in product(_SHARES, (False, True)) if validation else ():
        found = METRICS[0].function(truth, [books[fold].find(row, share) for row in validation])
        if found > value:
            best, value = (share, fold), found
    share, fold = best
    said = {name: [books[fold].find(row, share) for row in rows] for name, rows in (("test", test), ("validation", validation))}
    options = {"share": share, "any_case": fold, "picked_from": list(_SHARES), "entries": len(books[fold].kinds)}
    return [Result("dictionary", time.perf_counter() - started, said["test"], said["validation"] or None, options)]


def sampled(items: Sequence[Item], spec: Any, seed: int = 0) -> list[Item]:
    """Items drawn at random, as many as have so many words together as a fit may cost, in their order."""
    most = min(MAX_WORDS, MAX_SCORES // len(spec.labels))
    order = np.random.default_rng(seed).permutation(len(items))
    counts = np.cumsum([len(items[int(at)].about.words) for at in order])
    return [items[at] for at in sorted(order[: max(1, int((counts <= most).sum()))].tolist())]


def word_vectors(backbone: Backbone, depth: Depth, items: Sequence[Item], source: Source | None, spec: Any) -> list[np.ndarray]:
    """For each item (W, D + P) float16: the untuned state of each word's first token, and a 1 at the word's place in this token."""
    states = word_states(backbone, depth, items, source, [item.about.slots // spec.places for item in items])
    places = np.eye(spec.places, dtype=np.float16)
    return [np.concatenate([one, places[item.about.slots % spec.places]], axis=1) for one, item in zip(states, items)]


def fit_tags(vectors: Mapping[str, Sequence[np.ndarray]], items: Mapping[str, Sequence[Item]], spec: Any) -> Linear:
    """Logistic regression from the vector of a word to its tag, learned from "train", and its strength picked on "validation" (may be missing)."""
    known = {name: _known(vectors[name], items[name]) for name in ("train", "validation") if any(map(len, vectors.get(name, ())))}
    labelled = SimpleNamespace(task="classify", labels=spec.labels, multi_label=False)
    return fit_linear(*known["train"], labelled, validation=known.get("validation"), strengths=_STRENGTHS)


def untuned_tagger(vectors: Mapping[str, Sequence[np.ndarray]], items: Mapping[str, Sequence[Item]], spec: Any) -> Result:
    """ "untuned": `fit_tags`, then the best path of tags that may follow one another.

    vectors: for "train", "validation" (may be missing) and "test", for each item (W, D) those of its words; items: the same ones, in order
    """
    started = time.perf_counter()
    found = fit_tags(vectors, items, spec)
    said = {name: list(answered(found, vectors[name], items[name], spec)) for name in ("validation", "test") if len(vectors.get(name, ()))}
    options = {"words": sum(len(one) for one in vectors["train"]), **found.options}
    return Result("untuned", time.perf_counter() - started, said["test"], said.get("validation"), options)


def _known(vectors: Sequence[np.ndarray], items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) and tags (N,) of the words that have one."""
    tags = np.concatenate([np.asarray(item.target).ravel()[item.about.slots] for item in items])
    together = np.concatenate([np.asarray(one, dtype=np.float32) for one in vectors])
    return together[tags != IGNORE], tags[tags != IGNORE]


def answered(found: Linear, vectors: Sequence[np.ndarray], items: Sequence[Item], spec: Any) -> Iterator[list[Span]]:
    """The entities of each item, by the best path of tags from the vectors of its words."""
    for one, item in zip(vectors, items):
        logits = np.asarray(one, dtype=np.float64) @ found.weight.T + found.bias
        yield answers([torch.from_numpy(logits).float()], [item.about], spec)[0].scores


@dataclass(frozen=True)
class _Dictionary:
    """Runs of words with the type that each mostly had, and which share of its occurrences were entities; by first word, the lengths there are."""

    fold: bool
    kinds: dict[tuple[str, ...], tuple[str, float]]
    lengths: dict[str, list[int]]

    @classmethod
    def of(cls, rows: Sequence[Row], fold: bool) -> _Dictionary:
        seen: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        split = [(_texts(row, words, fold), covered(row["label"], words)) for row in rows for words in [words_of(row)]]
        for texts, spans in split:
            for start, end, kind in spans:
                if end - start <= _LONGEST:
                    seen[tuple(texts[start:end])][kind] += 1
        lengths: dict[str, set[int]] = defaultdict(set)
        for run in seen:
            lengths[run[0]].add(len(run))
        ordered = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}
        occurs: Counter[tuple[str, ...]] = Counter()
        for texts, spans in split:
            inside = {at: (start, end) for start, end, _ in spans for at in range(start, end)}
            for at, run in _runs(texts, ordered):  # a part of a longer entity says nothing of the part alone
                if run in seen and inside.get(at, (at, at + len(run))) == (at, at + len(run)):
                    occurs[run] += 1
        kinds = {run: (kind[0][0], kind[0][1] / max(1, occurs[run])) for run, counts in seen.items() for kind in [counts.most_common(1)]}
        return cls(fold, kinds, ordered)

    def find(self, row: Row, share: float) -> list[Span]:
        words = words_of(row)
        found: list[Span] = []
        free = 0
        for at, run in _runs(_texts(row, words, self.fold), self.lengths):
            if at >= free and run in self.kinds and self.kinds[run][1] >= share:
                free = at + len(run)
                found.append((words[at][0], words[free - 1][1], self.kinds[run][0]))
        return found


def _texts(row: Row, words: Sequence[tuple[int, int]], fold: bool) -> list[str]:
    text = [row["text"][start:end] for start, end in words]
    return [word.casefold() for word in text] if fold else text


def _runs(texts: Sequence[str], lengths: Mapping[str, Sequence[int]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every run of words that may be an entry: from left to right, the longest first."""
    for at, word in enumerate(texts):
        for size in lengths.get(word, ()):
            if at + size <= len(texts):
                yield at, tuple(texts[at : at + size])

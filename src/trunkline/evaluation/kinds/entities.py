"""Answers that are entities in a text: truth and scores are N lists of (start, end, type), by characters or by words.

An entity is right when start, end and type are, and each counts once. Precision, recall and F1 are summed over all rows (micro), or are the
mean over the types that occur in truth or answers (macro). Source: Tjong Kim Sang and De Meulder 2003 (CoNLL), section 5; equal to seqeval
in strict mode. What divides by nothing is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from trunkline.evaluation.metric import Metric, Weighted, ratio
from trunkline.types import Row

Entities = Sequence[Sequence[tuple[int, int, str]]]


def per_type(truth: Entities, scores: Entities) -> list[dict[str, Any]]:
    """One dict a type: label, precision, recall, f1, support (entities of the truth), predicted (entities of the answers).

    >>> per_type([[(0, 3, "PER")], []], [[(0, 3, "PER")], [(4, 6, "PER")]])
    [{'label': 'PER', 'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666, 'support': 1, 'predicted': 2}]
    """
    kinds, counts = _counts(truth, scores)
    hits, there, said = counts(np.ones((len(truth), 1)))[..., 0]
    columns = zip(kinds, ratio(hits, said), ratio(hits, there), ratio(2 * hits, there + said), there, said)
    return [
        {"label": kind, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(t), "predicted": int(s)}
        for kind, p, r, f, t, s in columns
    ]


def errors(rows: Sequence[Row], truth: Entities, scores: Entities, count: int) -> list[dict[str, Any]]:
    """The rows with most entities missed or made up, worst first: what should have been found and what was, without what was right."""
    wrong = []
    for at, (wanted, got) in enumerate(zip(truth, scores)):
        wanted_set, got_set = set(map(tuple, wanted)), set(map(tuple, got))
        if wanted_set != got_set:
            wrong.append((-len(wanted_set ^ got_set), at, wanted_set - got_set, got_set - wanted_set))
    return [
        {"text": rows[at]["text"], "label": _named(rows[at]["text"], missed), "predicted": _named(rows[at]["text"], extra)}
        for _, at, missed, extra in sorted(wrong, key=lambda one: one[:2])[:count]
    ]


def _named(text: str, entities: set[tuple[Any, ...]]) -> str:
    return ", ".join(f"{text[start:end]} ({kind})" for start, end, kind in sorted(entities)) or "-"


def _counts(truth: Entities, scores: Entities) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """The types in order, and weights (N, R) -> (3, K, R): weighted hits, entities of the truth, entities of the answers."""
    kinds = sorted({entity[2] for rows in (truth, scores) for row in rows for entity in row})
    place = {kind: at for at, kind in enumerate(kinds)}
    columns: list[tuple[list[int], list[int]]] = [([], []), ([], []), ([], [])]
    for row, (wanted, got) in enumerate(zip(truth, scores)):
        wanted_set, got_set = set(map(tuple, wanted)), set(map(tuple, got))
        for (types, owners), found in zip(columns, (wanted_set & got_set, wanted_set, got_set)):
            types.extend(place[str(kind)] for _, _, kind in found)
            owners.extend([row] * len(found))
    shape = (len(kinds), len(truth))
    stacked = [sparse.csr_array((np.ones(len(types)), (types, owners)), shape=shape) for types, owners in columns]
    return kinds, lambda weights: np.stack([counted @ weights for counted in stacked])


def _over(formula: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Any, Any], Weighted]:
    """A metric from a formula over (hits, there, said), each (K, R)."""

    def prepare(truth: Any, scores: Any) -> Weighted:
        _, counts = _counts(truth, scores)
        return lambda weights: formula(*counts(weights))

    return prepare


def _macro(hits: np.ndarray, there: np.ndarray, said: np.ndarray) -> np.ndarray:
    occurs = there + said > 0
    return ratio(ratio(2 * hits, there + said).sum(axis=0), occurs.sum(axis=0))


_KIND = ("entities",)
METRICS = (
    Metric("entity_f1", "Entity F1", _over(lambda h, t, s: ratio(2 * h.sum(0), t.sum(0) + s.sum(0))), _KIND, percent=True),
    Metric("entity_precision", "Entity precision", _over(lambda h, t, s: ratio(h.sum(0), s.sum(0))), _KIND, percent=True),
    Metric("entity_recall", "Entity recall", _over(lambda h, t, s: ratio(h.sum(0), t.sum(0))), _KIND, percent=True),
    Metric("entity_macro_f1", "Entity macro F1", _over(_macro), _KIND, percent=True),
)

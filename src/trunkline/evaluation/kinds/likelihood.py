"""Answers that are a likelihood: how probable a model finds the right text. For `seq2seq`, `generate` and whatever predicts tokens.

truth: not read; scores (N, 2): of each row the negative log likelihood in nats, and the number of tokens that it is of.

Both metrics are of the whole corpus: nats and tokens are summed before one is divided by the other, so a long row counts more. They
compare models with the same tokenizer only. No tokens at all: perplexity 1, 0 bits.

Source: Jelinek et al. 1977 (perplexity).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trunkline.evaluation.metric import Metric, Weighted, ratio
from trunkline.types import Row


def errors(rows: Sequence[Row], truth: Any, scores: Any, count: int) -> list[dict[str, Any]]:
    """The rows whose text surprised the model most, for `Report.errors`: text, label, predicted (nothing), error (nats a token)."""
    each = ratio(*np.asarray(scores, dtype=np.float64).T)
    worst = sorted(range(len(rows)), key=lambda at: (-each[at], at))[:count]
    return [{"text": rows[at]["text"], "label": _label(rows[at]), "predicted": None, "error": float(each[at])} for at in worst]


def _label(row: Row) -> Any:
    label = row.get("label")
    return label[0] if isinstance(label, list) and label else label


def _of_sums(value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, Any], Weighted]:
    """A metric of the nats per token over all rows."""

    def prepare(truth: Any, scores: Any) -> Weighted:
        nats, tokens = np.asarray(scores, dtype=np.float64).reshape(-1, 2).T
        return lambda weights: value(ratio(nats @ weights, tokens @ weights))

    return prepare


_ANY = (0.0, float("inf"))
METRICS = (
    Metric("perplexity", "Perplexity", _of_sums(np.exp), ("likelihood",), higher_is_better=False, bounds=(1.0, float("inf"))),
    Metric("bits_per_token", "Bits per token", _of_sums(lambda nats: nats / np.log(2)), ("likelihood",), False, _ANY),
)

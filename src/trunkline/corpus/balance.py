"""Domain balance: no domain has more than a share of the result. Which of its documents stay, a hash of their content decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np


def domain_of(record: dict[str, Any], told: str, file: Path) -> str:
    """Where a document is from: the host of an address, the value of a field, or the name of its file.

    >>> domain_of({"url": "https://www.example.com/a?b"}, "url", Path("x.jsonl"))
    'www.example.com'
    """
    if told == "file":
        return file.name
    value = record.get(told)
    if not isinstance(value, str):
        return "" if value is None else str(value)
    host = urlsplit(value).hostname if "://" in value[:12] else None
    return host or value


def most_each(counts: Counter[str], share: float) -> int:
    """How many documents a domain may have so that the largest has at most `share` of what is left; 0 where there are too few domains.

    >>> most_each(Counter(a=100, b=30, c=20), 0.5)
    50
    """
    sizes = np.array(list(counts.values()), dtype=np.int64)
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # cap / sum(min(sizes, cap)) only rises with the cap
        cap = (low + high + 1) // 2
        low, high = (cap, high) if cap <= share * np.minimum(sizes, cap).sum() else (low, cap - 1)
    return low


def dropped_for_balance(domains: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
    """(n,) bool: which documents are over `most` in their domain, by the numbers that chance gave them (least ones stay).

    domains: (n,) int, the domain of each; order: (n,) uint64
    """
    by = np.lexsort((order, domains))
    sorted_domains = domains[by]
    starts = np.flatnonzero(np.concatenate([[True], sorted_domains[1:] != sorted_domains[:-1]])) if len(by) else np.empty(0, dtype=int)
    rank = np.arange(len(by)) - np.repeat(starts, np.diff(np.append(starts, len(by))))
    found = np.zeros(len(by), dtype=bool)
    found[by[rank >= most]] = True
    return found

"""What is wrong with pairs of answers before a reward or a policy learns from them; a part of `quality.check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from trunkline.data.cells import fold
from trunkline.types import Row

FEW = 2000
"""Pairs below which a reward model is no judge yet. Source: Stiennon et al. 2020 and kin use tens of thousands."""
LENGTH = 0.1
"""How far from a half the share of pairs may be in which the longer answer is the preferred one."""
_ENOUGH = 50  # pairs, for a share to say something
_SHOWN = 10

Noticed = tuple[str, str, tuple[str, ...], str]
"""The fields of a `quality.Finding`: level, what, rows, do."""


def check_pairs(rows: Sequence[Row]) -> Iterator[Noticed]:
    """What is to be noticed in rows with `text`, `text_b` (the better answer), `rejected`, and perhaps `annotator`."""
    pairs = [row for row in rows if row.get("text_b") and row.get("rejected")]
    for found in (_few, _identical, _conflicting, _length_bias, _annotators):
        yield from found(pairs)


def _few(pairs: Sequence[Row]) -> Iterator[Noticed]:
    if len(pairs) < FEW:
        do = f"collect {FEW:,} or more before you trust what is learned from them, and read the interval of the pair accuracy"
        yield "warning", f"there are {len(pairs):,} pairs", (), do


def _identical(pairs: Sequence[Row]) -> Iterator[Noticed]:
    same = [row for row in pairs if fold(row["text_b"]) == fold(row["rejected"])]
    if same:
        do = "take these pairs out: nothing can be learned from two answers that are the same"
        yield "warning", f"pairs of two identical answers: {len(same):,}", tuple(f"{row['text'][:60]!r}" for row in same[:_SHOWN]), do


def _conflicting(pairs: Sequence[Row]) -> Iterator[Noticed]:
    said = {(fold(row["text"]), fold(row["text_b"]), fold(row["rejected"])) for row in pairs}
    both = sorted(one for one in said if one[1] < one[2] and (one[0], one[2], one[1]) in said)
    if both:
        do = "ask again which answer is better, or take both rows out: one of them is wrong"
        yield "warning", f"pairs that stand there both ways round: {len(both):,}", tuple(f"{key[0][:60]!r}" for key in both[:_SHOWN]), do


def _length_bias(pairs: Sequence[Row]) -> Iterator[Noticed]:
    differing = [len(row["text_b"]) > len(row["rejected"]) for row in pairs if len(row["text_b"]) != len(row["rejected"])]
    share = sum(differing) / max(1, len(differing))
    if len(differing) >= _ENOUGH and abs(share - 0.5) > LENGTH:
        longer = "longer" if share > 0.5 else "shorter"
        do = "compare with the baseline of lengths alone, and look at the length of what a policy writes: it may learn nothing else"
        yield "warning", f"in {max(share, 1 - share):.0%} of the pairs the preferred answer is the {longer} one", (), do


def _annotators(pairs: Sequence[Row]) -> Iterator[Noticed]:
    counts = Counter(str(row["annotator"]) for row in pairs if row.get("annotator") is not None)
    if len(counts) < 2 or sum(counts.values()) < _ENOUGH:
        return
    (name, most), total = counts.most_common(1)[0], sum(counts.values())
    if most > total / 2 or most > 3 * total / len(counts):
        shown = tuple(f"{who!r}: {count:,} pairs" for who, count in counts.most_common(_SHOWN))
        do = "give the other annotators more to do, or take a sample of this one's pairs: what is learned is this one's taste"
        yield "warning", f"{name!r} alone preferred in {most / total:.0%} of the pairs, of {len(counts):,} annotators", shown, do

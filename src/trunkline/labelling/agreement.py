"""Do people who label agree, beyond what chance would give? 1: always; 0: as often as by chance; below 0: less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trunkline.errors import OptionError


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Of two people's labels for the same rows. Source: Cohen 1960, equation 1. Where both always give one same label: 1.

    >>> round(cohen_kappa(["a", "a", "b", "b"], ["a", "b", "b", "b"]), 2)
    0.5
    """
    if len(first) != len(second) or not first:
        raise OptionError(f"{len(first)} and {len(second)} labels: give both people's labels of the same rows, one at least.")
    agreed = sum(a == b for a, b in zip(first, second)) / len(first)
    left, right = Counter(first), Counter(second)
    chance = sum(left[label] * right[label] for label in left) / len(first) ** 2
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)


def krippendorff_alpha(units: Sequence[Sequence[str]]) -> float:
    """Of any number of people, of whom some may have left rows out: for each row the labels it was given. Nominal.

    Source: Krippendorff 2011 (Computing Krippendorff's Alpha-Reliability), section C. Raises: OptionError where no row has two labels.
    """
    paired = [unit for unit in units if len(unit) > 1]
    total = sum(map(len, paired))
    if not total:
        raise OptionError("no row has labels of two people, so there is no agreement to measure.")
    counts = Counter(label for unit in paired for label in unit)
    differ = sum((len(unit) ** 2 - sum(n * n for n in Counter(unit).values())) / (len(unit) - 1) for unit in paired) / total
    chance = (total**2 - sum(n * n for n in counts.values())) / (total * (total - 1))
    return 1.0 if chance == 0 else 1 - differ / chance


def pairwise(labels: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], tuple[float, int]]:
    """Cohen's kappa of each two people on the rows that both labelled, and how many these are. labels: by row and person, "" for skipped."""
    people = sorted({by for given in labels.values() for by in given})
    found = {}
    for at, one in enumerate(people):
        for other in people[at + 1 :]:
            both = [(given[one], given[other]) for given in labels.values() if given.get(one) and given.get(other)]
            if both:
                found[one, other] = (cohen_kappa([a for a, _ in both], [b for _, b in both]), len(both))
    return found

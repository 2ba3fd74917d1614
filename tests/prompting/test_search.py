"""The race: the best wins, the worse ones answer fewer rows, and the budget ends it."""

import numpy as np
import pytest

from trunkline.errors import DataError
from trunkline.prompting.search import FIRST, race

ROWS = [{"text": str(n)} for n in range(64)]
TRUTH = np.arange(64) % 2


def right(share: float):
    """A candidate that answers so many of ten rows rightly."""

    def probabilities(rows):
        labels = [int(row["text"]) % 2 if int(row["text"]) % 10 < 10 * share else 1 - int(row["text"]) % 2 for row in rows]
        return np.eye(2)[labels]

    return probabilities


def test_the_best_wins_and_the_worse_end_early() -> None:
    best, trials = race([("half", right(0.5)), ("most", right(0.9)), ("few", right(0.2)), ("some", right(0.7))], ROWS, TRUTH)
    assert best == 1
    assert [one.rows for one in trials] == [FIRST, 2 * FIRST, FIRST, 2 * FIRST]
    assert all(one.low <= one.value <= one.high for one in trials)
    assert trials[1].value == pytest.approx(np.mean([n % 10 < 9 for n in range(32)]))


def test_of_equals_the_first() -> None:
    assert race([("one", right(0.5)), ("other", right(0.5))], ROWS, TRUTH)[0] == 0


def test_budget_ends_after_a_whole_round() -> None:
    _, trials = race([(str(n), right(0.5)) for n in range(4)], ROWS, TRUTH, seconds=0.0)
    assert {one.rows for one in trials} == {FIRST}


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no validation rows"):
        race([("one", right(0.5))], [], TRUTH[:0])

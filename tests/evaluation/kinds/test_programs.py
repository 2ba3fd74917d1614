"""pass@k against counting the draws."""

import itertools
import math

import pytest

from trunkline.errors import OptionError
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.kinds.programs import metrics_of, pass_at_k
from trunkline.evaluation.metrics import compute


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(2000, 37, 500) == pytest.approx(1 - math.comb(2000 - 37, 500) / math.comb(2000, 500), abs=1e-12)


@pytest.mark.parametrize("arguments", [(5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)])
def test_pass_at_k_out_of_range(arguments) -> None:
    with pytest.raises(OptionError, match="use c of 0 to n"):
        pass_at_k(*arguments)


def test_over_problems_it_is_the_mean_with_an_interval() -> None:
    counts = [(10, 3), (10, 10), (10, 0)]
    assert compute(["pass_at_1"], [None] * 3, counts)["pass_at_1"] == pytest.approx((0.3 + 1 + 0) / 3)
    found = bootstrap(["pass_at_1", "pass_at_10"], [None] * 3, counts)
    assert found["pass_at_10"].value == pytest.approx(2 / 3)
    assert found["pass_at_1"].low < found["pass_at_1"].value < found["pass_at_1"].high


def test_as_many_metrics_as_the_samples_are_enough_for() -> None:
    assert metrics_of(1) == ("pass_at_1",)
    assert metrics_of(10) == ("pass_at_1", "pass_at_5", "pass_at_10")

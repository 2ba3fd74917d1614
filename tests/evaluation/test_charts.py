"""The geometry of the pictures: axes that cover the data, outliers that do not flatten the rest."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.evaluation import charts
from trunkline.evaluation.charts import Dot, Line

FINITE = st.floats(-1e9, 1e9)


@given(FINITE, st.floats(1e-9, 1e9))
def test_ticks_are_few_rising_and_inside(low, width):
    ticks = charts._ticks(low, low + width)
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(ticks)


def test_ticks_of_one_value_surround_it():
    for value in (0.0, 5.0, -3.0):
        ticks = charts._ticks(value, value)
        assert ticks[0] < value < ticks[-1]


def test_a_far_majority_becomes_an_arrow_and_the_difference_stays_wide():
    dots = [Dot("majority", 0.013, 0.01, 0.016, "1.3%"), Dot("a", 0.9, 0.89, 0.91, "90%"), Dot("b", 0.93, 0.92, 0.94, "93%", True)]
    drawn = charts.intervals(dots, lambda v: f"{100 * v:g}%", "test")
    assert drawn.count("<path") == 1
    at = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', drawn)]
    assert at[1] - at[0] > 200
    near = [Dot("majority", 0.5, 0.47, 0.53, "50%"), Dot("b", 0.6, 0.57, 0.63, "60%", True)]
    assert "<path" not in charts.intervals(near, str, "test")


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(0, -3.0), (10, 1e6)]])
def test_curves_stay_inside_their_frame(points):
    drawn = charts.curves([Line("seed 0", points)], str, "test", "step")
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
    for pair in re.search(r'points="([^"]+)"', drawn).group(1).split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_no_curve_no_picture():
    assert charts.curves([], str, "test", "step") == ""


def test_a_scatter_takes_at_most_two_thousand_points():
    drawn = charts.scatter(list(range(9000)), list(range(9000)), ("a", "b"), "test")
    assert 1000 < drawn.count("<circle") <= 2000


def test_a_histogram_counts_every_value_once():
    values = [0.0, 0.0, 1.0, 2.0, 2.0, 2.0]
    assert sum(map(int, re.findall(r"<title>(\d+)</title>", charts.histogram(values, "x", "test")))) == 6


def test_long_and_wide_names_are_cut():
    assert charts._cut("x" * 80) == "x" * 29 + "…"
    assert charts._width(charts._cut("客" * 80)) <= 30
    assert charts._cut("two\n words") == "two words"

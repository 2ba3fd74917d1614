"""Which rows are shown, in which order, and that no row shows itself."""

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.model.backbone import load_backbone
from trunkline.prompting.shots import Neighbours, Shots

POOL = [{"text": f"{label} {n}", "label": label} for n in range(4) for label in "aabc"]  # twice as many a
QUERY = [{"text": "something else"}]


class At:
    """Vectors of texts, told: all there is to know of a text is its angle in degrees."""

    def __init__(self, **angles: float) -> None:
        self.angles = angles

    def __call__(self, rows):
        turned = np.radians([self.angles[row["text"]] for row in rows])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


NEAR = At(query=0, one=40, two=10, three=-11, four=120, five=12)
ROWS = [{"text": text, "label": label} for text, label in zip(["one", "two", "three", "four", "five"], "xyyxy")]


def texts(shots: Shots, rows=({"text": "query"},)) -> list[str]:
    return [shots.pool[at]["text"] for at in shots.choose(rows)[0]]


@pytest.mark.parametrize("pick", ["fixed", "random"])
def test_labels_are_balanced_and_take_turns(pick: str) -> None:
    labels = [POOL[at]["label"] for at in Shots(POOL, 6, pick).choose(QUERY)[0]]
    assert sorted(labels[:3]) == sorted(labels[3:]) == ["a", "b", "c"]


def test_unbalanced_on_demand() -> None:
    assert [POOL[at]["label"] for at in Shots(POOL, 3, "fixed", balance=False).choose(QUERY)[0]] == ["a", "a", "b"]


def test_random_is_the_seed_s_and_the_same_for_all_rows() -> None:
    one, other = Shots(POOL, 4, "random", seed=1), Shots(POOL, 4, "random", seed=2)
    assert one.choose(QUERY * 2)[0] == one.choose(QUERY * 2)[1] == Shots(POOL, 4, "random", seed=1).choose(QUERY)[0]
    assert one.choose(QUERY) != other.choose(QUERY)


def test_nearest_stands_last() -> None:
    assert texts(Shots(ROWS, 3, "nearest", vectors=NEAR)) == ["five", "three", "two"]


def test_nearest_balanced() -> None:
    assert texts(Shots(ROWS, 2, "nearest", balance=True, vectors=NEAR)) == ["one", "two"]


def test_diverse_leaves_out_what_is_like_what_is_there() -> None:
    """After "two" (10 degrees), "three" (-11) is as near as "five" (12) and less like it."""
    assert texts(Shots(ROWS, 2, "diverse", vectors=NEAR)) == ["three", "two"]


@pytest.mark.parametrize("pick", ["fixed", "nearest", "diverse"])
def test_a_row_does_not_show_itself(pick: str) -> None:
    rows = [{"text": "TWO "}]
    angles = At(**NEAR.angles, **{"TWO ": 10})
    assert "two" not in texts(Shots(ROWS, 4, pick, vectors=angles), rows)


def test_more_than_there_are() -> None:
    with pytest.raises(OptionError, match="shots=9: there are 5 training rows"):
        Shots(ROWS, 9, "fixed")


def test_nearest_needs_vectors() -> None:
    with pytest.raises(OptionError, match="neighbours"):
        Shots(ROWS, 1, "nearest")


@pytest.mark.parametrize("model_type", ["bert", "llama", "albert", "t5"])
def test_each_text_goes_through_the_trunk_once(model_type: str, tiny_folder) -> None:
    found = Neighbours(load_backbone(tiny_folder(model_type)))
    first = found(ROWS)
    found._live = found._stored = None  # a second pass would fail
    assert np.array_equal(found(ROWS[::-1]), first[::-1])

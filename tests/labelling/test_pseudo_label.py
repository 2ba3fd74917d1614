"""`pseudo_label`: labels come from training rows alone, go to training rows alone, and whether they help is said."""

from pathlib import Path

import numpy as np
import pytest

import trunkline as tl
from trunkline.data.split import split, text_key
from trunkline.errors import DataError, OptionError
from trunkline.labelling import pseudo_label as module
from trunkline.labelling.pseudo_label import SOURCE, WAYS, pseudo_label
from trunkline.quality.duplicates import Vectors
from trunkline.types import Rows

KINDS = ("card", "order", "refund")


def rows(count: int, seed: int) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [{"text": f"{KINDS[at % 3]} {''.join(generator.choice(list('abcdefgh'), 8))}", "label": KINDS[at % 3]} for at in range(count)]


@pytest.fixture
def known_vectors(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Vectors that know the kind but for noise; the texts of each call are noted."""
    calls = []

    def vectors(some, against=(), *, model, seed):
        calls.append({row["text"] for row in [*some, *against]})
        generator = np.random.default_rng(5)
        every = [KINDS.index(row["text"].split()[0]) for row in [*some, *against]]
        found = (2.2 * np.eye(3, 10)[every] + generator.normal(size=(len(every), 10))).astype(np.float32)
        return Vectors(found[: len(some)], found[len(some) :])

    monkeypatch.setattr(module, "vectors", vectors)
    return calls


@pytest.mark.parametrize("way", WAYS)
def test_new_rows_are_mostly_right_and_stand_in_train_alone(way: str, known_vectors: list[set[str]]) -> None:
    parts = split(Rows(tuple(rows(60, 0)), "classify"), validation=0.2, test=0.2)
    measured = [*parts.validation, *parts.test]
    others = [{"text": row["text"]} for row in rows(300, 1)]
    found = pseudo_label(parts, [*others, *others[:5], *({"text": row["text"].upper()} for row in measured)], way=way, wanted=0.8)
    assert found.offered == 300, "each text once, and none that is measured on"
    assert found.new
    assert np.mean([row["label"] == row["text"].split()[0] for row in found.new]) > 0.85
    assert {row["source"] for row in found.new} == {SOURCE}
    assert (found.parts.validation, found.parts.test) == (parts.validation, parts.test)
    assert len(found.parts.train) == len(parts.train) + len(found.new)
    assert not {text_key(row) for row in measured} & {text_key(row) for row in found.new}
    assert not known_vectors[0] & {row["text"] for row in measured}, "nothing of what is measured on was looked at"
    assert "of 300 rows got a label" in str(found)
    together = Rows(tuple(row for part in found.parts.parts().values() for row in part), "classify")
    again = split(together, validation=0.3, test=0.3, seed=9)
    assert not [row for part in (again.validation, again.test) for row in part if row.get("source") == SOURCE]


def test_what_helps_and_what_harms_is_said() -> None:
    said = [
        str(module.PseudoLabelled(split(Rows(tuple(rows(60, 0)), "classify")), (), 9, gain))
        for gain in ((2, 1, 3), (-2, -3, -1), (0, -1, 1))
    ]
    assert [one.rpartition(": ")[2] for one in said] == ["they help.", "they harm.", "no difference shown."]


def test_what_cannot_be_done_is_refused(known_vectors: list[set[str]]) -> None:
    parts = split(Rows(tuple(rows(60, 0)), "classify"))
    with pytest.raises(OptionError, match="way='magic'"):
        pseudo_label(parts, rows(9, 1), way="magic")
    with pytest.raises(OptionError, match="made for classify"):
        pseudo_label(split(Rows(tuple({"text": f"t {at}", "label": float(at)} for at in range(40)), "regress")), rows(9, 1))
    with pytest.raises(DataError, match="at least 25"):
        pseudo_label(split(Rows(tuple(rows(20, 0)), "classify")), rows(9, 1))
    with pytest.raises(DataError, match="stand among the labelled"):
        pseudo_label(parts, list(parts.test))


def test_on_a_model_and_tuned(cache: Path, tiny_folder) -> None:
    model = tiny_folder("bert")
    found = tl.pseudo_label(
        Rows(tuple(rows(60, 0)), "classify"), [{"text": row["text"]} for row in rows(60, 1)], model=model, way="spreading"
    )
    assert len(found.new) >= 30
    branch = tl.tune(found.parts, model, depth=0, settings=tl.Settings(epochs=1))
    assert branch.predict(["card abc"])[0].value in KINDS

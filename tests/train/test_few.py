"""Few rows a class: the loss on pairs, the batches of pairs, the rows that are held out, and the branch that comes out."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import trunkline as tl
from tests import tiny
from tests.train.samples import FIRST, make_branch, make_data, make_rows
from trunkline.data.read import read
from trunkline.train import few
from trunkline.train import tune as tuning
from trunkline.train.depth import Few
from trunkline.train.few import contrast, folds, pairs_of
from trunkline.train.settings import Settings

QUICK = Settings(epochs=3, validation=0.3, threads=1, budget="1h", precision="float32")


@pytest.fixture(autouse=True)
def _own_cache(cache):
    """Every test fills a states store of its own."""


@pytest.fixture
def model(tiny_folder):
    return tiny_folder("bert")


def rows(count=60):
    return read(list(make_rows(count=count).rows))


def by_hand(vectors, targets):
    """Khosla et al. 2020, equation 2, written out in loops."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        same = [p for p in others if targets[p] == targets[i]]
        below = sum(np.exp(unit[i] @ unit[a] / 0.07) for a in others)
        total += -sum(np.log(np.exp(unit[i] @ unit[p] / 0.07) / below) for p in same) / max(len(same), 1)
    return total / len(unit)


def test_the_loss_is_the_one_of_the_paper():
    generator = np.random.default_rng(0)
    vectors, targets = generator.normal(size=(7, 5)), np.array([0, 0, 1, 1, 1, 2, 0])
    found = contrast(torch.from_numpy(vectors), torch.from_numpy(targets))
    assert float(found) == pytest.approx(by_hand(vectors, targets), rel=1e-6)


def test_the_loss_has_a_finite_gradient_where_a_class_comes_alone():
    vectors = torch.randn(4, 5, requires_grad=True)
    contrast(vectors, torch.arange(4)).backward()
    assert bool(torch.isfinite(vectors.grad).all())


def test_the_loss_falls_as_classes_draw_together():
    targets, apart = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    together = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert contrast(together, targets) < contrast(apart, targets)


def test_each_row_comes_once_an_epoch_and_beside_one_of_its_class():
    targets = np.repeat(np.arange(9), [8, 8, 7, 1, 8, 3, 8, 8, 8])
    found = pairs_of(targets, np.ones(len(targets)), 16, seed=1, epoch=0)
    assert sorted(np.concatenate(found)) == list(range(len(targets)))
    assert len(found) == -(-len(targets) // 16)
    alone = sum(count == 1 for batch in found for count in Counter(targets[batch]).values())
    assert alone <= 3, "only those left over of a class with an odd number"


def test_pairs_change_with_the_epoch_and_not_with_the_call():
    targets = np.repeat(np.arange(4), 8)
    one, again, other = (np.concatenate(pairs_of(targets, np.ones(32), 8, seed=1, epoch=epoch)) for epoch in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


def test_pairs_of_like_length_come_together():
    targets, lengths = np.repeat(np.arange(64), 8), np.random.default_rng(0).integers(5, 60, 512)
    padded = sum(len(batch) * lengths[batch].max() for batch in pairs_of(targets, lengths, 64, seed=0, epoch=0))
    plain = sum(len(part) * lengths[part].max() for part in np.split(np.arange(512), 8))
    assert padded < 0.9 * plain


def test_each_row_is_held_out_once_with_classes_in_equal_shares():
    targets = np.repeat(np.arange(5), 6)
    found = list(folds(targets, seed=0))
    assert sorted(np.concatenate([held for _, held in found])) == list(range(30))
    for kept, held in found:
        assert not set(kept) & set(held)
        assert set(Counter(targets[held]).values()) == {2}


def test_of_many_rows_one_part_is_held_out():
    assert len(list(folds(np.repeat(np.arange(50), 50), seed=0))) == 1


@pytest.mark.parametrize(
    ("told", "wanted"),
    [({}, True), ({"method": "lora"}, False), ({"pooling": "attention"}, False), ({"class_weights": "balanced"}, False),
     ({"focal_gamma": 1.0}, False), ({"multi_label": True}, False)],
)  # fmt: skip
def test_which_branches_it_suits(model, told, wanted):
    branch = make_branch(model, make_rows(), **told)
    assert few.suits(branch, {"train": [None] * 192}) == wanted
    assert not few.suits(branch, {"train": [None] * 193}), "more than 64 rows for each of the three classes"


def test_a_number_is_not_a_class(model):
    assert not few.suits(make_branch(model, make_rows("regress")), {"train": [None] * 9})


def test_the_branch_is_one_like_every_other(model, tmp_path, monkeypatch):
    monkeypatch.setattr(few, "_better", lambda alone, tuned: True)
    branch = tl.tune(rows(), model, settings=QUICK, out=tmp_path / "run")
    assert (branch.task, branch.method, branch.depth) == ("classify", "full", 2)
    again = tl.load(tmp_path / "run", model=model)
    texts = [row["text"] for row in rows()]
    assert [a.value for a in again.predict(texts)] == [a.value for a in branch.predict(texts)]
    assert [entry["step"] for entry in branch.report.history[0]] == [0]
    assert [trial["depth"] for trial in branch.report.search["trials"]] == [0, 2]
    assert "held out" in str(branch.report)


def test_layers_learn_from_pairs_and_the_head_is_solved_on_them(tmp_path):
    torch.manual_seed(0)  # the same random model every time: how fast one learns differs
    branch = make_branch(tiny.save("bert", tmp_path / "model"), make_rows(), depth=2)
    data = make_data(branch, make_rows())
    targets = torch.tensor([item.target for item in data.train])
    before = contrast(torch.from_numpy(few._vectors(branch, data)), targets)
    few.start(branch, data, Few(strength=1.0, pairs=True), replace(QUICK, epochs=100, learning_rate=1e-3), seed=0)
    assert contrast(torch.from_numpy(few._vectors(branch, data)), targets) < before - 0.2
    answers = branch.answers(data.train, data.source)
    assert sum(answer.value == row["label"] for answer, row in zip(answers, make_rows(), strict=True)) > 0.7 * len(answers)


def test_the_head_alone_where_pairs_are_no_better(model, monkeypatch):
    monkeypatch.setattr(few, "_better", lambda alone, tuned: False)
    branch = tl.tune(rows(), model, settings=QUICK)
    assert branch.depth == 0
    assert "no better" in branch.report.search["why"]


@pytest.mark.wide
def test_no_answer_depends_on_the_validation_rows(model, monkeypatch):
    monkeypatch.setattr(few, "_better", lambda alone, tuned: True)
    given = list(make_rows(count=60, most_words=12).rows)
    turned = [{**row, "label": FIRST[number % 3]} for number, row in enumerate(given[45:], 1)]
    made = []
    for validation in (given[45:], turned):
        parts = tl.split(read(given[:45]), validation=read(validation), test=0.0)
        made.append(tl.tune(parts, model, settings=QUICK))
    one, other = ([p.detach().numpy().tobytes() for p in branch.network.learned().values()] for branch in made)
    assert one == other


def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(model, tmp_path, monkeypatch):
    def stopped(*args, **told):
        raise KeyboardInterrupt

    monkeypatch.setattr(few, "_better", lambda alone, tuned: True)
    tl.tune(rows(), model, settings=QUICK, out=tmp_path / "clean")
    for name in ("account", "fit"):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                tl.tune(rows(), model, settings=QUICK, out=tmp_path / "run")
    monkeypatch.setattr(few, "search", lambda *args: pytest.fail("searched again"))
    tl.tune(rows(), model, settings=QUICK, out=tmp_path / "run")
    assert (tmp_path / "clean/branch.safetensors").read_bytes() == (tmp_path / "run/branch.safetensors").read_bytes()


def tried(right):
    made = few._Tried(np.zeros(len(right)), None)
    made.each = {strength: np.array(right, dtype=bool) for strength in few.STRENGTHS}
    return made


def test_no_further_part_is_held_out_where_the_difference_is_clear():
    alone, barely, clearly = tried([1] * 50 + [0] * 50), tried([1] * 52 + [0] * 48), tried([1] * 60 + [0] * 40)
    assert [few._clear(alone, other) for other in (alone, barely, clearly)] == [False, False, True]
    assert few._better(alone, barely)
    assert not few._better(alone, alone)


@pytest.mark.wide
def test_the_budget_ends_it_after_the_first_part(model, monkeypatch):
    monkeypatch.setattr(few, "_clear", lambda alone, tuned: False)
    held = [tl.tune(rows(), model, settings=replace(QUICK, budget=budget)).report.search["rows"][1] for budget in ("0s", "1h")]
    assert held[0] < held[1] / 2


def test_other_seeds_draw_other_pairs(model, monkeypatch):
    monkeypatch.setattr(few, "_better", lambda alone, tuned: True)
    report = tl.tune(rows(), model, settings=replace(QUICK, seeds=2)).report
    assert len(report.history) == 2

"""regress: its loss against plain torch, answers in the target's unit, and what it learns from rows and refuses."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from trunkline.errors import DataError, OptionError
from trunkline.tasks import regress
from trunkline.tasks.regress import TaskSpec
from trunkline.types import Batch, Output, Rows

TARGETS = torch.tensor([10.0, 12.0, 14.0, 40.0], dtype=torch.float64)


def rows(*labels):
    return Rows(tuple({"text": f"t{n}", "label": label} for n, label in enumerate(labels)), "regress")


@pytest.mark.parametrize(("name", "plain"), [("mse", functional.mse_loss), ("huber", functional.huber_loss)])
def test_the_loss_is_torchs_on_the_standardised_target(name, plain):
    told = TaskSpec(loss=name, mean=12.0, std=4.0)
    logits = torch.tensor([[0.1], [-0.2], [3.0], [0.5]])
    batch = Batch(None, torch.ones(4, 1, dtype=torch.bool), torch.arange(4), told, targets=TARGETS)
    assert torch.allclose(regress.loss(Output(logits, logits), batch), plain(logits[:, 0], ((TARGETS - 12) / 4).float()))


def test_huber_minds_a_far_target_less():
    logits, values = torch.zeros(4, 1), {}
    for name in ("mse", "huber"):
        batch = Batch(None, torch.ones(4, 1, dtype=torch.bool), torch.arange(4), TaskSpec(loss=name, mean=12.0, std=1.0), targets=TARGETS)
        values[name] = float(regress.loss(Output(logits, logits), batch))
    assert values["mse"] == pytest.approx((4 + 0 + 4 + 784) / 4)
    assert values["huber"] == pytest.approx((1.5 + 0 + 1.5 + 27.5) / 4)


def test_answers_are_in_the_unit_of_the_target():
    found = regress.decode(Output(torch.tensor([[0.0], [1.0], [-2.0]]), torch.empty(0)), None, TaskSpec(mean=12.0, std=4.0))
    assert [answer.value for answer in found] == [12.0, 16.0, 4.0]
    assert all(answer.scores == answer.value and answer.probability is None for answer in found)


def test_mean_and_deviation_are_learned_from_the_rows():
    assert TaskSpec().learned_from(rows(1.0, 3.0)) == {"mean": 2.0, "std": 1.0, "pairs": "together"}
    values = np.random.default_rng(0).normal(1e6, 1e-2, 1000)
    learned = TaskSpec().learned_from(rows(*values))
    assert learned["std"] == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize("labels", [(), (1.0,), (2.0, 2.0, 2.0)])
def test_a_target_that_never_changes_is_refused(labels):
    with pytest.raises(DataError, match="There is nothing to learn"):
        TaskSpec().learned_from(rows(*labels))


@pytest.mark.parametrize("told", [{"loss": "mae"}, {"pooling": "max"}, {"dropout": 0.95}, {"max_tokens": 0}])
def test_options_out_of_range_are_refused(told):
    with pytest.raises(OptionError, match=next(iter(told))):
        TaskSpec(**told)


def test_a_row_becomes_tokens_and_its_number():
    class Plain:
        def encode(self, text, text_b, max_tokens):
            return (text, text_b, max_tokens), True

    item = regress.prepare({"text": "x", "text_b": "y", "label": 3}, Plain(), TaskSpec(max_tokens=9))
    assert item.tokens == (("x", "y", 9),)
    assert item.target == 3.0
    assert item.was_cut
    assert regress.prepare({"text": "x"}, Plain(), TaskSpec()).target is None

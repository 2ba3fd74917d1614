"""classify: its loss against plain torch, what its answers say, and what it learns from rows and refuses."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests import tiny
from trunkline.errors import DataError, OptionError
from trunkline.model.tokenizer import Tokenizer
from trunkline.tasks import classify
from trunkline.tasks.classify import TaskSpec
from trunkline.types import Batch, Output, Rows

LABELS = ("a", "b", "c")


def spec(**told):
    return TaskSpec(**{"labels": LABELS, "label_smoothing": 0.0, **told})


def rows(*labels, **told):
    return Rows(tuple({"text": f"t{n}", "label": label} for n, label in enumerate(labels)), "classify", **told)


def loss(logits, targets, told):
    batch = Batch(None, torch.ones(len(logits), 1, dtype=torch.bool), torch.arange(len(logits)), told, targets=targets)
    return classify.loss(Output(logits, logits), batch)


@pytest.fixture
def logits():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()


@pytest.fixture
def tokenizer(tmp_path):
    tiny.save("bert", tmp_path)
    return Tokenizer(tmp_path, segments=True, pairs_joined=False)


TARGETS = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2])


# Loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_loss_is_torchs_cross_entropy(smoothing, logits):
    wanted = functional.cross_entropy(logits, TARGETS, label_smoothing=smoothing)
    assert torch.allclose(loss(logits, TARGETS, spec(label_smoothing=smoothing)), wanted, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_multiply_an_items_loss_and_the_mean_is_over_items(smoothing, logits):
    told = dataclasses.replace(spec(label_smoothing=smoothing), weights=(0.5, 2.0, 1.0))
    each = functional.cross_entropy(logits, TARGETS, reduction="none", label_smoothing=smoothing)
    wanted = sum(each[i] * told.weights[TARGETS[i]] for i in range(8)) / 8
    assert torch.allclose(loss(logits, TARGETS, told), wanted, atol=1e-6)
    if not smoothing:
        torchs = functional.cross_entropy(logits, TARGETS, weight=torch.tensor(told.weights), reduction="sum") / 8
        assert torch.allclose(loss(logits, TARGETS, told), torchs, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_its_formula(gamma, logits):
    p = logits.softmax(1)[torch.arange(8), TARGETS]
    assert torch.allclose(loss(logits, TARGETS, spec(focal_gamma=gamma)), (-((1 - p) ** gamma) * p.log()).mean(), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_multi_label_loss_is_binary_cross_entropy_over_all_labels(smoothing, gamma, logits):
    targets = (torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) > 0).float()
    told = dataclasses.replace(spec(multi_label=True, label_smoothing=smoothing, focal_gamma=gamma), weights=(0.5, 2.0, 1.0))
    p, smooth = logits.sigmoid(), targets * (1 - smoothing) + smoothing / 2
    each = -(smooth * p.log() + (1 - smooth) * (1 - p).log())
    right = targets * p + (1 - targets) * (1 - p)
    wanted = (each * (1 - right) ** gamma * torch.tensor(told.weights)).mean()
    assert torch.allclose(loss(logits, targets, told), wanted, atol=1e-6)
    if not (smoothing or gamma):
        plain = dataclasses.replace(told, weights=())
        assert torch.allclose(loss(logits, targets, plain), functional.binary_cross_entropy_with_logits(logits, targets), atol=1e-6)


def test_the_gradient_agrees_with_finite_differences():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    told = dataclasses.replace(spec(label_smoothing=0.1, focal_gamma=1.5), weights=(0.5, 2.0, 1.0))
    value = logits.float().requires_grad_()
    loss(value, TARGETS[:4], told).backward()
    for row, column in ((0, 0), (1, 2), (3, 1)):
        step = torch.zeros_like(logits)
        step[row, column] = 1e-2
        up, down = (float(loss((logits + sign * step).float(), TARGETS[:4], told)) for sign in (1, -1))
        assert float(value.grad[row, column]) == pytest.approx((up - down) / 2e-2, abs=2e-3)


def test_extreme_logits_have_a_finite_loss_and_gradient():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    for told, targets in (
        (spec(), torch.tensor([0, 0])),
        (spec(focal_gamma=2.0), torch.tensor([0, 0])),
        (spec(multi_label=True), torch.ones(2, 3)),
    ):
        value = loss(logits, targets, told)
        assert torch.isfinite(value)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()


def test_half_precision_logits_are_measured_in_float32(logits):
    half = logits.detach().to(torch.bfloat16)
    assert loss(half, TARGETS, spec()).dtype == torch.float32


# Answers


def answers(logits, told):
    return classify.decode(Output(torch.tensor(logits), torch.empty(0)), None, told)


def test_an_answer_is_the_likeliest_label_with_its_probability():
    (answer,) = answers([[0.0, 2.0, 1.0]], spec())
    assert answer.value == "b"
    assert np.allclose(answer.scores, np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum())
    assert answer.probability == pytest.approx(answer.scores[1])


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_divides_the_logits_and_changes_no_label(temperature):
    warm, plain = (answers([[0.0, 2.0, 1.0]], dataclasses.replace(spec(), temperature=t))[0] for t in (temperature, 1.0))
    assert np.allclose(warm.scores, np.exp(np.array([0, 2, 1]) / temperature) / np.exp(np.array([0, 2, 1]) / temperature).sum())
    assert warm.value == plain.value
    assert (warm.probability > plain.probability) == (temperature < 1)


def test_labels_from_half_on_are_given_as_the_metrics_count_them():
    (answer,) = answers([[-0.5, 2.0, 0.0]], spec(multi_label=True))
    assert answer.value == ["b", "c"]


# Rows to items


def test_a_row_becomes_tokens_and_the_number_of_its_label(tokenizer):
    item = classify.prepare({"text": "my card", "label": "b"}, tokenizer, spec())
    assert item.target == 1
    assert len(item.tokens) == 1
    assert not item.was_cut
    assert classify.prepare({"text": "my card"}, tokenizer, spec()).target is None


def test_several_labels_become_a_vector(tokenizer):
    for label, wanted in ((["a", "c"], [1, 0, 1]), ([], [0, 0, 0]), (["b"], [0, 1, 0])):
        target = classify.prepare({"text": "x", "label": label}, tokenizer, spec(multi_label=True)).target
        assert target.dtype == np.float32
        assert target.tolist() == wanted


def test_an_unknown_label_is_refused_with_the_nearest():
    told = TaskSpec(labels=("refund", "password"))
    nothing = SimpleNamespace(encode=lambda *texts, max_tokens: (None, False))
    with pytest.raises(DataError, match=r"label='refnd': unknown. Did you mean 'refund'. Allowed: password, refund"):
        classify.prepare({"text": "x", "label": "refnd"}, nothing, told)


def test_pairs_have_segments_and_long_texts_are_marked_as_cut(tokenizer):
    pair = classify.prepare({"text": "my card", "text_b": "my order", "label": "a"}, tokenizer, spec())
    assert pair.tokens[0].types.tolist() == sorted(pair.tokens[0].types.tolist())
    assert set(pair.tokens[0].types.tolist()) == {0, 1}
    long = classify.prepare({"text": "my card " * 50, "label": "a"}, tokenizer, spec(max_tokens=8))
    assert long.was_cut
    assert len(long.tokens[0]) == 8
    assert classify.prepare({"text": "my card " * 50, "text_b": "order", "label": "a"}, tokenizer, spec(max_tokens=8)).was_cut


# What is learned from rows, and what may be told


def test_labels_are_sorted_and_weights_are_balanced_up_to_ten():
    made = rows(*"c" * 97, *"b" * 2, "a")
    plain = {"labels": ("a", "b", "c"), "weights": (), "multi_label": False, "label_smoothing": 0.1}
    assert TaskSpec().learned_from(made) == plain | {"pairs": "together"}, "one text a row"
    weights = TaskSpec(class_weights="balanced").learned_from(made)["weights"]
    assert weights == (10.0, 10.0, pytest.approx(100 / (3 * 97)))
    even = TaskSpec(class_weights="balanced").learned_from(rows(*"abc"))
    assert even["weights"] == (1.0, 1.0, 1.0)


def test_lists_of_labels_make_it_multi_label():
    learned = TaskSpec().learned_from(rows(["b", "a"], [], ["c"]))
    assert learned["labels"] == ("a", "b", "c")
    assert learned["multi_label"]


@pytest.mark.parametrize("made", [rows(), rows("a", "a"), rows([], [])])
def test_fewer_than_two_labels_are_refused(made):
    with pytest.raises(DataError, match="A classifier needs two or more"):
        TaskSpec().learned_from(made)


@pytest.mark.parametrize(
    "told",
    [{"label_smoothing": 0.95}, {"label_smoothing": -0.1}, {"focal_gamma": 11}, {"dropout": 1.0},
     {"class_weights": "balance"}, {"pooling": "max"}, {"max_tokens": 3}, {"max_tokens": 10**6}],
)  # fmt: skip
def test_options_out_of_range_are_refused(told):
    with pytest.raises(OptionError, match=next(iter(told))):
        TaskSpec(**told)


def test_a_spec_comes_back_from_json():
    told = TaskSpec(labels=LABELS, weights=(1.0, 2.0, 0.5), temperature=1.3, focal_gamma=1.0)
    assert TaskSpec.from_json(told.to_json()) == told
    with pytest.raises(OptionError, match="lables"):
        TaskSpec.from_json({"lables": ["a"]})

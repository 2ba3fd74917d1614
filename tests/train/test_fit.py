"""The loop: what it does with rates, batches, gradients, bad steps and stops, and that the same seed gives the same bytes."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import test_contract, tiny
from tests.train.samples import Remembered, make_branch, make_data, make_rows, settings, weights, without_seconds
from trunkline import names
from trunkline.errors import OptionError, TrainingError
from trunkline.model.backbone import ALL
from trunkline.model.families import FAMILIES
from trunkline.states.collate import collate
from trunkline.train import fit as fit_module
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import _optimizer, _set_dropout, batches, epochs, fit, head_pace, schedule
from trunkline.train.settings import OPTIMIZERS, SCHEDULES, Settings
from trunkline.types import Tokens

RATE = 5e-3


def train(folder, told, *, rows=None, source=None, seed=0, checkpoints=None, on_step=None, rate=RATE, **branch_told):
    rows = make_rows() if rows is None else rows
    branch = make_branch(folder, rows, **branch_told)
    data = make_data(branch, rows, source and source(branch))
    progress = fit(branch.network, data, told, learning_rate=rate, seed=seed, checkpoints=checkpoints, on_step=on_step)
    return branch, progress


# Rates and passes


def test_epochs_are_as_told_or_as_the_help_says():
    text = re.search(r"about ([\d,]+) steps, (\d+) to (\d+)", Settings.__dataclass_fields__["epochs"].metadata["help"])
    steps, low, high = (int(number.replace(",", "")) for number in text.groups())
    assert epochs(Settings(epochs=7), 10**6) == 7
    assert epochs(Settings(), 1) == high
    assert epochs(Settings(), 10**9) == low
    for wanted in range(low + 1, high):
        rows = steps * 32 // wanted
        assert abs(epochs(Settings(), rows) * rows / 32 - steps) <= rows / 32 / 2 + 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_the_schedule_follows_its_formula(name, warmup):
    steps, told = 200, Settings(schedule=name, warmup=warmup)
    rise = int(warmup * steps)
    got = [schedule(told, step, steps) for step in range(steps)]
    assert got[:rise] == [pytest.approx((step + 1) / (rise + 1)) for step in range(rise)]
    for step in range(rise, steps):
        done = (step - rise) / (steps - rise)
        wanted = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}.get(name, 1.0)
        assert got[step] == pytest.approx(wanted, abs=1e-12)
    assert got[rise] == pytest.approx(1.0)
    assert all(0 < share <= 1 for share in got)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_shortest_schedules_are_above_zero(name, steps):
    assert all(0 < schedule(Settings(schedule=name, warmup=0.9), step, steps) <= 1 for step in range(steps))


def test_without_a_gain_plateau_halves_the_rate(tiny_folder):
    rows, seen = make_rows(), []
    branch = make_branch(tiny_folder("bert"), rows)
    told = settings(schedule="plateau", warmup=0.0, epochs=5, patience=None, head_learning_rate=1e-9)
    progress = fit(
        branch.network,
        make_data(branch, rows),
        told,
        learning_rate=1e-9,
        seed=0,
        on_step=lambda p, steps: seen.append((p.waited, p.factor)),
    )
    assert progress.waited == 4, "at this rate nothing changes, so only the first evaluation is a gain"
    assert progress.factor == 0.5**4
    assert all(factor == 0.5**waited for waited, factor in seen)


def test_the_rate_of_the_head_is_its_own(tiny_folder):
    start = make_branch(tiny_folder("bert"), make_rows())
    before = {name: p.detach().clone() for name, p in start.network.learned().items()}
    told = settings(
        optimizer="sgd", learning_rate=None, head_learning_rate=0.05, weight_decay=0.0, clip=None, epochs=1, batch_size=48, warmup=0.0
    )
    rates = {}
    for head_rate in (0.05, 0.1):
        branch, _ = train(tiny_folder("bert"), settings(**{**told.__dict__, "head_learning_rate": head_rate}), rate=1e-9)
        rates[head_rate] = {name: (p.detach() - before[name]) for name, p in branch.network.learned().items()}
    assert torch.allclose(rates[0.1]["head.linear.weight"], 2 * rates[0.05]["head.linear.weight"], rtol=1e-4, atol=1e-9)
    assert all(change.abs().max() < 1e-6 for name, change in rates[0.1].items() if not name.startswith("head."))


# Batches


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 8), (7, 8), (8, 8), (100, 8), (1000, 32), (33, 1)])
def test_every_row_is_in_one_batch_an_epoch(rows, size):
    lengths = np.random.default_rng(0).integers(1, 60, rows)
    made = batches(lengths, size, seed=3, epoch=2)
    assert sorted(np.concatenate(made).tolist()) == list(range(rows))
    assert [len(batch) for batch in made[:-1]] == [size] * (math.ceil(rows / size) - 1)
    assert len(made) == math.ceil(rows / size)


def test_batches_come_from_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 60, 200)

    def order(seed, epoch):
        return np.concatenate(batches(lengths, 8, seed, epoch)).tolist()

    assert order(1, 1) == order(1, 1)
    different = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for a, b in itertools.combinations(different, 2))


def test_rows_of_like_length_stand_together():
    lengths = np.random.default_rng(0).integers(1, 250, 2000)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches(lengths, 16, 0, 0))
    shuffled = np.random.default_rng(0).permutation(2000).reshape(-1, 16)
    assert padded - lengths.sum() < 0.25 * (sum(16 * lengths[batch].max() for batch in shuffled) - lengths.sum())


# Learning


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(optimizer, tiny_folder):
    rate = {"sgd": 0.02, "rmsprop": 1e-3}.get(optimizer, RATE)
    told = settings(epochs=20, optimizer=optimizer, head_learning_rate=5 * rate, patience=None)
    _, progress = train(tiny_folder("bert"), told, rate=rate)
    losses = [entry["train_loss"] for entry in progress.history]
    assert losses[-1] < 0.85 * math.log(3), "three labels of one size: guessing has a loss of log 3"
    assert progress.best >= 0.6


def test_weight_decay_makes_weights_smaller_but_no_bias(tiny_folder):
    ends = {}
    for decay in (0.0, 5.0):
        branch, _ = train(tiny_folder("bert"), settings(weight_decay=decay, patience=None, epochs=20), rate=1e-3)
        ends[decay] = {n: float(p.detach().norm()) for n, p in branch.network.learned().items()}
    matrices = [n for n, p in branch.network.learned().items() if p.dim() > 1]
    assert sum(ends[5.0][n] for n in matrices) < 0.95 * sum(ends[0.0][n] for n in matrices)
    norms = [n for n in ends[0.0] if "LayerNorm.weight" in n]
    assert norms
    assert all(ends[5.0][n] > 0.95 * ends[0.0][n] for n in norms)


def test_the_gradient_is_clipped_to_the_limit(tiny_folder):
    """Plain SGD without warm-up: the first step is rate x gradient, so its length shows the gradient's."""
    moved = {}
    for clip in (None, 1e-2, 1e6):
        rows = make_rows()
        before = {n: p.detach().clone() for n, p in make_branch(tiny_folder("bert"), rows).network.learned().items()}
        told = settings(optimizer="sgd", clip=clip, epochs=1, batch_size=48, warmup=0.0, weight_decay=0.0, head_learning_rate=1e-3)
        branch, _ = train(tiny_folder("bert"), told, rate=1e-3)
        moved[clip] = (
            math.sqrt(sum(float((p.detach() - before[n]).double().square().sum()) for n, p in branch.network.learned().items())) / 1e-3
        )
    assert moved[1e-2] == pytest.approx(1e-2, rel=1e-2)
    assert moved[None] > 0.1
    assert moved[1e6] == pytest.approx(moved[None], rel=1e-3)


@pytest.mark.parametrize(
    "told", [{}, {"class_weights": "balanced", "label_smoothing": 0.1}, {"focal_gamma": 2.0}], ids=["plain", "weighted", "focal"]
)
@pytest.mark.parametrize("depth", [1, ALL])
def test_accumulation_changes_neither_order_nor_result(depth, told, tiny_folder):
    rows = make_rows(count=45)  # the last batch has 5 rows: parts of unequal size
    rows = type(rows)((*rows.rows, *make_rows(count=7).rows[::3]), "classify")  # and labels of unequal frequency
    ends = {}
    for parts in (1, 2, 4):
        # plain SGD: what Adam makes of a difference in the last bit says nothing of the gradient
        told_now = settings(accumulate=parts, optimizer="sgd", epochs=2, patience=None, head_learning_rate=1e-2, warmup=0.0)
        branch, progress = train(tiny_folder("bert"), told_now, rows=rows, depth=depth, rate=1e-2, **told)
        ends[parts] = [p.detach().clone() for p in branch.network.learned().values()], [entry["train_loss"] for entry in progress.history]
    for parts in (2, 4):
        assert all(torch.allclose(a, b, atol=1e-6, rtol=0) for a, b in zip(ends[1][0], ends[parts][0], strict=True))
        assert np.allclose(ends[1][1], ends[parts][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("task", "family"), [("generate", "llama"), ("seq2seq", "t5"), ("tag", "bert"), ("span", "bert"), ("regress", "bert")]
)
def test_parts_of_unequal_texts_give_the_gradient_of_the_whole(task, family, tiny_folder, monkeypatch):
    rows = test_contract.rows(task)  # answers of 3 to 10 words, so that parts have unequal numbers of tokens
    made = {}
    for most in (None, 10**6, 20):
        monkeypatch.setitem(fit_module._TOKENS_AT_ONCE, "cpu", most or 1)
        parts = 4 if most is None else None
        told = settings(accumulate=parts, optimizer="sgd", epochs=1, patience=None, head_learning_rate=1e-2, warmup=0.0)
        branch = test_contract.make(tiny_folder(family), task, "full", 1)
        progress = fit(branch.network, make_data(branch, rows), told, learning_rate=1e-2, seed=0)
        made[most] = [p.detach().clone() for p in branch.network.learned().values()], progress.history[-1]["train_loss"]
    for most in (None, 20):
        assert all(torch.allclose(a, b, atol=1e-6, rtol=0) for a, b in zip(made[10**6][0], made[most][0], strict=True))
        assert made[most][1] == pytest.approx(made[10**6][1], abs=1e-6)


def test_a_step_is_computed_in_parts_where_texts_are_long(tiny_folder, monkeypatch):
    monkeypatch.setitem(fit_module._TOKENS_AT_ONCE, "cpu", 480)
    rows = make_rows(count=32)
    branch = make_branch(tiny_folder("bert"), rows)
    long = [replace(item, tokens=(Tokens(np.arange(60, dtype=np.int32) % 50),)) for item in branch.prepare(rows)]
    data = replace(make_data(branch, rows), train=long)

    def sizes(data, **told):
        loop = fit_module._Loop(branch.network, data, settings(batch_size=16, **told), 1e-3, 0, None)
        return [len(part) for part in loop.parts(np.arange(16))]

    assert sizes(data) == [8, 8]
    assert sizes(data, accumulate=1) == [16]
    assert sizes(data, accumulate=4) == [4] * 4
    assert sizes(data, objective="mixup") == [16]  # its rows are mixed with each other
    assert sizes(replace(data, train=branch.prepare(rows))) == [16]
    ranked = make_branch(tiny_folder("bert"), test_contract.rows("rank"))
    assert (
        len(fit_module._Loop(ranked.network, make_data(ranked, test_contract.rows("rank")), settings(), 1e-3, 0, None).parts(np.arange(8)))
        == 1
    )


def test_early_stopping_keeps_the_weights_that_were_best(tiny_folder):
    """A rate that is far too large: it gets worse at some point, and what is kept answers as it did at the best step."""
    rows = make_rows()
    branch = make_branch(tiny_folder("bert"), rows)
    data, kept = make_data(branch, rows), {}

    def look(progress, steps):
        kept[progress.step] = weights(branch)

    told = settings(epochs=40, patience=3, evaluate_every=1, metric="macro_f1", head_learning_rate=0.5)
    progress = fit(branch.network, data, told, learning_rate=0.05, seed=0, on_step=look)
    values = [entry["metrics"]["macro_f1"] for entry in progress.history]
    assert progress.step < 40 * 6, "it stopped early"
    assert progress.best == max(values)
    assert progress.best_step == 1 + values.index(max(values))
    assert len(values) == progress.best_step + 3
    assert weights(branch) == kept[progress.best_step]
    assert weights(branch) != kept[progress.step]


def test_a_metric_where_less_is_better_keeps_the_least(tiny_folder):
    _, progress = train(tiny_folder("bert"), settings(metric="mse", epochs=6), rows=make_rows("regress"))
    assert progress.best == min(entry["metrics"]["mse"] for entry in progress.history)
    assert progress.best < progress.history[0]["metrics"]["mse"]


def test_without_patience_it_goes_to_the_end(tiny_folder):
    _, progress = train(tiny_folder("bert"), settings(patience=None, epochs=5), rate=1e-9)
    assert progress.step == 5 * 6
    assert [entry["epoch"] for entry in progress.history] == [1, 2, 3, 4, 5]


def test_an_unknown_metric_and_empty_parts_are_refused(tiny_folder):
    with pytest.raises(OptionError, match="Did you mean 'accuracy'"):
        train(tiny_folder("bert"), settings(metric="acuracy"))
    rows = make_rows()
    branch = make_branch(tiny_folder("bert"), rows)
    with pytest.raises(OptionError, match="0 validation rows"):
        fit(branch.network, make_data(branch, rows, validation=0), settings(), learning_rate=RATE, seed=0)


# Dropout


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) & set(tiny.SIZES)))
def test_the_dropout_setting_reaches_the_layers_of_every_family(model_type, tiny_folder):
    depth = ALL if FAMILIES[model_type].whole_only else 1
    branch = make_branch(tiny_folder(model_type), make_rows(), depth=depth)
    batch = collate(branch.prepare(make_rows(count=8)), branch.source(), branch.spec, branch.backbone.tokenizer.pad_id)

    def passes(share):
        _set_dropout(branch.network, share)
        branch.network.train()
        with torch.no_grad():
            return branch.network(batch).hidden, branch.network(batch).hidden

    assert torch.equal(*passes(0.0))
    assert not torch.equal(*passes(0.5))


def test_dropout_changes_training_and_not_what_is_measured(tiny_folder):
    ends = [weights(train(tiny_folder("bert"), settings(dropout=share))[0]) for share in (0.0, 0.3, 0.3)]
    assert ends[0] != ends[1]
    assert ends[1] == ends[2]


# The same seed, the same bytes


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bytes(threads, tiny_folder):
    rows, before = make_rows(count=300, most_words=40), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        told = settings(dropout=0.1, batch_size=100, epochs=3)
        ends = [train(tiny_folder("bert"), told, rows=rows, dropout=0.1, depth=2) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert weights(ends[0][0]) == weights(ends[1][0])
    assert without_seconds(ends[0][1].history) == without_seconds(ends[1][1].history)


def test_another_seed_gives_other_weights_and_the_global_generator_is_left_alone(tiny_folder):
    branches = []
    for seed in (0, 1):
        rows = make_rows()
        branch = make_branch(tiny_folder("bert"), rows)
        state = torch.random.get_rng_state()
        fit(branch.network, make_data(branch, rows), settings(), learning_rate=RATE, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        branches.append(weights(branch))
    assert branches[0] != branches[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 6, 13])
def test_a_run_that_was_stopped_after_any_step_goes_on_bit_for_bit(stop, optimizer, tiny_folder, tmp_path):
    """Every optimizer's state, an epoch's border, a plateau's factor and the losses that wait for the next evaluation."""
    told = settings(optimizer=optimizer, schedule="plateau", dropout=0.1, evaluate_every=4, patience=None)
    clean, progress = train(tiny_folder("bert"), told, dropout=0.1)

    def interrupt(now, steps):
        if now.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path / "c", {}) as kept:
        train(tiny_folder("bert"), told, checkpoints=kept, on_step=interrupt, dropout=0.1)
    with Checkpoints(tmp_path / "c", {}) as kept:
        assert kept.latest()[1]["step"] == stop
        again, resumed = train(tiny_folder("bert"), told, checkpoints=kept, dropout=0.1)
    assert weights(again) == weights(clean)
    assert without_seconds(resumed.history) == without_seconds(progress.history)


# Losses and gradients that are no numbers


def spoil(*wrong, by=math.inf):
    """A source in which the states of some rows are not finite."""

    def made(branch):
        items = branch.prepare(make_rows())
        return Remembered(branch.source(), {items[row].tokens[0].key: by for row in wrong})

    return made


def is_finite(branch):
    return all(bool(torch.isfinite(p).all()) for p in branch.network.learned().values())


@pytest.mark.parametrize("by", [math.inf, math.nan, -math.inf])
def test_a_row_with_states_that_are_no_numbers_costs_its_steps_and_no_weight(by, tiny_folder):
    seen = []
    told = settings(epochs=4, patience=None)
    branch, progress = train(tiny_folder("bert"), told, source=spoil(30, by=by), on_step=lambda p, _: seen.append(list(p.bad)))
    assert len(progress.bad) == 4, "once an epoch: the step with that row"
    assert sorted({step // 6 for step in progress.bad}) == [0, 1, 2, 3]
    assert seen[-1] == progress.bad
    assert is_finite(branch)
    assert all(math.isfinite(entry["train_loss"]) for entry in progress.history)
    _, clean = train(tiny_folder("bert"), told)
    assert progress.history[-1]["train_loss"] != clean.history[-1]["train_loss"]


def test_a_skipped_step_leaves_the_weights_as_they_were(tiny_folder):
    rows, states = make_rows(), {}
    branch = make_branch(tiny_folder("bert"), rows)

    def look(progress, steps):
        states[progress.step] = weights(branch)

    states[0] = weights(branch)
    progress = fit(
        branch.network, make_data(branch, rows, spoil(20)(branch)), settings(patience=None), learning_rate=RATE, seed=0, on_step=look
    )
    assert progress.bad
    for step in range(progress.step):
        assert (states[step + 1] == states[step]) == (step in progress.bad)


def test_three_bad_steps_in_a_row_end_the_run(tiny_folder):
    seen = []
    with pytest.raises(TrainingError, match="not a finite number, for the 3th time") as caught:
        train(tiny_folder("bert"), settings(), source=spoil(*range(12, 48)), on_step=lambda p, _: seen.append(p.step))
    assert "smaller learning rate" in str(caught.value)
    assert seen == [1, 2]


def test_more_than_one_bad_step_in_a_hundred_ends_the_run(tiny_folder):
    """One bad row: a bad step in each epoch of six, never three in a row; the eleventh within 1,000 steps is one too many."""
    steps = []
    with pytest.raises(TrainingError, match="for the 11th time"):
        train(tiny_folder("bert"), settings(epochs=40, patience=None), source=spoil(30), on_step=lambda p, _: steps.append(p.step))
    assert 60 <= steps[-1] < 66


@pytest.mark.slow
def test_ten_bad_steps_in_a_thousand_are_borne(tiny_folder):
    rows = make_rows(count=120)
    branch = make_branch(tiny_folder("bert"), rows, method="probe", depth=0)
    source = Remembered(branch.source(), {branch.prepare(rows)[30].tokens[0].key: math.inf})
    progress = fit(
        branch.network, make_data(branch, rows, source), settings(epochs=25, batch_size=1, patience=None), learning_rate=1e-3, seed=0
    )
    assert len(progress.bad) == 25, "one in 120 steps: 8 or 9 in any 1,000"
    assert is_finite(branch)


def test_a_loss_that_is_a_number_with_a_gradient_that_is_none_is_skipped_too(tiny_folder, monkeypatch):
    monkeypatch.setitem(names.TASKS, "odd", "tests.train.odd_task")
    plain = make_rows("regress")
    rows = type(plain)(tuple({**row, "label": 101.0} if n == 30 else row for n, row in enumerate(plain)), "odd")
    branch, progress = train(tiny_folder("bert"), settings(metric="mse", patience=None), rows=rows, task="odd")
    assert len(progress.bad) == 3
    assert is_finite(branch)


def test_bad_steps_are_counted_across_a_stop(tiny_folder, tmp_path):
    def interrupt(now, steps):
        if now.step == 27:
            raise KeyboardInterrupt

    told = settings(epochs=40, patience=None)
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path / "c", {}) as kept:
        train(tiny_folder("bert"), told, source=spoil(30), checkpoints=kept, on_step=interrupt)
    with Checkpoints(tmp_path / "c", {}) as kept, pytest.raises(TrainingError, match="for the 11th time"):
        train(tiny_folder("bert"), told, source=spoil(30), checkpoints=kept)


def test_products_in_bfloat16_leave_the_weights_float32_and_learn_the_same(tiny_folder):
    ends = {}
    for precision in ("float32", "bfloat16"):
        branch, progress = train(tiny_folder("bert"), settings(precision=precision, epochs=20, patience=None))
        assert all(p.dtype == torch.float32 for p in branch.network.learned().values())
        ends[precision] = progress.best, progress.history[0]["train_loss"]
    assert ends["float32"][1] != ends["bfloat16"][1], "the products were computed in another format"
    assert ends["float32"][1] == pytest.approx(ends["bfloat16"][1], rel=0.02)
    assert ends["bfloat16"][0] >= 0.9


def test_a_head_that_reads_states_that_vary_little_learns_faster(tiny_folder):
    data_rows = make_rows()
    branch = make_branch(tiny_folder("bert"), data_rows, depth=1)
    data = make_data(branch, data_rows)
    assert head_pace(branch.network, data) == 1.0, "those of a tiny model vary a lot"
    plain = branch.network.head.pooling.forward
    branch.network.head.pooling.forward = lambda hidden, mask: plain(hidden, mask) / 1000
    assert head_pace(branch.network, data) == 32.0, "at most so many times"
    branch.network.head.pooling.forward = lambda hidden, mask: (
        torch.randn(len(hidden), hidden.shape[-1], generator=torch.manual_seed(0)) * 0.03
    )
    pace = head_pace(branch.network, data)
    assert pace == pytest.approx(5, rel=0.1)
    branch.network.head.pooling.forward = lambda hidden, mask: plain(hidden, mask) * float("nan")
    assert head_pace(branch.network, data) == 1.0, "of what is no number nothing is learned"
    told = settings(epochs=1)
    assert _optimizer(branch.network.learned(), told, 3e-4, lambda name: 1.0, pace)[1].count(pace * 5e-3) >= 1
    assert 0.01 in _optimizer(branch.network.learned(), replace(told, head_learning_rate=0.01), 3e-4, lambda name: 1.0, pace)[1]
    assert branch.network.training is True

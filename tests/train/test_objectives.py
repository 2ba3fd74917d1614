"""Objectives: each against its formula, each learns what the plain loss learns, and what is said where one cannot be had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.train.samples import make_branch, make_data, make_rows, settings, weights
from trunkline import names
from trunkline.errors import OptionError
from trunkline.states.collate import collate
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import fit
from trunkline.train.objectives import OBJECTIVES, Mixup, contrast, disagreement, fisher, make
from trunkline.train.tune import tune
from trunkline.types import Batch, Output, Rows

RATE = 5e-3


def begun(folder, task="classify", **told):
    rows = make_rows(task)
    branch = make_branch(folder, rows, **told)
    return branch, make_data(branch, rows)


def one_batch(branch, data, rows=6):
    return collate(data.train[:rows], data.source, branch.spec, data.pad_id), np.arange(rows)


def plain_of(branch):
    return names.task(branch.task).loss


def step_of(choice, branch, data):
    return make(choice, branch.spec.kind).ready(branch.network, data, plain_of(branch))


@pytest.mark.parametrize("choice", ["rdrop", "mixup", "contrast:weight=0.1", "ewc:weighing=none:strength=0.01"])
def test_each_learns_the_rows(choice, tiny_folder):
    branch, data = begun(tiny_folder("bert"), dropout=0.1)
    progress = fit(branch.network, data, settings(objective=choice, epochs=12, patience=None), learning_rate=RATE, seed=0)
    assert progress.best >= 0.8, "the first word says the label: a third would be right by chance"


def test_rdrop_is_both_losses_and_both_divergences(tiny_folder):
    branch, data = begun(tiny_folder("bert"), dropout=0.5)
    batch, indices = one_batch(branch, data)
    branch.network.train()
    torch.manual_seed(3)
    found = step_of("rdrop:alpha=2", branch, data)(branch.network, batch, indices)
    torch.manual_seed(3)
    one, two = branch.network(batch), branch.network(batch)
    first, second = one.logits.log_softmax(1), two.logits.log_softmax(1)
    both = functional.kl_div(first, second, log_target=True, reduction="batchmean") + functional.kl_div(
        second, first, log_target=True, reduction="batchmean"
    )
    plain = plain_of(branch)
    assert float(both.detach()) > 1e-4, "the two passes differ"
    assert float(found.detach()) == pytest.approx(float(((plain(one, batch) + plain(two, batch)) / 2 + 2 * both / 2).detach()), abs=1e-6)


def test_disagreement_of_several_labels_is_that_of_coins():
    one, two = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    p, q = one.sigmoid(), two.sigmoid()
    wanted = ((p - q) * ((p / q).log() - ((1 - p) / (1 - q)).log())).mean() / 2
    assert float(disagreement(one, two, "multi")) == pytest.approx(float(wanted), abs=1e-12)
    assert float(disagreement(one, two, "number")) == pytest.approx(float((one - two).square().mean()), abs=1e-12)
    assert float(disagreement(one, one, "single")) == 0.0


def test_mixup_mixes_states_and_targets_in_the_same_shares(tiny_folder, monkeypatch):
    branch, data = begun(tiny_folder("bert"), "regress")
    batch, indices = one_batch(branch, data)
    other = torch.tensor([1, 2, 3, 4, 5, 0])
    monkeypatch.setattr(Mixup, "draw", lambda self, rows, device: (0.7, other))
    seen: list[Batch] = []

    def run(given: Batch) -> Output:
        seen.append(given)
        return branch.network(given)

    found = step_of("mixup", branch, data)(run, batch, indices)
    assert torch.equal(seen[0].hidden, 0.7 * batch.hidden + (1 - 0.7) * batch.hidden[other])
    assert torch.equal(seen[0].mask, batch.mask | batch.mask[other])
    logits = branch.network(seen[0]).logits
    one, two = (((logits.flatten() - (t - branch.spec.mean) / branch.spec.std) ** 2).mean() for t in (batch.targets, batch.targets[other]))
    assert float(found.detach()) == pytest.approx(float((0.7 * one + 0.3 * two).detach()), rel=1e-5)


def test_the_share_of_the_text_itself_is_the_larger_one_and_follows_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append([Mixup(0.4).draw(5, torch.device("cpu"))[0] for _ in range(50)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0.5 <= share <= 1 for share in drawn[0])
    assert len(set(drawn[0])) > 20


def test_contrast_joins_both_losses(tiny_folder):
    branch, data = begun(tiny_folder("bert"))
    batch, indices = one_batch(branch, data)
    out = branch.network.eval()(batch)
    mean = (out.hidden * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
    wanted = 0.75 * plain_of(branch)(out, batch) + 0.25 * contrast(mean, batch.targets)
    found = step_of("contrast:weight=0.25", branch, data)(branch.network, batch, indices)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


@pytest.mark.parametrize("task", ["classify", pytest.param("regress", marks=pytest.mark.wide)])
def test_distilling_alone_brings_a_shallow_branch_to_its_teachers_answers(task, tiny_folder, tmp_path):
    teacher, data = begun(tiny_folder("bert"), task, depth=2)
    fit(teacher.network, data, settings(epochs=12, patience=None), learning_rate=RATE, seed=0)
    teacher.save(tmp_path / "teacher")
    wrong = replace(data, train=[replace(item, target=type(item.target)(0)) for item in data.train])  # so that only the teacher can teach
    pupil, _ = begun(tiny_folder("bert"), task, depth=1, seed=1)
    wrong = replace(wrong, source=make_data(pupil, make_rows(task)).source, spec=pupil.spec)
    told = settings(objective=f"distil:weight=1.0:teacher={tmp_path / 'teacher'}", epochs=20, patience=None)
    fit(pupil.network, wrong, told, learning_rate=RATE, seed=0)
    one, two = (np.stack([np.atleast_1d(a.scores) for a in branch.answers(data.train)]) for branch in (teacher, pupil))
    if task == "classify":
        assert (one.argmax(1) == two.argmax(1)).mean() >= 0.9
    assert np.abs(one - two).mean() < 0.25 * np.abs(one - one.mean(0)).mean()


def test_distilling_follows_its_formula(tiny_folder, tmp_path):
    teacher, data = begun(tiny_folder("bert"), depth=2)
    teacher.save(tmp_path / "teacher")
    branch, data = begun(tiny_folder("bert"), depth=1, seed=5)
    batch, indices = one_batch(branch, data)
    branch.network.eval()
    found = step_of(f"distil:weight=0.4:temperature=3:teacher={tmp_path / 'teacher'}", branch, data)(branch.network, batch, indices)
    logits = teacher.network.eval()(collate(data.train[:6], teacher.source(), teacher.spec, data.pad_id)).logits
    out = branch.network(batch)
    soft = (logits / 3).softmax(1)
    apart = (soft * (soft.log() - (out.logits / 3).log_softmax(1))).sum(1).mean() * 9
    assert float(found.detach()) == pytest.approx(float((0.6 * plain_of(branch)(out, batch) + 0.4 * apart).detach()), rel=1e-4)


def test_ewc_pulls_back_by_fishers_information(tiny_folder):
    branch, data = begun(tiny_folder("bert"))
    data = replace(data, before=data.train[:5])
    plain, learned = plain_of(branch), branch.network.learned()
    found = fisher(branch.network, data, plain)
    wanted = {name: torch.zeros_like(p) for name, p in learned.items()}
    for item in data.before:
        batch = collate([item], data.source, branch.spec, data.pad_id)
        branch.network.zero_grad()
        plain(branch.network.eval()(batch), batch).backward()
        for name, p in learned.items():
            wanted[name] += p.grad**2 / 5
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-10) for name in learned)
    step, (batch, indices) = step_of("ewc:strength=50", branch, data), one_batch(branch, data)
    at_start = float(step(branch.network, batch, indices).detach())
    assert at_start == pytest.approx(float(plain(branch.network(batch), batch).detach()), rel=1e-6)
    with torch.no_grad():
        for p in learned.values():
            p.add_(0.1)
    pulled = sum(float(0.01 * found[name].sum()) for name in learned)
    moved = float(step(branch.network, batch, indices).detach())
    assert moved == pytest.approx(float(plain(branch.network(batch), batch).detach()) + 25 * pulled, rel=1e-4)


@pytest.mark.parametrize("choice", ["rdrop", "mixup:alpha=0.5"])
def test_a_stopped_run_ends_with_the_same_bytes(choice, tiny_folder, tmp_path):
    told = settings(objective=choice, patience=None)

    def new():
        return begun(tiny_folder("bert"), dropout=0.2)

    def stop(progress, steps):
        if progress.step == 8:
            raise KeyboardInterrupt

    whole, data = new()
    fit(whole.network, data, told, learning_rate=RATE, seed=0)
    branch, data = new()
    with Checkpoints(tmp_path / "c", {}) as kept, pytest.raises(KeyboardInterrupt):
        fit(branch.network, data, told, learning_rate=RATE, seed=0, checkpoints=kept, on_step=stop)
    branch, data = new()
    with Checkpoints(tmp_path / "c", {}) as kept:
        fit(branch.network, data, told, learning_rate=RATE, seed=0, checkpoints=kept)
    assert weights(branch) == weights(whole)


@pytest.mark.parametrize(
    ("choice", "kind", "why"),
    [
        ("rdropp", "single", "Did you mean 'rdrop'"),
        ("rdrop:alfa=1", "single", "Did you mean 'alpha'"),
        ("rdrop:alpha=-1", "single", "use 0.0 to 100.0"),
        ("mixup", "texts", "are of the kind 'texts'"),
        ("contrast", "number", "it is for single"),
        ("distil", "single", "distil:teacher=FOLDER"),
        ("ewc:weighing=fishy", "single", "Did you mean 'fisher'"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(choice, kind, why):
    with pytest.raises(OptionError, match=why):
        make(choice, kind)


def test_every_objective_says_which_answers_it_is_for():
    assert set(OBJECTIVES) == {"plain", "rdrop", "mixup", "contrast", "distil", "ewc"}
    assert all(kind in ("single", "multi", "number") for one in OBJECTIVES.values() for kind in one.kinds)


def test_what_a_run_lacks_is_said(tiny_folder, tmp_path):
    branch, data = begun(tiny_folder("bert"))
    with pytest.raises(OptionError, match="--before FILE"):
        step_of("ewc", branch, data)
    with pytest.raises(OptionError, match="there are none"):
        step_of("mixup", branch, replace(data, source=None))
    other = Rows(tuple(row | {"label": row["label"] + "!"} for row in make_rows()), "classify")
    make_branch(tiny_folder("bert"), other).save(tmp_path / "other")
    with pytest.raises(OptionError, match="other labels"):
        step_of(f"distil:teacher={tmp_path / 'other'}", branch, data)
    make_branch(tiny_folder("roberta"), make_rows()).save(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="on one backbone"):
        step_of(f"distil:teacher={tmp_path / 'elsewhere'}", branch, data)


# Going on from a branch


def said(labels: str, count: int = 60, at: int = 0) -> Rows:
    """Rows in which the first word says the label: "refund" the first of `labels`, "password" the second."""
    rows = [(("refund", "password")[n % 2], " ".join(("my", "order", "today", "please")[: 1 + n % 4]), labels[n % 2]) for n in range(count)]
    return Rows(tuple({"text": f"{word} {rest} {n % 7 + at}", "label": label} for n, (word, rest, label) in enumerate(rows)), "classify")


def accuracy(branch, rows):
    return float(np.mean([answer.value == row["label"] for answer, row in zip(branch.predict([row["text"] for row in rows]), rows)]))


def way(branch, start):
    there = start.network.learned()
    return sum(float((p.detach() - there[name].detach()).square().sum()) for name, p in branch.network.learned().items())


@pytest.mark.wide
def test_going_on_forgets_less_with_rows_of_before(tiny_folder, tmp_path):
    """The new rows say the opposite of the old ones, so whoever learns them has forgotten."""
    told = settings(epochs=10, patience=None, learning_rate=RATE, split="label")
    old, new, few = said("ab"), said("ba"), said("ba", 14, at=7)
    start = tune(old, tiny_folder("bert"), depth=1, settings=told, out=tmp_path / "old")
    assert accuracy(start, old) >= 0.95
    plain = tune(new, settings=told, start=tmp_path / "old")
    assert (plain.depth, plain.method, plain.spec.labels) == (1, "full", ("a", "b"))
    assert accuracy(plain, new) >= 0.7
    assert accuracy(plain, old) <= 0.3
    held = tune(new, settings=replace(told, objective="ewc:strength=1e9"), start=start, before=old)
    assert way(held, start) < 0.5 * way(plain, start)
    assert (
        accuracy(tune(few, settings=told, start=start, before=old), old) >= 0.9 > 0.5 > accuracy(tune(few, settings=told, start=start), old)
    )


def test_what_does_not_go_with_a_start_is_refused(tiny_folder, tmp_path):
    told = settings(epochs=1, learning_rate=RATE)
    old = tune(said("ab"), tiny_folder("bert"), depth=1, settings=told)
    for wrong, told_why in (({"method": "lora"}, "method='lora'"), ({"depth": 2}, "depth=2")):
        with pytest.raises(OptionError, match=told_why):
            tune(said("ba"), settings=told, start=old, **wrong)
    head = tune(said("ab"), tiny_folder("bert"), depth=0, method="probe", settings=told)
    with pytest.raises(OptionError, match="solved anew"):
        tune(said("ba"), settings=told, start=head)

"""AdaLoRA: the budget falls to the ranks that were asked for, and a run that was stopped goes on bit for bit."""

from dataclasses import replace

import pytest
import torch

import trunkline as tl
from tests.train.samples import make_branch, make_data, make_rows, settings, weights, without_seconds
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.methods import adalora
from trunkline.model.injected import injected
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import fit

CONFIG = adalora.Config(rank=2, initial_rank=4, rise=0.2, rest=0.3, every=2)


def new(folder, config=CONFIG):
    plain = make_branch(folder, make_rows(), method="probe")
    torch.manual_seed(0)
    return Branch.new(plain.backbone, plain.spec, "adalora", config, 1, "float32")


def train(branch, told, on_step=None, checkpoints=None):
    data = make_data(branch, make_rows())
    return fit(branch.network, data, told, learning_rate=5e-3, seed=0, on_step=on_step, checkpoints=checkpoints)


def test_the_ranks_fall_to_the_budget_and_stay(tiny_folder):
    branch, seen = new(tiny_folder("bert")), []

    def note(progress, steps):
        seen.append(sum(adalora.ranks(branch.network).values()))

    progress = train(branch, settings(epochs=5, patience=None), note)
    targets = len(injected(branch.network))
    assert len(seen) == 30
    assert seen[5] == 4 * targets, "up to the end of the rise all are there"
    reached = 30 - int(0.3 * 30)
    assert seen[reached - 1] == 2 * targets, "at the end of the fall the mean is the rank that was asked for"
    assert seen[reached:] == [2 * targets] * (30 - reached)
    fall = seen[5 : reached - 1 : 2]
    assert fall[-1] < fall[0], "they fall on the way"
    assert len(set(adalora.ranks(branch.network).values())) > 1, "some targets get more than others"
    assert progress.best_step >= reached, "weights of a larger rank are never the best"
    assert sum(adalora.ranks(branch.network).values()) == 2 * targets
    assert branch.network.guide.about(branch.network) == {"ranks": adalora.ranks(branch.network)}


@pytest.mark.parametrize("stop_at", [14, *(pytest.param(step, marks=pytest.mark.wide) for step in (1, 7, 21, 22, 27))])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(stop_at, tiny_folder, tmp_path):
    told = settings(epochs=5, patience=None)
    whole = new(tiny_folder("bert"))
    wanted = train(whole, told)

    def stop(progress, steps):
        if progress.step == stop_at:
            raise KeyboardInterrupt

    with Checkpoints(tmp_path / "checkpoints", {}) as kept, pytest.raises(KeyboardInterrupt):
        train(new(tiny_folder("bert")), told, stop, kept)
    again = new(tiny_folder("bert"))
    with Checkpoints(tmp_path / "checkpoints", {}) as kept:
        got = train(again, told, checkpoints=kept)
    assert weights(again) == weights(whole)
    assert without_seconds(got.history) == without_seconds(wanted.history)


@pytest.mark.wide
def test_without_what_it_keeps_a_stopped_run_would_end_otherwise(tiny_folder, tmp_path, monkeypatch):
    """So the test before this one can fail."""
    told = settings(epochs=5, patience=None)
    whole, again = new(tiny_folder("bert")), new(tiny_folder("bert"))
    train(whole, told)

    def stop(progress, steps):
        if progress.step == 14:
            raise KeyboardInterrupt

    with Checkpoints(tmp_path / "checkpoints", {}) as kept, pytest.raises(KeyboardInterrupt):
        train(new(tiny_folder("bert")), told, stop, kept)
    monkeypatch.setattr(type(again.network.guide), "restore", lambda *given: None)
    with Checkpoints(tmp_path / "checkpoints", {}) as kept:
        train(again, told, checkpoints=kept)
    assert weights(again) != weights(whole)


def test_the_penalty_is_that_of_equation_4(tiny_folder):
    branch = new(tiny_folder("bert"), replace(CONFIG, orthogonality=0.5))
    layers = injected(branch.network).values()
    apart = []
    for layer in layers:
        a, b = layer.lora_A["default"].detach(), layer.lora_B["default"].detach()
        apart += [torch.linalg.matrix_norm(a @ a.T - torch.eye(4)), torch.linalg.matrix_norm(b.T @ b - torch.eye(4))]
    wanted = 0.5 * float(sum(apart)) / len(apart)
    assert float(branch.network.guide.penalty(branch.network).detach()) == pytest.approx(wanted, rel=1e-5)
    assert new(tiny_folder("bert"), replace(CONFIG, orthogonality=0.0)).network.guide.penalty(None) == 0.0


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_runs_reach_the_budget(epochs, tiny_folder):
    branch = new(tiny_folder("bert"), adalora.Config(rank=2, initial_rank=4))
    train(branch, settings(epochs=epochs, batch_size=48))
    ranks = adalora.ranks(branch.network)
    assert sum(ranks.values()) <= 2 * len(ranks)


def test_a_schedule_without_room_is_refused():
    with pytest.raises(OptionError, match=r"together at most 0\.9"):
        adalora.Config(rise=0.5, rest=0.5)


def test_tune_takes_it_from_rows_to_a_report_with_ranks(tiny_folder, cache):
    """Early evaluations have no best yet, and nothing may stumble over that."""
    told = settings(epochs=4, patience=1, states="float32")
    branch = tl.tune(make_rows(count=60), tiny_folder("bert"), method="adalora:rest=0.2:initial_rank=4:rank=2", depth=1, settings=told)
    ranks = branch.report.model["ranks"]
    assert sum(ranks.values()) == 2 * len(ranks)
    assert len(branch.report.history[0]) >= 4, "patience counts from where the ranks are there"
    assert "Ranks" in branch.report.html("en")

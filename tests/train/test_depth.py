"""The search for a depth: what it tries, when it ends, what it takes, and that it is found again after a stop."""

from dataclasses import replace

import numpy as np
import pytest

import trunkline as tl
from tests.train.samples import make_branch, make_rows
from trunkline.branch import run
from trunkline.data.read import read
from trunkline.errors import OptionError, TrainingError
from trunkline.evaluation.report import Report
from trunkline.model.backbone import ALL, Lift, load_backbone
from trunkline.states.held import HeldStates
from trunkline.states.live import LiveStates
from trunkline.train import depth as depths
from trunkline.train import fit as fitting
from trunkline.train import tune as tuning
from trunkline.train.depth import Trial, _Searching, candidates
from trunkline.train.settings import Settings
from trunkline.train.start import solve_head

WEIGHTED = "class_weights=balanced"
"""A loss that is trained in steps even at depth 0, and for which few rows a class are not tuned in the way of few.py."""
FAST = Settings(epochs=1, batch_size=8, validation=0.3, test=0.2, threads=1, budget="1h", task_options=WEIGHTED)


@pytest.fixture(autouse=True)
def _own_cache(cache):
    """Every test fills a states store of its own."""


@pytest.fixture
def model(tiny_folder):
    return tiny_folder("bert")


def rows(count=60):
    return read(list(make_rows(count=count).rows))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "t5", "modernbert", "distilbert"])
def test_states_lifted_to_a_higher_cut_are_those_of_that_cut(family, tiny_folder):
    branch = make_branch(tiny_folder(family), make_rows(), depth=2)
    tokens = [item.tokens[0] for item in branch.prepare(make_rows())]
    for high in (2, 1, 0):
        wanted = LiveStates(branch.backbone.trunk(high)).read(tokens)
        held = HeldStates(tokens, LiveStates(branch.backbone.trunk(2)), Lift(branch.backbone, 2, high), "float32").read(tokens)
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(held, wanted, strict=True))


def test_states_are_never_lifted_down(model):
    with pytest.raises(OptionError, match="go up only"):
        Lift(load_backbone(model), 1, 2)


def test_candidates_are_shallow_first(model, tiny_folder):
    assert candidates(load_backbone(model)) == [0, 1, 2, ALL]
    assert candidates(load_backbone(tiny_folder("albert"))) == [0, ALL]
    assert candidates(load_backbone(model, trunk_precision="int8")) == [0, 1, 2], "there is no trunk where the whole model learns"


def test_auto_is_the_default_and_says_what_it_tried(model, tmp_path):
    branch = tl.tune(rows(), model, settings=FAST, out=tmp_path / "run")
    found = branch.report.search
    assert branch.depth == found["depth"] in [trial["depth"] for trial in found["trials"]]
    assert f"Depth {branch.depth} was chosen" in str(branch.report)
    assert "search" in branch.report.cost["seconds"]
    assert Report.from_json((tmp_path / "run" / "report.json").read_bytes()) == branch.report


def test_a_budget_that_is_used_up_ends_it_with_what_was_found(model):
    found = tl.tune(rows(), model, settings=replace(FAST, budget="0s")).report.search
    assert [trial["depth"] for trial in found["trials"]] == [0]
    assert "budget of 0s" in found["why"]


def test_what_was_found_before_a_stop_is_not_searched_again(model, tmp_path, monkeypatch):
    stop_before_the_end(model, tmp_path / "run", monkeypatch, FAST)
    monkeypatch.setattr(tuning, "search", lambda *args: pytest.fail("searched again"))
    assert tl.tune(rows(), model, settings=FAST, out=tmp_path / "run").report.search["trials"]


def stop_before_the_end(model, out, monkeypatch, settings):
    """A run that is stopped when everything is tuned and nothing is saved."""

    def stopped(*args, **told):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "account", stopped)
        with pytest.raises(KeyboardInterrupt):
            tl.tune(rows(), model, settings=settings, out=out)


LEARNS = replace(FAST, epochs=3)


def test_the_chosen_trial_on_all_rows_is_the_run_itself(model, monkeypatch):
    monkeypatch.setattr(tuning, "fit", lambda *args, **told: pytest.fail("trained again"))
    branch = tl.tune(rows(), model, settings=LEARNS)
    chosen = [trial for trial in branch.report.search["trials"] if trial["depth"] == branch.depth]
    assert branch.report.history[0][-1]["step"] > 0
    assert max(entry["metrics"]["accuracy"] for entry in branch.report.history[0]) in [trial["value"] for trial in chosen]
    assert branch.report.cost["seconds"]["tune"] > 0


@pytest.mark.wide
def test_more_seeds_are_trained_beside_the_trial_that_is_kept(model):
    report = tl.tune(rows(), model, settings=replace(LEARNS, seeds=2)).report
    assert len(report.history) == 2


def test_the_kept_trial_is_the_same_after_a_stop_bit_for_bit(model, tmp_path, monkeypatch):
    tl.tune(rows(), model, settings=LEARNS, out=tmp_path / "clean")
    stop_before_the_end(model, tmp_path / "run", monkeypatch, LEARNS)
    monkeypatch.setattr(tuning, "search", lambda *args: pytest.fail("searched again"))
    tl.tune(rows(), model, settings=LEARNS, out=tmp_path / "run")
    clean, run = (tmp_path / name / "branch.safetensors" for name in ("clean", "run"))
    assert clean.read_bytes() == run.read_bytes()


@pytest.mark.wide
def test_a_search_that_was_stopped_before_it_was_written_down_begins_anew(model, tmp_path, monkeypatch):
    tl.tune(rows(), model, settings=LEARNS, out=tmp_path / "clean")
    stop_before_the_end(model, tmp_path / "run", monkeypatch, LEARNS)
    (tmp_path / "run.checkpoints/search.json").unlink()
    tl.tune(rows(), model, settings=LEARNS, out=tmp_path / "run")
    assert (tmp_path / "clean/branch.safetensors").read_bytes() == (tmp_path / "run/branch.safetensors").read_bytes()


def test_checkpoints_of_other_settings_are_not_thrown_away(model, tmp_path, monkeypatch):
    stop_before_the_end(model, tmp_path / "run", monkeypatch, LEARNS)
    with pytest.raises(OptionError, match="epochs"):
        tl.tune(rows(), model, settings=replace(LEARNS, epochs=2), out=tmp_path / "run")


def searching(values, rates=None):
    """A search whose trials are made up: `values` gives the rows answered rightly, by depth."""
    made = object.__new__(_Searching)
    made.metric, made.truth, made.trials, made.started, made.budget = "accuracy", np.zeros(200, dtype=int), [], 0.0, float("inf")
    made.depths, made.settings, made.train, made.validation = list(values), Settings(), [], [None] * 200
    made.backbone = type("Layers", (), {"layers": 6})
    made.left, made.share = lambda: float("inf"), 1.0

    def trial(depth, rate=1.0):
        right = (rates or {}).get(rate, values[depth]) if rate != 1.0 else values[depth]
        scores = np.eye(2)[(np.arange(200) >= right).astype(int)]
        return Trial(depth, rate, right / 200, 1.0, scores)

    made.trial = trial
    return made


def planned(seconds, *, train=2000, validation=1000, settings=None, whole=True):
    """A search before its first trial, on a machine that takes `seconds` for a row and a layer, with 6 layers and two minutes."""
    made = searching({0: 1, 1: 1, 2: 1, 3: 1, ALL: 1})
    made.settings, made.train, made.validation, made.whole = settings or Settings(), [None] * train, [None] * validation, whole
    made.left, made.measured, made.lowest = lambda: 120.0, lambda states: seconds, 3
    made.plan(None)
    return made


def test_a_fast_machine_tries_the_run_itself():
    made = planned(1e-6)
    assert (made.whole, made.settings.epochs, len(made.train)) == (True, None, 2000)


def test_fewer_passes_come_before_fewer_rows():
    made = planned(9e-4)
    assert (made.whole, made.settings.epochs, len(made.train), len(made.validation)) == (False, 6, 2000, 1000)


def test_rows_are_taken_away_until_all_cuts_fit_into_the_budget():
    found = [len(planned(seconds).train) for seconds in (9e-4, 2e-3, 4e-3, 8e-3)]
    assert found == sorted(found, reverse=True)
    assert 300 < found[1] < 2000
    assert len(planned(1.0).train) == 300, "never fewer, however slow the machine is"


def test_few_rows_are_all_taken_without_measuring():
    assert planned(1.0, train=300, validation=40).whole


def test_a_speed_is_measured_without_a_mark_on_the_model(model):
    backbone = load_backbone(model)
    before = backbone.id, [p.clone() for p in backbone.stack.parameters()]
    branch = make_branch(model, make_rows())
    items = branch.prepare(make_rows())
    made = searching({0: 1})
    made.settings, made.train, made.validation, made.lowest, made.backbone = FAST, items, items[:5], 2, backbone
    made.make = lambda depth, seed: make_branch(model, make_rows(), depth=depth)
    assert 0 < made.measured(lambda depth, some: LiveStates(backbone.trunk(depth))) < 1
    assert all((a == b).all() for a, b in zip(before[1], backbone.stack.parameters()))


def ended_by_the_budget(values):
    made = searching(values)
    left = iter([float("inf")] * (len(values) - 2) + [-1.0] * 9)
    made.left, made.budget = lambda: next(left), 120.0
    return made.result()


def test_where_each_deeper_cut_was_clearly_better_and_the_budget_ended_the_next_is_taken_untried():
    found = ended_by_the_budget({0: 100, 1: 140, 2: 180, 3: 190})
    assert (found.depth, found.fitted) == (3, None)
    assert [trial.depth for trial in found.trials] == [0, 1, 2], "and no other rate of a depth that is not taken"
    assert found.learning_rate == found.trials[-1].learning_rate
    assert "each deeper cut that was tried was clearly better" in found.why
    assert "To try it: --budget 3m; for less time: --depth 2" in found.why


def test_where_deeper_cuts_no_longer_gained_the_budget_only_says_that_it_ended():
    found = ended_by_the_budget({0: 100, 1: 180, 2: 181, 3: 190})
    assert "ended the search before depth 3" in found.why
    assert "--budget" not in found.why


def test_a_head_alone_that_is_ahead_of_few_steps_does_not_end_what_is_rising():
    found = searching({0: 100, 1: 20, 2: 60, 3: 120, 4: 160, 6: 165}).result()
    assert [trial.depth for trial in found.trials][:6] == [0, 1, 2, 3, 4, 6]
    assert found.depth == 6
    ended = ended_by_the_budget({0: 100, 1: 20, 2: 60, 3: 110, 4: 160})
    assert (ended.depth, ended.fitted) == (4, None), "which was not tried: the last one is not behind the head alone"
    ended = ended_by_the_budget({0: 100, 1: 20, 2: 60, 3: 160})
    assert ended.depth == 0, "the last one that was tried is still behind the head alone"
    assert "--budget" not in ended.why


def test_where_no_trial_learns_anything_half_of_the_layers_are_taken_and_not_the_head_alone():
    made = searching({0: 0, 1: 0, 2: 0, 3: 0, ALL: 0})
    made.lowest = 3
    found = made.result()
    assert (found.depth, found.fitted, len(found.trials)) == (3, None, 5), "that three cuts in a row bring nothing ends nothing"
    assert "no trial learned anything" in found.why
    assert searching({0: 200, 1: 200, 2: 200}).result().depth == 0, "where all is right, all was learned"


def test_the_smallest_depth_within_one_standard_error_is_taken():
    found = searching({0: 120, 1: 179, 2: 180, 3: 180, ALL: 180}).result()
    assert found.depth == 1
    assert "within one standard error of depth 2" in found.why


def test_the_search_ends_after_two_cuts_that_bring_nothing():
    found = searching({0: 150, 1: 149, 2: 148, 3: 200}).result()
    assert [trial.depth for trial in found.trials] == [0, 1, 2]
    assert found.depth == 0


def test_the_whole_model_is_taken_where_it_wins_clearly():
    assert searching({0: 100, 1: 120, 2: 140, ALL: 190}).result().depth == ALL


def test_another_learning_rate_is_taken_only_when_it_is_clearly_better():
    assert searching({0: 100, 1: 150}, {1 / 3: 150, 3.0: 190}).result().learning_rate == 3.0
    assert searching({0: 100, 1: 150}, {1 / 3: 150, 3.0: 150}).result().learning_rate == 1.0


def test_a_learning_rate_that_does_not_train_is_no_candidate():
    made = searching({0: 100, 1: 150})
    plain = made.trial

    def trial(depth, rate=1.0):
        if rate > 1:
            raise TrainingError("the loss is not a finite number")
        return plain(depth, rate)

    made.trial = trial
    assert made.result().learning_rate == 1.0


def test_a_metric_whose_least_value_is_best():
    made = searching({0: 100, 1: 150})
    made.metric = "mse"
    assert made.goodness(Trial(0, 1.0, 0.5, 1.0)) < made.goodness(Trial(1, 1.0, 0.25, 1.0))


def test_a_guess_at_the_time_grows_with_the_layers():
    made = searching({0: 1})
    made.trials = [Trial(0, 1.0, 0.5, 1.0), Trial(1, 1.0, 0.5, 5.0)]
    assert made.needed(2) == pytest.approx(9.0)
    assert made.needed(ALL) > made.needed(3) > made.needed(2)


@pytest.mark.parametrize("value", ["", "5", "m", "5 m", "-5m", "5d"])
def test_a_budget_that_is_no_time_is_refused(value):
    with pytest.raises(OptionError, match="budget"):
        Settings(budget=value)


def test_a_method_that_learns_a_head_alone_has_no_depth_to_search_for(model):
    search = tl.tune(rows(), model, method="probe", settings=FAST).report.search
    assert [trial["depth"] for trial in search["trials"]] == [0]
    assert search["why"] == "the best of those tried; a head alone is the same at all depths"


@pytest.mark.parametrize("depth", [0, 1])
def test_a_head_alone_is_solved_without_a_step(depth, model):
    branch = tl.tune(rows(), model, method="probe", depth=depth, settings=Settings(epochs=1, threads=1))
    untuned, tuned = branch.report.results[-2:]
    assert [entry["step"] for entry in branch.report.history[0]] == [0]
    assert tuned["metrics"]["accuracy"]["value"] == untuned["metrics"]["accuracy"]["value"]


def test_a_number_is_solved_too(model):
    branch = tl.tune(read(list(make_rows("regress", 60).rows), "regress"), model, depth=0, settings=Settings(threads=1))
    untuned, tuned = branch.report.results[-2:]
    assert tuned["metrics"]["mse"]["value"] == pytest.approx(untuned["metrics"]["mse"]["value"], rel=1e-3)


def test_a_weighted_loss_is_trained_in_steps(model):
    settings = Settings(epochs=1, threads=1, task_options=WEIGHTED)
    assert tl.tune(rows(), model, depth=0, settings=settings).report.history[0][-1]["step"] > 0


def test_only_a_plain_linear_head_is_solved(model):
    for told in ({"method": "full", "depth": 1}, {"method": "probe", "depth": 1, "pooling": "attention"}):
        assert not solve_head(make_branch(model, make_rows(), **told), None)


def test_a_trial_that_is_not_the_run_is_measured_once_and_on_all_rows_that_there_are_to_choose_by(model, monkeypatch):
    monkeypatch.setattr(depths, "TRAIN_ROWS", 20)
    looked: dict = {depths: [], fitting: []}
    for where in looked:
        monkeypatch.setattr(where, "run", lambda *given, where=where: looked[where].append(len(given[2])) or run(*given))
    trials = tl.tune(rows(), model, settings=replace(FAST, epochs=3)).report.search["trials"]
    assert looked[depths] == [12] * len(trials)
    assert looked[fitting] == [1] + [1] * len(trials) + [12] * 3, "once for the speed; and the run itself after each epoch"


def test_trials_use_at_most_so_many_rows(model, monkeypatch):
    monkeypatch.setattr(depths, "TRAIN_ROWS", 20)
    monkeypatch.setattr(depths, "VALIDATION_ROWS", 10)
    assert tl.tune(rows(), model, settings=FAST).report.search["rows"] == [20, 10]

"""The search for a depth: what it tries, when it ends, what it takes, and that it is found again after a stop."""

import numpy as np
import pytest

import trunkline as tl
from tests.train.samples import make_branch, make_rows
from trunkline.data.read import read
from trunkline.errors import OptionError, TrainingError
from trunkline.evaluation.report import Report
from trunkline.model.backbone import ALL, Lift, load_backbone
from trunkline.states.held import HeldStates
from trunkline.states.live import LiveStates
from trunkline.train import depth as depths
from trunkline.train import tune as tuning
from trunkline.train.depth import Trial, _Searching, candidates
from trunkline.train.settings import Settings
from trunkline.train.start import solve_head

FAST = Settings(epochs=1, batch_size=8, validation=0.3, test=0.2, threads=1, budget="1h")


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
    found = tl.tune(rows(), model, settings=Settings(epochs=1, budget="0s", threads=1)).report.search
    assert [trial["depth"] for trial in found["trials"]] == [0]
    assert "budget of 0s" in found["why"]


def test_what_was_found_before_a_stop_is_not_searched_again(model, tmp_path, monkeypatch):
    def stopped(*args, **told):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Job, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            tl.tune(rows(), model, settings=FAST, out=tmp_path / "run")
    monkeypatch.setattr(tuning, "search", lambda *args: pytest.fail("searched again"))
    assert tl.tune(rows(), model, settings=FAST, out=tmp_path / "run").report.search["trials"]


def searching(values, rates=None):
    """A search whose trials are made up: `values` gives the rows answered rightly, by depth."""
    made = object.__new__(_Searching)
    made.metric, made.truth, made.trials, made.started, made.budget = "accuracy", np.zeros(200, dtype=int), [], 0.0, float("inf")
    made.depths, made.settings, made.train, made.validation = list(values), Settings(), [], [None] * 200
    made.backbone = type("Layers", (), {"layers": 6})
    made.left = lambda: float("inf")

    def trial(depth, rate=1.0):
        right = (rates or {}).get(rate, values[depth]) if rate != 1.0 else values[depth]
        scores = np.eye(2)[(np.arange(200) >= right).astype(int)]
        return Trial(depth, rate, right / 200, 1.0, scores)

    made.trial = trial
    return made


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
    settings = Settings(epochs=1, threads=1, task_options="class_weights=balanced")
    assert tl.tune(rows(), model, depth=0, settings=settings).report.history[0][-1]["step"] > 0


def test_only_a_plain_linear_head_is_solved(model):
    for told in ({"method": "full", "depth": 1}, {"method": "probe", "depth": 1, "pooling": "attention"}):
        assert not solve_head(make_branch(model, make_rows(), **told), None)


def test_trials_use_at_most_so_many_rows(model, monkeypatch):
    monkeypatch.setattr(depths, "TRAIN_ROWS", 20)
    monkeypatch.setattr(depths, "VALIDATION_ROWS", 10)
    assert tl.tune(rows(), model, settings=FAST).report.search["rows"] == [20, 10]

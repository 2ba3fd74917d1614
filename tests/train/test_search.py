"""The search for options: what it tries, that it finds what is planted, goes on after a stop, and says what it did."""

import json

import numpy as np
import pytest

import trunkline as tl
from tests.test_cli import messages, type_in, write  # noqa: F401  (a fixture)
from tests.train.samples import make_rows, settings
from trunkline.branch import load
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.evaluation.metrics import compute
from trunkline.model.backbone import AUTO, load_backbone
from trunkline.train import search as module
from trunkline.train.fit import fit
from trunkline.train.search import search_options
from trunkline.train.settings import Settings
from trunkline.train.space import RATE, Range, size, space_of, values_of
from trunkline.types import Rows


def some_rows(count=90):
    return Rows(tuple({"text": text, "label": label} for text, label in messages(count)), "classify")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def found(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
        told = settings(test=0.3, validation=0.3, states="float32")
        space = {"learning_rate": "1e-9,0.01", "depth": "1,2", "batch_size": "8", "weight_decay": "0", "dropout": "0"}
        return search_options(some_rows(), tiny_folder("bert"), trials=4, space=space, settings=told, out=home / "run"), home


def test_values_are_read_as_lists_and_ranges():
    assert values_of("batch_size", "16,32") == (16, 32)
    assert values_of("learning_rate", "1e-5..1e-2") == Range(1e-5, 1e-2, log=True)
    assert values_of("epochs", "2..12") == Range(2, 12, whole=True)
    assert values_of("dropout", "0.0..0.3") == Range(0.0, 0.3)
    assert values_of("clip", "none,1") == (None, 1.0)
    assert values_of("objective", "plain,rdrop:alpha=1") == ("plain", "rdrop:alpha=1")


@pytest.mark.parametrize(
    ("name", "text"),
    [("learning_rate", "0..1"), ("learning_rate", "1e-2..1e-4"), ("epochs", "1.5..3"), ("schedule", "linear..cosine"), ("epochs", "few")],
)
def test_what_is_no_range_is_refused_in_one_line(name, text):
    with pytest.raises(OptionError, match=name) as caught:
        values_of(name, text)
    assert "\n" not in str(caught.value)


def test_the_space_is_the_usual_one_where_nothing_was_told(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    space = space_of({}, "full,lora", AUTO, Settings(batch_size=48), backbone)
    assert space["method"] == ("full", "lora")
    assert set(space["depth"]) <= set(range(backbone.layers + 1)), "not all: it would be most of the time"
    assert space[RATE] == Range(0.1, 10.0, log=True)
    assert "batch_size" not in space, "it was told"
    told = space_of({"learning_rate": "0.1..10"}, "full", AUTO, Settings(), backbone)
    assert RATE not in told, "what was told is a rate, and no factor"
    assert told["learning_rate"] == Range(0.1, 10.0, log=True)
    assert size(space) == float("inf")
    assert size(space_of({"learning_rate": "0.1,0.2", "dropout": "0"}, "full", 1, Settings(batch_size=8, weight_decay=0), backbone)) == 2
    with pytest.raises(OptionError, match=r"'seeds'.*learning_rate"):
        space_of({"seeds": "1,2"}, "full", AUTO, Settings(), backbone)
    with pytest.raises(OptionError, match="depth=9"):
        space_of({"depth": "1,9"}, "full", AUTO, Settings(), backbone)


def test_it_takes_the_options_that_train_and_tunes_with_them(found):
    searched, home = found
    assert len(searched.trials) == 4
    assert searched.best.options["learning_rate"] == 0.01, "at 1e-9 nothing is learned"
    assert searched.best.value == max(one.value for one in searched.trials)
    branch = load(home / "run")
    assert branch.depth == searched.best.options["depth"]
    assert branch.report.settings["learning_rate"] == 0.01
    assert branch.report.search["trials"][0]["value"] == searched.best.value
    assert "learning_rate=0.01" in str(branch.report), "the report says what was searched"
    assert "Search for options" in branch.report.html()
    assert "选项的搜索" in branch.report.html("zh")
    assert "best 4 of 4 trials" in str(searched)
    assert not (home / "run.search.json").exists(), "nothing to go on from is left"
    json.dumps(searched.to_json())


def test_a_trial_has_the_value_of_tuning_alone_with_its_options(found, tiny_folder, home):
    """The best trial's value is that of the branch that was tuned with its options, on the validation rows."""
    searched, _ = found
    parts = split(some_rows(), test=0.3, validation=0.3)
    answers = searched.branch.predict(parts.validation)
    truth = np.array([searched.branch.spec.labels.index(row["label"]) for row in parts.validation])
    assert compute(["accuracy"], truth, np.stack([a.scores for a in answers]))["accuracy"] == pytest.approx(searched.best.value)


def test_a_search_that_was_stopped_goes_on(tiny_folder, home, monkeypatch):
    told = settings(test=0.3, validation=0.3, states="float32", epochs=1)
    space = {"learning_rate": "0.001..0.01", "batch_size": "8,16"}
    tuned = []

    def stopping(*args, **more):
        tuned.append(1)
        if len(tuned) == 3:
            raise KeyboardInterrupt
        return fit(*args, **more)

    monkeypatch.setattr(module, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        search_options(some_rows(60), tiny_folder("bert"), trials=4, depth=1, space=space, settings=told, out=home / "run")
    kept = json.loads((home / "run.search.json").read_text())["trials"]
    assert len(kept) == 2
    found = search_options(some_rows(60), tiny_folder("bert"), trials=4, depth=1, space=space, settings=told, out=home / "run")
    assert [one.options for one in found.trials[:2]] == [one["options"] for one in kept]
    assert len(tuned) == 5, "two before the stop, the one that was stopped, and the two that were left"


def test_bad_trials_end_early_and_do_not_win(tiny_folder, home, monkeypatch):
    """Once there is a median, a trial that is below it after two epochs ends."""
    monkeypatch.setattr(module, "_FIRST", 1)
    told = settings(test=0.3, validation=0.3, states="float32", epochs=6, patience=None)
    space = {"learning_rate": "0.01,1e-9", "weight_decay": "0,0.01,0.02"}
    found = search_options(some_rows(), tiny_folder("bert"), trials=6, depth=1, space=space, settings=told)
    early = [one for one in found.trials if one.early]
    assert all(one.options["learning_rate"] == 1e-9 for one in early)
    assert found.best.options["learning_rate"] == 0.01


def test_of_a_metric_that_is_better_the_lower_it_is_the_lowest_wins(tiny_folder, home):
    told = settings(test=0.3, validation=0.3, states="float32", metric="mse", epochs=2)
    space = {"learning_rate": "0.01,1e-9", "batch_size": "8", "dropout": "0", "weight_decay": "0"}
    found = search_options(make_rows("regress", 60), tiny_folder("bert"), trials=2, depth=1, space=space, settings=told)
    assert {one.options["learning_rate"] for one in found.trials} <= {0.01, 1e-9}
    assert found.best.value == min(one.value for one in found.trials)
    assert found.branch.report.search["trials"][0]["value"] == found.best.value


def test_nothing_to_search_is_said(tiny_folder, home):
    space = {"learning_rate": "0.01", "batch_size": "8", "weight_decay": "0", "dropout": "0"}
    with pytest.raises(OptionError, match="nothing to search"):
        search_options(some_rows(), tiny_folder("bert"), trials=3, depth=1, space=space)
    with pytest.raises(OptionError, match="search=0"):
        search_options(some_rows(), tiny_folder("bert"), trials=0)
    with pytest.raises(OptionError, match="10x"):
        search_options(some_rows(), tiny_folder("bert"), trials="10x")


def test_from_the_command_line(tiny_folder, home, type_in):  # noqa: F811
    file = str(write(home / "messages.csv", ["text", "label"], messages(90)))
    model = str(tiny_folder("bert"))
    told = ("--depth", "1", "--epochs", "2", "--space", "learning_rate=0.003,0.01")
    done = type_in("tune", file, "--model", model, *told, "--search", "2", "--out", str(home / "run"))
    assert done.code == 0, done.err
    assert "of 2 trials" in done.out + done.err
    assert tl.load(home / "run").depth == 1
    for wrong, said in ((("--space", "epochs=2,3"), "--search 30"), (("--search", "2", "--space", "epochs"), "low..high"),
                        (("--search", "2", "--with", "other.csv"), "--with and --search")):  # fmt: skip
        done = type_in("tune", file, "--model", model, *wrong)
        assert done.code == 2
        assert said in done.out + done.err

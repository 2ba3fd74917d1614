"""Several methods on the same split and states, in one table: its numbers are those of the branches, and it says what is shown."""

import json

import numpy as np
import pytest

import trunkline as tl
from tests.test_cli import messages, type_in, write  # noqa: F401  (a fixture)
from tests.train.samples import settings
from trunkline.branch import load
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.evaluation.baselines.labels import baselines
from trunkline.evaluation.interval import paired
from trunkline.evaluation.metrics import compute
from trunkline.model.backbone import load_backbone
from trunkline.train.compare import compare
from trunkline.types import Rows

METHODS = ["full", "lora:rank=2", "probe"]


def some_rows():
    return Rows(tuple({"text": text, "label": label} for text, label in messages(80)), "classify")


@pytest.fixture(scope="module")
def found(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
        told = settings(test=0.4, validation=0.2, states="float32")
        return compare(some_rows(), tiny_folder("bert"), methods=METHODS, depth=1, settings=told, out=home / "runs"), home


def test_the_numbers_are_those_of_the_branches(found):
    compared, _ = found
    parts = split(some_rows(), test=0.4, validation=0.2)
    scores = {}
    for entry in compared.entries:
        branch = compared.branches[entry.method]
        answers = {name: branch.predict(part) for name, part in parts.parts().items()}
        truth = {name: np.array([branch.spec.labels.index(row["label"]) for row in part]) for name, part in parts.parts().items()}
        scores[entry.method] = np.stack([answer.scores for answer in answers["test"]])
        validation = np.stack([answer.scores for answer in answers["validation"]])
        assert entry.validation == compute(["accuracy"], truth["validation"], validation)["accuracy"]
        assert entry.measured["value"] == compute(["accuracy"], truth["test"], scores[entry.method])["accuracy"]
        assert entry.trained == sum(p.numel() for p in branch.network.learned().values())
        assert 0 < entry.bytes - 4 * entry.trained < 5000, "four bytes a number, and their names"
        assert entry.seconds > 0
    best = max(compared.entries, key=lambda entry: entry.validation).method
    assert compared.best == best
    for entry in compared.entries:
        wanted = None if entry.method == best else paired("accuracy", truth["test"], scores[entry.method], scores[best])
        assert entry.against == wanted
    sizes = {entry.method: entry.trained for entry in compared.entries}
    assert sizes["full"] > sizes["lora:rank=2"] > sizes["probe"]


def test_of_all_branches_one_set_of_frozen_weights_is_kept(found):
    assert len({id(branch.backbone) for branch in found[0].branches.values()}) == 1


def test_what_they_have_to_beat_is_worked_out_once_and_stands_in_every_report(tiny_folder, tmp_path, monkeypatch):
    calls = []

    def counted(*args, **named):
        calls.append(args)
        return baselines(*args, **named)

    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trunkline.train.before.baselines", counted)
    told = settings(test=0.4, validation=0.2, epochs=1, seed=1)
    reports = [
        branch.report.results
        for branch in compare(some_rows(), tiny_folder("bert"), methods=["bitfit", "probe"], depth=1, settings=told).branches.values()
    ]
    assert len(calls) == 1
    assert reports[0][:-1] == reports[1][:-1] != []
    tl.tune(some_rows(), tiny_folder("bert"), method="probe", depth=0, settings=told)
    assert len(calls) == 2, "another cut has other untuned states"


def test_a_backbone_that_is_loaded_must_be_as_the_settings_say(tiny_folder):
    with pytest.raises(OptionError, match="trunk_precision='int8': the backbone that was given has 'float32'"):
        tl.tune(some_rows(), load_backbone(tiny_folder("bert")), depth=1, settings=settings(trunk_precision="int8"))


def test_each_branch_is_saved_in_a_folder_of_its_own(found):
    compared, home = found
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["full", "lora-rank-2", "probe"]
    for method, folder in (("full", "full"), ("lora:rank=2", "lora-rank-2")):
        again = load(home / "runs" / folder)
        assert again.method == method.partition(":")[0]
        assert [a.value for a in again.predict(["refund the money"])] == [
            a.value for a in compared.branches[method].predict(["refund the money"])
        ]
    assert all(branch.depth == 1 for branch in compared.branches.values())


def test_the_table_and_the_verdict(found):
    compared, _ = found
    shown = str(compared)
    assert all(method in shown for method in METHODS)
    assert f"Best on the validation rows: {compared.best}" in shown
    verdicts = {entry.against.verdict for entry in compared.entries if entry.against}
    for verdict, words in (("better", "shown to be better than"), ("no difference shown", "no difference shown from")):
        assert (words in compared.verdict()) == (verdict in verdicts)
    told = json.loads(json.dumps(compared.to_json()))
    assert [one["method"] for one in told["methods"]] == METHODS
    assert told["depth"] == 1


def test_the_depth_that_is_found_is_that_of_all(tiny_folder, cache):
    compared = tl.compare(some_rows(), tiny_folder("bert"), methods=["full", "norm"], settings=settings(budget="1s", epochs=1))
    full, norm = compared.branches.values()
    assert full.depth == norm.depth


@pytest.mark.parametrize("methods", [["full"], ["full", "full"], []])
def test_fewer_than_two_methods_are_refused(methods):
    with pytest.raises(OptionError, match="give at least two different methods"):
        compare(some_rows(), methods=methods)


def test_from_the_command_line(type_in, tmp_path, tiny_folder, cache, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "messages.csv", ["text", "label"], messages())
    words = ("tune", "messages.csv", "--model", tiny_folder("bert"), "--depth", "1", "--epochs", "1", "--out", "runs")
    said = type_in(*words, "--method", "full,lora:rank=2")
    assert said.code == 0, said.err
    assert "Best on the validation rows" in said.out
    assert "trunkline predict runs/" in said.err
    told = json.loads(type_in(*words[:-2], "--method", "norm,probe", "--json").out)
    assert [one["method"] for one in told["methods"]] == ["norm", "probe"]
    assert "Did you mean 'lora'?" in type_in(*words, "--method", "full,lorra").err


def test_export_from_the_command_line(type_in, tmp_path, tiny_folder, cache, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "messages.csv", ["text", "label"], messages())
    words = ("tune", "messages.csv", "--model", tiny_folder("bert"), "--depth", "1", "--epochs", "1", "--method", "lora", "--out", "run")
    assert type_in(*words).code == 0
    said = type_in("export", "run", "adapter")
    assert said.code == 0, said.err
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.json",
        "head.safetensors",
        "manifest.json",
    }


def test_a_depth_is_searched_by_a_method_that_has_one(tiny_folder, cache):
    told = settings(test=0.4, validation=0.2, task_options="class_weights=balanced")
    compared = compare(some_rows(), tiny_folder("bert"), methods=["probe", "bitfit"], settings=told)
    assert list(compared.branches) == ["probe", "bitfit"]
    tried = compared.branches["bitfit"].report.search["trials"]
    assert {trial["depth"] for trial in tried} > {0}
    assert compared.branches["probe"].report.search == {}
    assert compared.branches["probe"].depth == compared.branches["bitfit"].depth

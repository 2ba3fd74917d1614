"""Several tasks on one set of layers: what is shared, what each part's branch is, in which order parts come, stopping and going on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

import trunkline as tl
from tests import test_contract
from tests.test_cli import type_in  # noqa: F401  (a fixture)
from tests.train.samples import make_rows, settings, without_seconds, write_csv
from tests.train.test_kills import _signals_count, interrupted  # noqa: F401  (a fixture)
from trunkline.branch import Branch, load
from trunkline.errors import ArtefactError, DataError, OptionError
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import compute
from trunkline.train.together import order, tune_together

LEFT_OPEN = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
"""As in test_kills.py: Ctrl-C in the middle of listing a folder leaves the list's handle to the collector, which says so."""
FAST = settings(epochs=6, learning_rate=3e-3, validation=0.2, test=0.2, states="float32")
PARTS = {"intent": make_rows(count=60), "urgency": make_rows("regress", 120)}


@pytest.fixture(scope="module")
def found(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
        return tune_together(PARTS, tiny_folder("bert"), depth=1, settings=FAST, out=home / "runs"), home / "runs"


def test_the_layers_are_shared_and_each_branch_has_its_head_alone(found):
    branches, runs = found
    saved = {name: safetensors.torch.load_file(runs / name / "branch.safetensors") for name in branches}
    one, two = ({key for key in tensors if key.startswith("upper.")} for tensors in saved.values())
    assert one == two
    assert len(one) > 10
    assert all(torch.equal(saved["intent"][key], saved["urgency"][key]) for key in one)
    heads = {name: {key: tuple(t.shape) for key, t in tensors.items() if key.startswith("head.")} for name, tensors in saved.items()}
    assert heads["intent"] == {"head.linear.weight": (3, 32), "head.linear.bias": (3,)}
    assert heads["urgency"] == {"head.linear.weight": (1, 32), "head.linear.bias": (1,)}
    plain = Branch.new(branches["intent"].backbone, branches["intent"].spec, "full", branches["intent"].config, 1)
    assert any(not torch.equal(saved["intent"][key], p) for key, p in plain.network.learned().items() if key.startswith("upper."))
    assert {path.name for path in runs.iterdir()} == {"intent", "urgency"}, "the checkpoints are gone"


def test_each_folder_is_an_ordinary_branch_and_the_history_is_its_own(found):
    branches, runs = found
    best = np.mean(
        [[entry["metrics"][m] for entry in branches[n].report.history[0]] for n, m in (("intent", "accuracy"), ("urgency", "pearson"))], 0
    )
    for name, metric in (("intent", "accuracy"), ("urgency", "pearson")):
        again = load(runs / name)
        assert again.report == branches[name].report
        validation = tl.split(PARTS[name], validation=0.2, test=0.2).validation
        items = again.prepare(validation)
        reached = compute([metric], *truth_and_scores(again.spec, items, again.answers(items)))[metric]
        kept = again.report.history[0][int(np.argmax(best))]["metrics"]
        assert kept == {metric: pytest.approx(reached, abs=1e-5)}, "the weights that are kept are those of the best mean"
        other = "urgency" if name == "intent" else "intent"
        rows = len(tl.split(PARTS[other], validation=0.2, test=0.2).train)
        assert f"the layers above the cut were tuned together with {other} ({rows} training rows)" in again.report.data["notes"]
    assert tl.evaluate(load(runs / "urgency"), PARTS["urgency"]).task == "regress"


def test_both_parts_are_learned(found):
    branches, _ = found
    answers = branches["intent"].predict([row["text"] for row in PARTS["intent"]])
    assert np.mean([a.value == row["label"] for a, row in zip(answers, PARTS["intent"])]) > 0.8, "of three in equal shares"
    numbers = [a.value for a in branches["urgency"].predict([row["text"] for row in PARTS["urgency"]])]
    assert np.corrcoef(numbers, [row["label"] for row in PARTS["urgency"]])[0, 1] > 0.8


@pytest.mark.parametrize("sampling", ["rows", "root"])
def test_a_batch_is_of_one_part_and_all_rows_of_a_part_come_before_one_comes_again(sampling):
    lengths = [np.arange(10) % 4, np.arange(150) % 7]
    made = [order(lengths, 8, sampling, 3, epoch) for epoch in range(6)]
    assert len({len(epoch) for epoch in made}) == 1
    flat = [batch for epoch in made for batch in epoch]
    assert all((batch < 10).all() or (batch >= 10).all() for batch in flat)
    first = [batch for batch in flat if batch[0] < 10]
    seen = np.bincount(np.concatenate(flat), minlength=160)
    assert seen[:10].max() - seen[:10].min() <= 1
    assert seen[10:].max() - seen[10:].min() <= 1
    if sampling == "rows":
        assert (seen == 6).all()
    else:
        share = math.sqrt(10) / (math.sqrt(10) + math.sqrt(150))
        assert len(first) / len(flat) == pytest.approx(share, abs=0.5 / len(made[0]))
    again = order(lengths, 8, sampling, 3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(again, made[5]))
    assert any(not np.array_equal(a, b) for a, b in zip(made[4], made[5]))


@pytest.mark.wide
@LEFT_OPEN
def test_stopped_and_gone_on_with_it_ends_bit_for_bit_the_same(tiny_folder, cache, tmp_path):
    told = replace(FAST, epochs=8, dropout=0.1, patience=None, evaluate_every=20, checkpoint_seconds=0.0)

    def run(out):
        return tune_together(PARTS, tiny_folder("bert"), depth=1, settings=told, out=tmp_path / out)

    def ended(out):
        return {
            name: (
                (tmp_path / out / name / "branch.safetensors").read_bytes(),
                [without_seconds(h) for h in load(tmp_path / out / name).report.history],
            )
            for name in PARTS
        }

    run("clean")
    interrupted(lambda: run("stopped"), tmp_path / "stopped/together.checkpoints")
    assert not (tmp_path / "stopped/intent").exists()
    run("stopped")
    assert ended("stopped") == ended("clean")
    assert not (tmp_path / "stopped/together.checkpoints").exists()


@pytest.mark.wide
@LEFT_OPEN
def test_other_parts_do_not_go_on_from_a_checkpoint(tiny_folder, cache, tmp_path):
    told = replace(FAST, epochs=200, patience=None, evaluate_every=50, checkpoint_seconds=0.01)
    out = tmp_path / "runs"
    interrupted(lambda: tune_together(PARTS, tiny_folder("bert"), depth=1, settings=told, out=out), out / "together.checkpoints")
    with pytest.raises(OptionError, match="the checkpoint belongs to another run; changed: sampling"):
        tune_together(PARTS, tiny_folder("bert"), depth=1, sampling="rows", settings=told, out=out)


@pytest.mark.wide
def test_beside_each_part_tuned_alone(tiny_folder, cache):
    told = replace(FAST, epochs=1, seeds=2)
    branches = tune_together(PARTS, tiny_folder("bert"), depth=1, method="lora:rank=2", settings=told, alone=True)
    for name, branch in branches.items():
        report = branch.report
        alone = tl.tune(PARTS[name], tiny_folder("bert"), depth=1, method="lora:rank=2", settings=told)
        by_name = {result["name"]: result for result in report.results}
        assert list(by_name)[-2:] == ["alone", "tuned"]
        assert by_name["alone"]["metrics"] == alone.report.results[-1]["metrics"]
        assert {(c["before"], c["after"]) for c in report.comparisons} >= {("alone", "tuned")}
        assert len(by_name["tuned"]["seeds"][report.comparisons[0]["metric"]]) == 2
        assert "branch tuned alone" in str(report)


WRONG = {
    "one": ({"parts": {"intent": PARTS["intent"]}}, "Give two or more"),
    "head alone": ({"depth": 0}, "Give a depth of 1 or more"),
    "no depth": ({"depth": "auto"}, "no depth is searched"),
    "probe": ({"method": "probe"}, "a method that tunes layers"),
    "sampling": ({"sampling": "rot"}, "sampling"),
    "objective": ({"told": {"objective": "rdrop"}}, "objective='rdrop'"),
    "metric": ({"told": {"metric": "macro_f1"}}, "part 'urgency' does not have it"),
    "name": ({"parts": {"a/b": PARTS["intent"], "urgency": PARTS["urgency"]}}, "'a/b'"),
    "folder": ({"parts": {"Same": PARTS["intent"], "same": PARTS["urgency"]}}, "in the same folder"),
    "task": (
        {"parts": {"intent": PARTS["intent"], "texts": replace(PARTS["intent"], task="seq2seq")}},
        "task='seq2seq' does not share layers",
    ),
    "small": ({"parts": {"intent": PARTS["intent"], "few": make_rows(count=9)}}, "part 'few': 6 training"),
    "deep": ({"depth": 9}, "this model has"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_tuned_together_is_refused(case, tiny_folder, cache):
    asked, said = WRONG[case]
    asked = {"parts": PARTS, "told": {}, **asked}
    told = replace(FAST, **asked.pop("told"))
    with pytest.raises((OptionError, DataError), match=said):
        tune_together(asked.pop("parts"), tiny_folder("bert"), settings=told, **{"depth": 1, **asked})


@pytest.mark.wide
@pytest.mark.parametrize(
    ("method", "depth"), [("adalora", 1), ("prefix", 1), ("lora:start=eva:rank=2", 2), ("adapter", 2), ("full", "all")]
)
def test_other_methods(method, depth, tiny_folder, cache, tmp_path):
    branches = tune_together(PARTS, tiny_folder("bert"), depth=depth, method=method, settings=FAST, out=tmp_path / "runs")
    for name, branch in branches.items():
        again = load(tmp_path / "runs" / name)
        texts = [row["text"] for row in PARTS[name]][:5]
        assert np.allclose([a.scores for a in again.predict(texts)], [a.scores for a in branch.predict(texts)], atol=1e-5)


@pytest.mark.wide
@pytest.mark.parametrize("task", ["tag", "span", "rank"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_other_tasks(task, family, tiny_folder, cache):
    rows = test_contract.rows(task)
    several = replace(rows, rows=tuple({**row, "text": f"{row['text']} {n}"} for n in range(5) for row in rows))
    branches = tune_together({"intent": PARTS["intent"], "other": several}, tiny_folder(family), depth=1, settings=FAST)
    assert branches["other"].task == task
    assert len(branches["other"].report.history[0]) >= 1


def test_a_saved_branch_is_not_spoiled_by_folders_within_it(found, tiny_folder, cache):
    _, runs = found
    with pytest.raises(ArtefactError, match="is a saved branch"):
        tune_together(PARTS, tiny_folder("bert"), depth=1, settings=FAST, out=runs / "intent")
    load(runs / "intent")


def test_from_the_command_line(type_in, tiny_folder, cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "intents.csv", PARTS["intent"])
    write_csv(tmp_path / "urgency.csv", PARTS["urgency"])
    words = ("tune", "intents.csv", "--model", tiny_folder("bert"), "--depth", "1", "--epochs", "1", "--out", "runs")
    other = "urgency.csv:label=label:task=regress"
    said = type_in(*words, "--with", other)
    assert f"note: {other.split(':')[0]}: Guessed: text" in said.err, "each note says which file it is about"
    assert said.code == 0, said.err
    assert "intents:" in said.out
    assert "Pearson" in said.out
    assert "trunkline predict runs/intents" in said.err
    assert type_in("predict", "runs/label", "refund my card").code == 0
    told = json.loads(type_in(*words[:-2], "--with", other + ":name=urgent", "--sampling", "rows", "--json").out)
    assert set(told) == {"intents", "urgent"}
    assert "name=OTHER" in type_in(*words, "--with", "urgency.csv:task=regress:name=intents").err
    assert "Did you mean 'label'?" in type_in(*words, "--with", "urgency.csv:lable=stars").err
    assert "Leave out --start" in type_in(*words, "--with", other, "--start", "runs/intents").err
    assert "--with FILE" in type_in(*words, "--alone").err

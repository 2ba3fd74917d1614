"""The verb `tune` from rows to a saved branch with its report, for each kind of task, on tiny models."""

import dataclasses

import numpy as np
import pytest
import torch

import trunkline as tl
from trunkline.data.read import read
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.baselines import labels
from trunkline.evaluation.report import Report
from trunkline.model import standard
from trunkline.model.backbone import load_backbone
from trunkline.states.store import States
from trunkline.train import account, before
from trunkline.train.tune import number_format

WORDS = {"card": "my card has not arrived yet", "refund": "refund the money to my account", "password": "help me with the password"}
FAST = tl.Settings(epochs=2, batch_size=8, validation=0.2, test=0.2)


def messages(count=60):
    return [{"text": f"{WORDS[label]} {'please ' * (n % 4)}{n}", "label": label} for n in range(count // 3) for label in WORDS]


@pytest.fixture(autouse=True)
def _own_cache(cache):
    """Every test fills a states store of its own."""


@pytest.fixture
def model(tiny_folder):
    return tiny_folder("bert")


def test_classify_with_seeds_saves_loads_and_reports(model, tmp_path):
    settings = dataclasses.replace(FAST, seeds=2, task_options="class_weights=balanced")
    branch = tl.tune(read(messages()), model, depth=1, settings=settings, out=tmp_path / "run")
    report = branch.report
    assert [result["name"] for result in report.results] == ["majority", "tfidf", "untuned", "tuned"]
    assert len(report.results[-1]["seeds"]["accuracy"]) == 2
    assert len(report.history) == 2
    assert report.settings["spec"]["weights"]
    assert report.comparisons[0]["before"] == "untuned"
    assert set(report.cost["seconds"]) == {"read", "load model", "encode", "tune", "measure"}
    assert Report.from_json((tmp_path / "run" / "report.json").read_bytes()) == report == tl.load(tmp_path / "run").report
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "run.checkpoints").exists()
    best = max(range(2), key=lambda at: max(h["metrics"]["accuracy"] for h in report.history[at]))
    value = report.results[-1]["metrics"]["accuracy"]["value"]
    assert report.results[-1]["seeds"]["accuracy"][best] == pytest.approx(value), "the branch kept is that of the best seed"


def test_a_second_task_on_the_same_texts_encodes_nothing(model, monkeypatch):
    rows = messages()
    tl.tune(read(rows), model, depth=1, settings=FAST)
    appended = []
    monkeypatch.setattr(States, "commit", lambda self, draft: appended.append(len(draft)))
    other = tl.tune(read([{**row, "label": "long" if len(row["text"]) > 33 else "short"} for row in rows]), model, depth=1, settings=FAST)
    assert sum(appended) == 0
    assert other.spec.labels == ("long", "short")


def test_the_untuned_model_reads_only_the_rows_that_a_baseline_learns_from(model, monkeypatch):
    read_rows, plain = [], before.read_by_head
    monkeypatch.setattr(labels, "MAX_ROWS", 12)
    monkeypatch.setattr(before, "read_by_head", lambda *given: read_rows.append(len(given[2])) or plain(*given))
    report = tl.tune(read(messages()), model, depth=1, settings=FAST).report
    rows = report.data["rows"]
    assert rows["train"] > 12
    assert sorted(read_rows) == sorted([12, rows["validation"], rows["test"]])


@pytest.mark.parametrize("depth", [1, "auto"])
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_on_a_rounded_trunk(model, precision, depth, tmp_path):
    settings = dataclasses.replace(FAST, trunk_precision=precision)
    branch = tl.tune(read(messages()), model, depth=depth, settings=settings, out=tmp_path / "run")
    again = tl.load(tmp_path / "run")
    assert again.backbone.trunk_precision == precision
    texts = [row["text"] for row in messages()]
    assert [one.value for one in again.predict(texts)] == [one.value for one in branch.predict(texts)]


def test_qlora_keeps_few_bytes_and_says_how_many(model, tmp_path):
    """4 bits below the cut and above it: what is left in float are embeddings, norms and biases."""
    branches = {
        name: tl.tune(read(messages()), model, method=method, depth=1, settings=dataclasses.replace(FAST, trunk_precision=name))
        for name, method in (("float32", "lora"), ("int8", "lora"), ("nf4", "lora:bits=4"))
    }
    told = {name: branch.report.model for name, branch in branches.items()}
    assert len({(one["trained"], one["bytes"], one["total"]) for one in told.values()}) == 1
    whole = branches["float32"].backbone.stack
    linear = sum(layer.weight.numel() for layer in whole.modules() if isinstance(layer, torch.nn.Linear))
    assert told["float32"]["frozen_bytes"] - told["nf4"]["frozen_bytes"] == linear * 4 - linear // 2 - linear // 16
    assert told["int8"]["frozen_bytes"] > told["float32"]["frozen_bytes"], "the integers lie beside the floats"
    tensors = [*whole.parameters(), *whole.buffers()]
    assert told["float32"]["frozen_bytes"] == sum(tensor.nbytes for tensor in tensors)
    branches["nf4"].save(tmp_path / "branch")
    again = tl.load(tmp_path / "branch")
    texts = [row["text"] for row in messages()]
    assert [one.probability for one in again.predict(texts)] == [one.probability for one in branches["nf4"].predict(texts)]


def test_depth_all_has_no_trunk_to_round(model):
    with pytest.raises(OptionError, match="depth 'all' has no trunk"):
        tl.tune(read(messages()), model, depth="all", settings=dataclasses.replace(FAST, trunk_precision="int8"))


def test_any_number_of_labels_a_text(model, tmp_path):
    rows = [{**row, "label": [row["label"], "polite"] if "please" in row["text"] else [row["label"]]} for row in messages()]
    branch = tl.tune(read(rows), model, depth=1, settings=FAST, out=tmp_path / "run")
    assert branch.spec.multi_label
    assert all(isinstance(answer.value, list) for answer in tl.load(tmp_path / "run").predict(["please my card"]))
    assert "exact match" in str(branch.report).lower() or "accuracy" in str(branch.report).lower()


def test_a_number_for_a_pair_of_texts(model, tmp_path):
    rows = [{"text": row["text"], "text_b": row["text"][:n], "label": float(n)} for n, row in enumerate(messages())]
    branch = tl.tune(read(rows, "regress"), model, depth=1, method="lora:rank=2", settings=FAST, out=tmp_path / "run")
    assert branch.report.scatter is not None
    assert branch.report.confusion is None
    answers = tl.load(tmp_path / "run").predict([("my card", "card"), ("refund", "money")])
    assert all(np.isfinite(answer.value) and answer.probability is None for answer in answers)


def test_a_decoder_pools_its_last_token_unless_told_otherwise(tiny_folder):
    llama = tiny_folder("llama")
    assert tl.tune(read(messages()), llama, depth=1, settings=FAST).spec.pooling == "last"
    told = dataclasses.replace(FAST, task_options="pooling=mean")
    assert tl.tune(read(messages()), llama, depth=1, settings=told).spec.pooling == "mean"


def test_the_whole_model_needs_no_store(model, cache):
    branch = tl.tune(read(messages()), model, depth="all", settings=FAST)
    assert not (cache / "states").exists()
    assert branch.report.model["trained"] > sum(p.numel() for p in branch.backbone.stack.get_submodule("embeddings").parameters())
    assert branch.predict("my card")[0].value in WORDS


def test_without_test_rows_the_report_says_that_its_figures_are_too_good(model):
    branch = tl.tune(read(messages()), model, depth=0, method="probe", settings=dataclasses.replace(FAST, test=0.0))
    assert any("no test rows" in note for note in branch.report.data["notes"])


def test_what_cannot_be_tuned_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(DataError, match="one class"):
        tl.tune(read([{"text": f"text {n}", "label": "same"} for n in range(20)]), tmp_path / "no such model")


@pytest.mark.parametrize(
    ("wrong", "said"), [({"depth": 9}, "3 layers"), ({"method": "lore"}, "Did you mean 'lora'"), ({"method": "lora:rnk=3"}, "rank")]
)
def test_a_wrong_choice_is_named_with_what_is_allowed(model, wrong, said):
    with pytest.raises(OptionError, match=said):
        tl.tune(read(messages()), model, settings=FAST, **wrong)


def test_evaluate_on_other_rows(model, tmp_path):
    branch = tl.tune(read(messages()), model, depth=1, settings=FAST)
    report = tl.evaluate(branch, read(messages(30)))
    assert report.data["rows"] == {"test": 30}
    assert report.results[-1]["metrics"]["accuracy"]["low"] <= report.results[-1]["metrics"]["accuracy"]["value"]
    with pytest.raises(DataError, match="unknown"):
        tl.evaluate(branch, read([{"text": "a text", "label": "other"}, {"text": "b text", "label": "card"}]))


@pytest.mark.parametrize(("family", "wanted", "found"), [("bert", "auto", "float16"), ("t5", "auto", "float32"), ("t5", "int8", "int8")])
def test_states_that_are_too_large_for_float16_are_kept_in_float32(family, wanted, found, tiny_folder):
    assert number_format(wanted, load_backbone(tiny_folder(family))) == found


@pytest.mark.parametrize(("language", "taken"), [("zh", True), ("en", False)])
def test_where_no_model_is_named_the_texts_decide(language, taken, tiny_folder, monkeypatch):
    usual, other = str(tiny_folder("bert")), str(tiny_folder("roberta"))
    monkeypatch.setitem(standard.MODELS, "encoder", usual)
    monkeypatch.setattr(standard, "MANY_LANGUAGES", other)
    texts = {"en": ("the parcel is late", "the card is lost"), "zh": ("快递还没有到", "我的卡丢了")}[language]
    rows = read([{"text": f"{text} {number}", "label": text} for number in range(30) for text in texts])
    branch = tl.tune(rows, depth=0, settings=FAST)
    assert branch.backbone.id == load_backbone(other if taken else usual).id
    assert any("no model was named" in note for note in branch.report.data["notes"]) == taken


def test_tokens_that_the_model_does_not_know_are_counted_in_a_note(model, monkeypatch):
    monkeypatch.setattr(account, "_UNKNOWN", 0.2)  # the tiny model knows no numbers
    rows = [{"text": f"{text} {number}", "label": text} for number in range(30) for text in ("快递还没有到", "我的卡丢了")]
    known, unknown = (tl.tune(read(some), model, depth=0, settings=FAST).report.data["notes"] for some in (messages(), rows))
    assert not any("of the tokens are none that" in note for note in known)
    assert any("% of the tokens are none that" in note for note in unknown)

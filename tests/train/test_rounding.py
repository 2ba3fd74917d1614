"""Layers that answer in int8: where the answers to the validation rows stay, and nowhere else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import trunkline as tl
from tests.train.samples import make_branch, make_data, make_rows
from trunkline import branch as branches
from trunkline import storage
from trunkline.data.read import read
from trunkline.errors import ArtefactError, OptionError
from trunkline.model.precision import Int8Linear
from trunkline.train import rounding

TEXTS = ["refund the card", "package", "password please " * 9]


@pytest.fixture(autouse=True)
def _own_cache(cache):
    """Every test fills a states store of its own."""


def tuned(model, method="full", depth=1, **told):
    settings = tl.Settings(epochs=2, batch_size=8, validation=0.2, test=0.2, trunk_precision="int8", **told)
    return tl.tune(read(list(make_rows(count=60))), model, method=method, depth=depth, settings=settings)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_on_a_trunk_in_int8_the_tuned_layers_answer_in_int8_too(method, tiny_folder, tmp_path):
    branch = tuned(tiny_folder("bert"), method)
    assert branch.precision == branch.report.model["precision"] == "int8"
    assert any(isinstance(module, Int8Linear) for module in branch.answering.upper.modules())
    assert not any(isinstance(module, Int8Linear) for module in branch.network.modules()), "what was learned stays as it is"
    assert any("answer in int8" in note and "have another answer" in note for note in branch.report.data["notes"])
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert again.precision == "int8"
    assert [one.scores.tolist() for one in again.predict(TEXTS)] == [one.scores.tolist() for one in branch.predict(TEXTS)]
    measured = tl.evaluate(again, read(list(make_rows(count=60)))).results[-1]["metrics"]["accuracy"]["value"]
    float32 = tl.evaluate(replace(again, precision="float32"), read(list(make_rows(count=60)))).results[-1]["metrics"]["accuracy"]["value"]
    assert measured == pytest.approx(float32, abs=0.05)


def test_no_bit_of_an_answer_depends_on_its_neighbours(tiny_folder):
    branch = tuned(tiny_folder("bert"))
    alone = [branch.predict(text)[0].scores for text in TEXTS]
    for one, other in zip(alone, branch.predict([*TEXTS, "order " * 40]), strict=False):
        assert np.abs(one - other.scores).max() <= 1e-6


def test_float32_is_kept_where_it_is_asked_for_and_on_other_trunks(tiny_folder):
    assert tuned(tiny_folder("bert"), branch_precision="float32").precision == "float32"
    assert tuned(tiny_folder("bert"), depth=0).precision == "float32"
    settings = tl.Settings(epochs=1, batch_size=8)
    assert tl.tune(read(list(make_rows())), tiny_folder("bert"), depth=1, settings=settings).precision == "float32"
    told = replace(settings, branch_precision="int8")
    assert tl.tune(read(list(make_rows())), tiny_folder("bert"), depth=1, settings=told).precision == "int8"


def test_layers_whose_answers_would_change_stay_in_float32(tiny_folder):
    """One weight of an output so large that all others of it become 0: its input is 0, so that float32 does not see it."""
    branch = make_branch(tiny_folder("bert"), make_rows())
    with torch.no_grad():
        branch.network.head.linear.weight.normal_()
        for layer in branch.network.upper.encoder.layer:
            layer.output.dense.weight.mul_(20)
            layer.intermediate.dense.bias[0] = -1e4  # whose GELU is 0
            layer.output.dense.weight[:, 0] = 1e6
    data = make_data(branch, make_rows())
    items = data.validation
    assert rounding.settle(branch, items, branch.source(), "auto") == (branch, []), "on a trunk in float32 nothing is asked"
    branch.backbone.trunk_precision = "int8"
    kept, (note,) = rounding.settle(branch, items, branch.source(), "auto")
    assert kept.precision == "float32"
    assert "answer in float32: in int8, accuracy changes by" in note
    assert "on the 12 validation rows, of which" in note
    forced, (note,) = rounding.settle(branch, items, branch.source(), "int8")
    assert forced.precision == "int8"
    assert "answer in int8" in note


@pytest.mark.parametrize(("method", "depth", "reason"), [("adapter", 1, "cannot be worked into plain layers"), ("full", "all", "no cut")])
def test_int8_is_refused_at_once_where_it_cannot_be(method, depth, reason, tiny_folder, monkeypatch):
    monkeypatch.setattr("trunkline.train.tune.stored", None)  # nothing is encoded before
    settings = tl.Settings(branch_precision="int8")
    with pytest.raises(OptionError, match=reason):
        tl.tune(read(list(make_rows())), tiny_folder("bert"), method=method, depth=depth, settings=settings)


def test_an_unknown_precision_in_a_branch_is_refused(tiny_folder, tmp_path):
    branch = make_branch(tiny_folder("bert"), make_rows())
    branch.save(tmp_path / "branch")
    about = json.loads((tmp_path / "branch/branch.json").read_text())
    assert about["precision"] == "float32"
    files, _ = storage.read_folder(tmp_path / "branch", branches.KIND)
    storage.write_folder(
        tmp_path / "branch", {**files, "branch.json": storage.to_json({**about, "precision": "int7"})}, {"kind": branches.KIND}
    )
    with pytest.raises(ArtefactError, match="int7"):
        branches.load(tmp_path / "branch")

"""Two texts read apart or together: what the head makes of them, which way is taken, and that a branch keeps to it wherever it is used."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import trunkline as tl
from tests.serving.samples import asked
from tests.train.samples import WORDS, make_branch, settings
from trunkline.branch import load
from trunkline.data.split import split
from trunkline.errors import DataError, OptionError
from trunkline.model.backbone import ALL, load_backbone
from trunkline.model.heads.pooling import PairHead, compared
from trunkline.quality import bounds
from trunkline.serving.compute.engine import Engine
from trunkline.states.live import LiveStates
from trunkline.tasks import classify, regress
from trunkline.train import pairs
from trunkline.train.objectives import make as objective
from trunkline.train.settings import Settings
from trunkline.types import Rows


def pair_rows(count=120, task="classify"):
    """Pairs that say the same or something else: what a random model shows by its states when the texts are read apart."""
    chance, made = random.Random(1), []
    for number in range(count):
        text = " ".join(chance.choices(WORDS, k=5))
        other = text if number % 2 else " ".join(chance.choices(WORDS, k=5))
        made.append(
            {"text": text, "text_b": other, "label": ("same" if number % 2 else "other") if task == "classify" else float(number % 2)}
        )
    return Rows(tuple(made), task)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return tiny_folder("bert")


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    home = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
        parts = split(pair_rows(), validation=0.3, test=0.3)
        return tl.tune(parts, model, settings=settings(epochs=2, states="float32"), out=home / "branch"), home, parts


def test_what_is_compared_is_both_vectors_and_where_they_differ():
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    u, v = np.array([0.6, 0.8]) * 2**0.5, np.array([0.0, 1.0]) * 2**0.5
    assert np.allclose(compared(one, other).numpy()[0], [*u, *v, *np.abs(u - v), *(u * v)])


def test_the_search_takes_the_way_that_is_better_and_says_so(tuned):
    branch, _, _ = tuned
    assert branch.spec.apart
    assert branch.report.search["pairs"] == "apart"
    assert {trial["pairs"] for trial in branch.report.search["trials"]} == {"apart", "together"}
    assert branch.report.search["why"].startswith("pairs are read apart (")
    assert "0 apart: " in str(branch.report)
    assert "0, apart" in branch.report.html()
    assert branch.report.results[-1]["metrics"]["accuracy"]["value"] > 0.8


def test_a_saved_branch_reads_pairs_as_it_was_tuned_saved(tuned):
    branch, home, parts = tuned
    rows = [{"text": row["text"], "text_b": row["text_b"]} for row in parts.test][:8]
    wanted = [answer.scores for answer in branch.predict(rows)]
    assert np.allclose([answer.scores for answer in load(home / "branch").predict(rows)], wanted, atol=1e-6)


def test_one_text_to_be_compared_with_nothing_is_refused(tuned):
    with pytest.raises(DataError, match="'please' is one text, and this branch compares two"):
        tuned[0].predict(["please"])


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_served_it_answers_as_it_does_alone(tuned, model, runtime):
    deeper = make_branch(model, pair_rows(), pairs="apart", depth=1)
    rows = [{"text": row["text"], "text_b": row["text_b"]} for row in tuned[2].test][:8]
    engine = Engine(cache_bytes=1 << 20, runtime=runtime)
    for name, branch in (("head", tuned[0]), ("deeper", deeper)):
        engine.add(name, branch)
    for _ in range(2):  # computed, and then from states that are remembered
        replies = asked(engine, rows, ["head", "deeper"])["answers"]
        for name, branch in (("head", tuned[0]), ("deeper", deeper)):
            for reply, wanted in zip(replies, branch.predict(rows), strict=True):
                told = {one["label"]: one["probability"] for one in reply[name]["labels"]}
                assert np.allclose([told[label] for label in branch.spec.labels], wanted.scores, atol=1e-3)
    engine.close()


def test_a_run_again_takes_what_the_search_found(tuned, monkeypatch):
    _, home, parts = tuned
    monkeypatch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
    again = tl.compare(
        parts, load_backbone(tuned[0].backbone.folder), methods=["full", "probe"], settings=settings(epochs=2, states="float32")
    )
    assert all(branch.spec.apart for branch in again.branches.values()), "others are read as the first one was"


@pytest.mark.parametrize("depth", [0, 1, ALL])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_each_depth_trains_on_pairs_that_are_read_apart(model, task, depth, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    told = settings(epochs=4, task_options="pairs=apart", learning_rate=3e-3)
    branch = tl.tune(split(pair_rows(task=task), validation=0.3, test=0.3), model, depth=depth, settings=told)
    assert isinstance(branch.network.head, PairHead)
    metric = "accuracy" if task == "classify" else "pearson"
    assert branch.report.results[-1]["metrics"][metric]["value"] > 0.7


def test_which_ways_come_into_question():
    told, plain = Settings(), classify.TaskSpec(labels=("a", "b"), pairs="auto")
    assert pairs.ways(plain, "auto", told) == ("apart", "together")
    assert pairs.ways(plain, 0, told) == ("apart",)
    assert pairs.ways(plain, 2, told) == pairs.ways(plain, ALL, told) == ("together",)
    assert pairs.ways(replace(plain, pairs="apart"), 2, told) == ("apart",)
    assert pairs.ways(plain, "auto", Settings(objective="contrast")) == ("together",)
    assert plain.learned_from(Rows(({"text": "x", "label": "a"}, {"text": "y", "label": "b"}), "classify"))["pairs"] == "together"


def test_one_text_a_row_cannot_be_read_apart():
    single = Rows(({"text": "x", "label": 1.0}, {"text": "y", "label": 2.0}), "regress", "one.csv")
    with pytest.raises(DataError, match=r"one\.csv: pairs='apart': the rows have one text each"):
        regress.TaskSpec(pairs="apart").learned_from(single)
    with pytest.raises(OptionError, match="pairs='both'"):
        regress.TaskSpec(pairs="both")


def test_what_is_of_one_text_refuses_pairs_that_are_read_apart(model, tuned):
    branch = make_branch(model, pair_rows(), pairs="apart")
    data = type("Known", (), {"spec": branch.spec})()
    with pytest.raises(OptionError, match="pairs=apart has two in each row"):
        objective("contrast", "single").ready(branch.network, data, None)
    with pytest.raises(OptionError, match="reads pairs apart, and a bound is of one text"):
        bounds.bound(tuned[1] / "branch", pair_rows(400))


def test_mixup_mixes_each_text_with_the_one_at_the_same_side(model):
    """The second texts are mixed with second ones: with a share of 0 for the text itself the answers are those of the other rows."""
    from trunkline.states.collate import collate

    branch = make_branch(model, pair_rows(), pairs="apart", depth=0)
    items = branch.prepare(pair_rows(8))
    batch = collate(items, LiveStates(branch.backbone.trunk(0), dtype="float32"), branch.spec)
    mix = objective("mixup", "single")
    seen = []

    def plain(out, batch):
        seen.append(out.logits.detach())
        return out.logits.sum()

    object.__setattr__(mix, "draw", lambda rows, device: (0.0, torch.arange(rows).flip(0)))
    network = branch.network.eval()
    data = type("Known", (), {"spec": branch.spec, "source": object()})()
    mix.ready(network, data, plain)(
        lambda given: network(replace(given, mask=batch.mask.flip(0).view(-1, 2, batch.mask.shape[1]).flip(1).flatten(0, 1))),
        batch,
        np.arange(8),
    )
    assert torch.allclose(seen[0], network(batch).logits.flip(0), atol=1e-5)

"""What every task x method keeps, on an encoder, a decoder and an encoder-decoder: the promises of ARCHITECTURE.md."""

import dataclasses

import numpy as np
import pytest
import torch

from tests import tiny
from trunkline import branch as branches
from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import ArtefactError, OptionError
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.model.backbone import ALL, load_backbone
from trunkline.model.families import FAMILIES as FAMILIES_OF
from trunkline.states.collate import collate
from trunkline.states.encode import encode
from trunkline.states.store import States
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import Rows

FAMILIES = ("bert", "llama", "t5")
LABELS: dict[str, list] = {
    "classify": ["arrived", "cancel", "refund", "password", "damaged", "arrived", "refund", "cancel"],
    "regress": [0.5, 2.0, -1.0, 3.5, 0.0, 1.0, 2.5, -2.0],
}
"""The label of each text, by task."""
FIELDS: dict[str, list[dict]] = {}
"""What rows of a task have beside text and label."""
LEARNED = {"classify": ("accuracy", 1.0), "regress": ("r2", 0.9)}
"""What eight rows learned by heart come to: at least this value of this metric (at most, where less is better)."""
REFUSED: set[tuple[str, str]] = set()
"""Task and method that do not go together; a test of the task holds that they are refused."""
TEXTS = [*tiny.TEXTS, "who is waiting for the package"]
NO_BIASES = ("llama", "t5")


def rows(task):
    fields = FIELDS.get(task, [{}] * len(TEXTS))
    return Rows(tuple({"text": t, "label": label, **more} for t, label, more in zip(TEXTS, LABELS[task], fields)), task)


def make(folder, task, method, depth, states="float32"):
    spec = names.task(task).TaskSpec(max_tokens=64, dropout=0.0)
    spec = dataclasses.replace(spec, **spec.learned_from(rows(task)))
    torch.manual_seed(0)
    return Branch.new(load_backbone(folder), spec, method, names.method(method).Config(), depth, states)


def stored(branch, items, folder):
    trunk = branch.backbone.trunk(branch.depth)
    store = States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=branch.states)
    encode([t for item in items for t in item.tokens], trunk, store, progress=False)
    return store


def logits(branch, items, source):
    branch.network.eval()
    with torch.no_grad():
        return branch.network(collate(items, source, branch.spec, branch.backbone.tokenizer.pad_id)).logits.numpy()


def bytes_of(backbone):
    return {name: p.detach().numpy().tobytes() for name, p in backbone.model.named_parameters()}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=sorted(names.METHODS))
def method(request, family):
    if request.param == "bitfit" and family in NO_BIASES:
        pytest.skip("this family has no biases; test_bitfit_is_refused_where_there_are_no_biases holds that")
    return request.param


@pytest.fixture(params=sorted(names.TASKS))
def task(request, family, method):
    if (request.param, method) in REFUSED:
        pytest.skip("this method has nothing to learn there; a test of the task holds that it is refused")
    kind = FAMILIES_OF[family].kind
    if kind not in names.task(request.param).TaskSpec.backbones:
        pytest.skip("this task needs another kind of model; test_a_task_on_a_model_of_another_kind_is_refused holds that")
    return request.param


@pytest.fixture(params=[0, 1, ALL])
def depth(request, family):
    if request.param != 1 and family != "bert":
        pytest.skip("every task x method x family at depth 1; the other depths on one family")
    return request.param


def test_it_learns_eight_rows_saves_loads_and_leaves_the_trunk_alone(task, method, family, depth, tiny_folder, tmp_path):
    branch = make(tiny_folder(family), task, method, depth)
    before = bytes_of(branch.backbone)
    items = branch.prepare(rows(task))
    source = None if depth == ALL else stored(branch, items, tmp_path / "states")
    assert source is None or np.allclose(logits(branch, items, source), logits(branch, items, branch.source()), atol=1e-5), "cached = live"
    data = Data(items, items, source, branch.spec, branch.backbone.tokenizer.pad_id)
    watched, wanted = LEARNED[task]
    few = method in ("probe", "bitfit") or depth == 0
    settings = Settings(
        epochs=400 if few else 150,
        batch_size=8,
        weight_decay=0.0,
        patience=None,
        metric=watched,
        evaluate_every=50,
        head_learning_rate=0.2 if few else 0.05,
        dropout=0.0,
        precision="float32",
    )
    fit(branch.network, data, settings, learning_rate=0.03 if method == "bitfit" else 0.01, seed=0)
    truth, scores = truth_and_scores(branch.spec, items, branch.answers(items, source))
    learned = compute([watched], truth, scores)[watched]
    assert learned >= wanted if METRICS[watched].higher_is_better else learned <= wanted
    assert bytes_of(branch.backbone) == before
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert np.array_equal(logits(again, items, again.source()), logits(branch, items, branch.source()))
    assert [a.value for a in again.predict(TEXTS)] == [a.value for a in branch.predict(TEXTS)]


def test_it_starts_as_the_plain_model(method, family, depth, tiny_folder):
    plain, grafted = (make(tiny_folder(family), "classify", name, depth) for name in ("probe", method))
    items = plain.prepare(rows("classify"))
    assert np.allclose(logits(plain, items, plain.source()), logits(grafted, items, grafted.source()), atol=1e-6)


def test_merging_changes_no_answer(method, family, depth, tiny_folder):
    branch = make(tiny_folder(family), "classify", method, depth)
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    items = branch.prepare(rows("classify"))
    merged = branch.merged()
    assert np.allclose(logits(branch, items, branch.source()), logits(merged, items, merged.source()), atol=1e-4)
    assert not any("lora" in name for name, _ in merged.network.named_parameters())


def test_the_whole_model_view_gives_the_same_states(family, tiny_folder):
    branch = make(tiny_folder(family), "classify", "full", 1)
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    items = branch.prepare(rows("classify"))
    batch = collate(items, None, branch.spec, branch.backbone.tokenizer.pad_id)
    whole = branch.backbone.whole(branch.network.upper, 1).eval()
    branch.network.eval()
    with torch.no_grad():
        wanted = branch.network(collate(items, branch.source(), branch.spec)).hidden
        got = whole(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


@pytest.mark.parametrize("task", sorted(names.TASKS))
def test_a_task_on_a_model_of_another_kind_is_refused(task, tiny_folder):
    for family in FAMILIES:
        if FAMILIES_OF[family].kind not in names.task(task).TaskSpec.backbones:
            with pytest.raises(OptionError, match="and the task needs"):
                make(tiny_folder(family), task, "full", 1)


@pytest.mark.parametrize("family", NO_BIASES)
def test_bitfit_is_refused_where_there_are_no_biases(family, tiny_folder):
    with pytest.raises(OptionError, match="no biases"):
        make(tiny_folder(family), "classify", "bitfit", 1)


@pytest.mark.parametrize("states", ["float16", "int8"])
def test_live_states_are_rounded_as_the_store_rounds_them(states, tiny_folder, tmp_path):
    branch = make(tiny_folder("bert"), "classify", "full", 2, states)
    items = branch.prepare(rows("classify"))
    source = stored(branch, items, tmp_path / "states")
    assert np.allclose(logits(branch, items, source), logits(branch, items, branch.source()), atol=2e-3 if states == "int8" else 1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_branch_keeps_the_precision_of_its_trunk(precision, family, tiny_folder, tmp_path):
    plain = make(tiny_folder(family), "classify", "full", 1)
    spec, config = plain.spec, plain.config
    branch = Branch.new(load_backbone(tiny_folder(family), trunk_precision=precision), spec, "full", config, 1, "float32")
    items = branch.prepare(rows("classify"))
    assert branch.backbone.id == plain.backbone.id
    assert branch.trunk_id != plain.trunk_id
    assert not np.array_equal(logits(branch, items, branch.source()), logits(branch, items, plain.source()))
    assert np.allclose(logits(branch, items, stored(branch, items, tmp_path / "states")), logits(branch, items, branch.source()), atol=1e-4)
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert again.trunk_id == branch.trunk_id
    assert np.array_equal(logits(again, items, again.source()), logits(branch, items, branch.source()))


def test_a_branch_of_another_backbone_is_refused_with_both_ids(tiny_folder, tmp_path):
    branch = make(tiny_folder("bert"), "classify", "full", 1)
    branch.save(tmp_path / "branch")
    with pytest.raises(ArtefactError) as caught:
        branches.load(tmp_path / "branch", model=tiny_folder("electra"))
    assert branch.backbone.id in str(caught.value)
    assert load_backbone(tiny_folder("electra")).id in str(caught.value)


def test_every_damaged_file_of_a_branch_is_refused(tiny_folder, tmp_path):
    make(tiny_folder("bert"), "classify", "lora", 1).save(tmp_path / "branch")
    generator = np.random.default_rng(0)
    for path in sorted((tmp_path / "branch").iterdir()):
        whole = path.read_bytes()
        for at in generator.choice(len(whole), 20):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(ArtefactError):
                branches.load(tmp_path / "branch")
        path.unlink()
        with pytest.raises(ArtefactError):
            branches.load(tmp_path / "branch")
        path.write_bytes(whole)
    (tmp_path / "branch" / "more.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"more\.json"):
        branches.load(tmp_path / "branch")


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(tiny_folder):
    branch = make(tiny_folder("bert"), "classify", "full", 1)
    tensors = {name: p.detach().clone() for name, p in branch.network.learned().items()}
    first, *_ = tensors
    for change in ({"other": torch.zeros(1)}, {first: torch.zeros(1, 2, 3)}):
        with pytest.raises(ArtefactError, match=next(iter(change))):
            branches.restore(branch.network, {**tensors, **change}, "x")
    del tensors[first]
    with pytest.raises(ArtefactError, match=first):
        branches.restore(branch.network, tensors, "x")


def test_a_branch_that_answers_otherwise_than_when_it_was_saved_is_refused(tiny_folder, tmp_path, monkeypatch):
    branch = make(tiny_folder("bert"), "classify", "full", 1)
    monkeypatch.setattr(Branch, "probe", lambda self: np.zeros((4, 5)))
    branch.save(tmp_path / "branch")
    monkeypatch.undo()
    with pytest.raises(ArtefactError, match="answers differently"):
        branches.load(tmp_path / "branch")

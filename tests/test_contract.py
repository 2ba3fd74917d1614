"""What every task x method keeps, on an encoder, a decoder and an encoder-decoder: the promises of ARCHITECTURE.md.

The quick suite runs every task with two methods and every method with one task, at depth 1; wider ones the other depths, `-m slow` the rest of the product.
"""

import dataclasses

import numpy as np
import pytest
import torch

from tests import tiny
from trunkline import branch as branches
from trunkline import choices, names
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
TEXTS = [*tiny.TEXTS, "who is waiting for the package"]
PASSAGES = (
    "refund the money to my account",
    "account of the order",
    "please help me with my account today",
    "who changed the password for the account",
    "the package arrived but the account was damaged",
    "my account, please",
    "cancel the account today",
    "the order has not arrived yet",
)
"""What the questions of `span` are about; the last one has no answer."""


def place(text, part):
    """Start and end of a part of a text."""
    return [text.index(part), text.index(part) + len(part)]


WORDS = ("my card waiting", "please cancel order", "refund money today", "help me password", "the package damaged", "订 单 请", "要 退 款",
         "who is package")  # fmt: skip
"""The words of each text that are looked at in `tag`."""
ENTITIES = ("card", "order", "money", "password", "package", "订单", "退款", "package")
LABELS: dict[str, list] = {
    "classify": ["arrived", "cancel", "refund", "password", "damaged", "arrived", "refund", "cancel"],
    "regress": [0.5, 2.0, -1.0, 3.5, 0.0, 1.0, 2.5, -2.0],
    "tag": [[[*place(text, entity), "MONEY" if entity in ("money", "退款") else "THING"]] for text, entity in zip(TEXTS, ENTITIES)],
    "span": [[[passage.find("account"), "account"]] if "account" in passage else [] for passage in PASSAGES],
    "rank": [None] * 8,
    "recommend": [None] * 8,
    "reward": [None] * 8,
    "seq2seq": list(PASSAGES),
    "generate": list(PASSAGES),
}
"""The label of each text, by task."""
FIELDS: dict[str, list[dict]] = {
    "tag": [{"words": [place(text, word) for word in words.split()]} for text, words in zip(TEXTS, WORDS)],
    "span": [{"text_b": passage} for passage in PASSAGES],
    "rank": [{"text_b": passage, "negatives": [PASSAGES[at - 1]]} for at, passage in enumerate(PASSAGES)],
    "recommend": [{"text_b": PASSAGES[at], "history": [PASSAGES[at - 1], PASSAGES[at - 2]]} for at in range(8)],
    "reward": [{"text_b": PASSAGES[at], "rejected": PASSAGES[at - 1]} for at in range(8)],
}
"""What rows of a task have beside text and label."""
LEARNED = {
    "classify": ("accuracy", 1.0),
    "regress": ("r2", 0.9),
    "tag": ("entity_f1", 0.85),  # a linear head on 16 numbers cannot learn every word
    "span": ("span_f1", 1.0),
    "rank": ("mrr", 1.0),
    "recommend": ("mrr", 1.0),
    "reward": ("pair_accuracy", 1.0),
    "seq2seq": ("perplexity", 70.0),  # from 160: the layers cannot learn more where the output layer stays
    "generate": ("perplexity", 7.0),  # from 300
}
"""What eight rows learned by heart come to: at least this value of this metric (at most, where less is better)."""
REFUSED: set[tuple[str, str]] = {("seq2seq", "probe"), ("generate", "probe"), ("seq2seq", "prompt"), ("generate", "prompt")}
"""Task and method that do not go together; a test of the task holds that they are refused."""
NO_BIASES = ("llama", "t5")
QUICK = ("classify", ("full", "lora"))
"""The quick suite: every method with this task, every task with these methods."""
FEW = ("probe", "bitfit")
"""Methods that train so little that they need more steps here."""
LARGE = ("bitfit", "norm", "ia3", "prefix", "prompt")
"""Methods whose few numbers need larger steps."""
OPTIONS = ("lora:bits=4",)
"""Methods with options that change what a branch stands on."""
NOT_PLAIN = ("prompt", "lora:bits=4")
"""Methods that change the model before the first step, and say so."""
NOT_MERGED = ("adapter", "prefix", "prompt")
"""Methods whose `merge` refuses; tests/methods holds that."""


def rows(task):
    fields = FIELDS.get(task, [{}] * len(TEXTS))
    return Rows(tuple({"text": t, "label": label, **more} for t, label, more in zip(TEXTS, LABELS[task], fields)), task)


def make(folder, task, method, depth, states="float32", precision="float32"):
    kind = names.task(task).TaskSpec
    told = {"max_tokens": 64, "dropout": 0.0, "max_new_tokens": 8}
    spec = kind(**{name: value for name, value in told.items() if name in {field.name for field in dataclasses.fields(kind)}})
    spec = dataclasses.replace(spec, **spec.learned_from(rows(task)))
    torch.manual_seed(0)
    name, told = choices.split_choice(method)
    return Branch.new(
        load_backbone(folder, trunk_precision=precision), spec, name, choices.build(names.method(name).Config, told, name), depth, states
    )


def stored(branch, items, folder):
    trunk = branch.backbone.trunk(branch.depth)
    store = States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=branch.states)
    encode([t for item in items for t in item.tokens], trunk, store, progress=False)
    return store


def logits(branch, items, source):
    branch.network.eval()
    with torch.no_grad():
        return branch.network(collate(items, source, branch.spec, branch.backbone.tokenizer.pad_id)).logits.numpy()


def value_of(branch, items, source, metric):
    return compute([metric], *truth_and_scores(branch.spec, items, branch.answers(items, source)))[metric]


def bytes_of(backbone):
    return {name: p.detach().numpy().tobytes() for name, p in backbone.model.named_parameters()}


@pytest.fixture(params=[name if name != "t5" else pytest.param(name, marks=pytest.mark.wide) for name in FAMILIES])
def family(request):
    return request.param


def skip_without_biases(method, family):
    if method == "bitfit" and family in NO_BIASES:
        pytest.skip("this family has no biases; test_bitfit_is_refused_where_there_are_no_biases holds that")


@pytest.fixture(params=[*sorted(names.METHODS), *OPTIONS])
def method(request, family):
    skip_without_biases(request.param, family)
    return request.param


def pairs():
    """Every task with every method; what is not in the quick suite is marked."""
    for task in sorted(names.TASKS):
        for method in (*sorted(names.METHODS), *OPTIONS):
            quick = task == QUICK[0] or method in QUICK[1]
            mark = [] if quick else [pytest.mark.wide if method in OPTIONS else pytest.mark.slow]
            yield pytest.param((task, method), id=f"{task}-{method}", marks=mark)


@pytest.fixture(params=pairs())
def pair(request, family):
    task, method = request.param
    skip_without_biases(method, family)
    if request.param in REFUSED:
        pytest.skip("this method has nothing to learn there; a test of the task holds that it is refused")
    if FAMILIES_OF[family].kind not in names.task(task).TaskSpec.backbones:
        pytest.skip("this task needs another kind of model; test_a_task_on_a_model_of_another_kind_is_refused holds that")
    return request.param


@pytest.fixture(params=[pytest.param(0, marks=pytest.mark.wide), 1, pytest.param(ALL, marks=pytest.mark.wide)])
def depth(request, family):
    if request.param != 1 and family != "bert":
        pytest.skip("every task x method x family at depth 1; the other depths on one family")
    return request.param


def test_it_learns_eight_rows_saves_loads_and_leaves_the_trunk_alone(pair, family, depth, tiny_folder, tmp_path):
    task, method = pair
    if depth == 0 and method not in ("full", "probe"):
        pytest.skip("at depth 0 every method is the head alone; tests/methods holds that")
    branch = make(tiny_folder(family), task, method, depth)
    before = bytes_of(branch.backbone)
    items = branch.prepare(rows(task))
    source = None if depth == ALL else stored(branch, items, tmp_path / "states")
    assert source is None or np.allclose(logits(branch, items, source), logits(branch, items, branch.source()), atol=1e-5), "cached = live"
    data = Data(items, items, source, branch.spec, branch.backbone.tokenizer.pad_id)
    watched, wanted = LEARNED[task]
    if watched == "perplexity" and method not in (*QUICK[1], *OPTIONS):
        wanted = 0.8 * value_of(branch, items, source, watched)  # with the output layer as it is, few numbers cannot learn it by heart
    few = method in FEW or depth == 0
    settings = Settings(
        epochs=400 if few else 150,
        batch_size=8,
        weight_decay=0.0,
        patience=None,
        metric=watched,
        evaluate_every=10,
        head_learning_rate=0.2 if few else 0.05,
        dropout=0.0,
        precision="float32",
    )

    def enough(value):
        return value is not None and (value >= wanted if METRICS[watched].higher_is_better else value <= wanted)

    def stop(progress, steps):
        progress.done |= enough(progress.best)

    fit(branch.network, data, settings, learning_rate=0.03 if method in LARGE else 0.01, seed=0, on_step=stop)
    assert enough(value_of(branch, items, source, watched))
    assert bytes_of(branch.backbone) == before
    branch.save(tmp_path / "branch")
    again = branches.load(tmp_path / "branch")
    assert np.array_equal(logits(again, items, again.source()), logits(branch, items, branch.source()))
    assert [a.value for a in again.predict(rows(task))] == [a.value for a in branch.predict(rows(task))]


def test_it_starts_as_the_plain_model(method, family, depth, tiny_folder):
    if method in NOT_PLAIN:
        pytest.skip("this method changes the model before the first step")
    plain, grafted = (make(tiny_folder(family), "classify", name, depth) for name in ("probe", method))
    items = plain.prepare(rows("classify"))
    assert np.allclose(logits(plain, items, plain.source()), logits(grafted, items, grafted.source()), atol=1e-6)


def test_merging_changes_no_answer(method, family, depth, tiny_folder):
    if method in NOT_MERGED:
        pytest.skip("this method cannot merge; tests/methods holds that it says so")
    branch = make(tiny_folder(family), "classify", method, depth)
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    items = branch.prepare(rows("classify"))
    merged = branch.merged()
    assert np.allclose(logits(branch, items, branch.source()), logits(merged, items, merged.source()), atol=1e-4)
    plain = make(tiny_folder(family), "classify", "probe", depth)
    assert {name for name, _ in merged.network.named_parameters()} == {name for name, _ in plain.network.named_parameters()}


@pytest.mark.parametrize(("method", "precision"), [("full", "float32"), ("full", "nf4"), ("lora:bits=4", "nf4")])
def test_the_whole_model_view_gives_the_same_states(method, precision, family, tiny_folder):
    branch = make(tiny_folder(family), "classify", method, 1, precision=precision)
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


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "nf4"])
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

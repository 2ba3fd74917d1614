"""The engine: one pass for all branches, answers that do not depend on who asks at the same time, and what it refuses."""

import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.serving.samples import asked, branch, together
from trunkline.errors import ArtefactError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.model.precision import processor_has
from trunkline.serving.compute import onnx_layers
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.load import Shelf
from trunkline.serving.compute.pool import version_of
from trunkline.serving.compute.queue import Ask
from trunkline.serving.compute.taps import ALIKE, Taps
from trunkline.serving.compute.upper import Upper
from trunkline.serving.compute.wire import Messages, packed, receive
from trunkline.serving.compute.worker import Worker
from trunkline.types import Batch

TEXTS = tiny.TEXTS
FLOAT32 = 1e-5
"""Bar S26: how far a probability may move with the batch it is computed in."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(cache_bytes=0, runtime="torch")
    yield made
    made.close()


@pytest.fixture(scope="module")
def backbone(tiny_folder):
    return load_backbone(tiny_folder("bert"))


@pytest.fixture(scope="module")
def kinds(backbone):
    """Branches of every depth, of several tasks, on one backbone."""
    return {
        "head": branch(backbone, depth=0, seed=1),
        "head2": branch(backbone, depth=0, seed=2),
        "one": branch(backbone, depth=1, seed=3),
        "two": branch(backbone, depth=2, seed=4, method="lora"),
        "whole": branch(backbone, depth="all", seed=5),
        "many": branch(backbone, depth=1, seed=6, multi_label=True),
        "number": branch(backbone, "regress", depth=1, seed=7),
        "tag": branch(backbone, "tag", depth=1, seed=8),
        "coarse": branch(backbone, depth=1, seed=9, states="int8"),
        "adapter": branch(backbone, depth=2, seed=10, method="adapter"),
    }


def scores(answer):
    """The numbers of an answer, in an order that does not depend on them."""
    if "labels" in answer:
        return np.array([one["probability"] for one in sorted(answer["labels"], key=lambda one: one["label"])])
    return np.array([answer.get("number", answer.get("probability", 0.0))])


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_it_answers_as_the_branches_do(runtime, kinds):
    engine = Engine(cache_bytes=0, runtime=runtime)
    for name, one in kinds.items():
        engine.add(name, one)
    replies = asked(engine, TEXTS, list(kinds))["answers"]
    for name, one in kinds.items():
        for reply, wanted in zip(replies, one.predict(TEXTS), strict=True):
            found = reply[name]
            if name == "tag":
                assert found["entities"] == wanted.value
            elif name == "number":
                assert found["number"] == pytest.approx(wanted.value, abs=5e-3)
            else:
                assert found.get("label", found.get("value")) == wanted.value
                assert np.allclose(scores(found), [p for _, p in sorted(zip(one.spec.labels, wanted.scores))], atol=1e-3)
    runtimes = {name: engine.about(name)["runtime"] for name in kinds}
    engine.close()
    assert runtimes["one"] == {"trunk": runtime, "branch": runtime}
    assert runtimes["two"]["branch"] == runtime, "LoRA is merged"
    assert runtimes["adapter"]["branch"] == runtimes["whole"]["branch"] == "torch"


def test_one_pass_of_the_trunk_for_all_branches(engine, kinds):
    for name, one in kinds.items():
        engine.add(name, one)
    before = engine.passes
    asked(engine, TEXTS[:3], list(kinds))
    assert engine.passes - before == 1


def test_heads_in_one_product_answer_as_alone(engine, kinds):
    engine.add("head", kinds["head"])
    alone = asked(engine, TEXTS, ["head"])["answers"]
    engine.add("head2", kinds["head2"])
    assert engine.loaded["head"].stack is engine.loaded["head2"].stack is not None
    both = asked(engine, TEXTS, ["head", "head2"])["answers"]
    assert all(np.abs(scores(a["head"]) - scores(b["head"])).max() <= 1e-6 for a, b in zip(alone, both))


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_layers_that_two_branches_have_the_same_run_once_for_both(runtime, backbone, monkeypatch):
    """As `tune_together` leaves them: the same layers, other heads. A third with other layers, or a branch asked for other rows, runs its own."""
    one, other, third = branch(backbone, depth=1, seed=3), branch(backbone, "tag", depth=1, seed=8), branch(backbone, depth=1, seed=6)
    other.network.upper.load_state_dict(one.network.upper.state_dict())
    alone = {"one": one.predict(TEXTS), "other": other.predict(TEXTS)}
    engine = Engine(cache_bytes=0, runtime=runtime)
    for name, made in (("one", one), ("other", other), ("third", third)):
        engine.add(name, made)
    assert engine.loaded["other"].upper.network.upper is engine.loaded["one"].upper.network.upper, "held once"
    assert engine.about("other")["runtime"] == engine.about("one")["runtime"] == {"trunk": runtime, "branch": runtime}
    runs = []
    plain = Upper.hidden
    monkeypatch.setattr(Upper, "hidden", lambda upper, batch: runs.append(upper) or plain(upper, batch))
    replies = asked(engine, TEXTS[:3], ["one", "other", "third"])["answers"]
    assert len(runs) == 2, "for one and other together, and for the third"
    for at, reply in enumerate(replies):
        assert reply["one"]["label"] == alone["one"][at].value
        assert reply["other"]["entities"] == alone["other"][at].value
    runs.clear()
    together(engine, [(TEXTS[:2], ["one"]), (TEXTS[1:3], ["other"])])
    assert len(runs) == 2, "other rows: nothing is computed that nobody asked for"
    engine.remove("one")
    assert [a["other"]["entities"] for a in asked(engine, TEXTS, ["other"])["answers"]] == [a.value for a in alone["other"]]
    engine.close()


@pytest.mark.parametrize(("runtime", "batches"), [("torch", 40), ("onnx", 200)])
def test_an_answer_does_not_depend_on_its_batch(runtime, batches, kinds):
    """Bar S26, float32: mixed batches, no label flips, probabilities within 1e-5."""
    engine = Engine(cache_bytes=0, runtime=runtime)
    for name in ("head", "one", "two"):
        engine.add(name, kinds[name])
    versions = ["head", "one", "two"]
    texts = [*TEXTS, "order " * 30, "a", "退款 " * 12]
    alone = {text: asked(engine, [text], versions)["answers"][0] for text in texts}
    draw = random.Random(0)
    for _ in range(batches):
        some = [draw.choice(texts) for _ in range(draw.randint(1, 8))]
        for text, found in zip(some, asked(engine, some, versions)["answers"], strict=True):
            for version in versions:
                assert found[version]["label"] == alone[text][version]["label"]
                assert np.abs(scores(found[version]) - scores(alone[text][version])).max() <= FLOAT32
    engine.close()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_rounded_trunk_gives_the_same_in_any_batch(precision, tiny_folder):
    """Bar S26, int8: an outlier beside it changes no bit of a text's states, and so no more of its answer than float32 does."""
    whole = load_backbone(tiny_folder("bert"), trunk_precision=precision)
    engine = Engine(cache_bytes=0)
    engine.add("one", branch(whole, depth=1, seed=3, states="float32"))
    assert engine.about("one")["precision"] == precision
    alone = [asked(engine, [text], ["one"])["answers"][0]["one"] for text in TEXTS]
    outlier = "refund " * 60
    for at in range(len(TEXTS)):
        (_, found) = asked(engine, [outlier, TEXTS[at]], ["one"])["answers"]
        assert found["one"]["label"] == alone[at]["label"]
        assert np.abs(scores(found["one"]) - scores(alone[at])).max() <= FLOAT32  # its layers above the cut are float32
    engine.close()


@pytest.mark.skipif(not processor_has("avx512_vnni", "avx_vnni", "avx2"), reason="int8 runs in torch there")
def test_int8_in_onnx_is_that_of_torch_and_of_no_neighbour(tiny_folder):
    """Bars A11 and S26: its states are alike those that torch gives, and no bit of them changes with the batch, 200 mixed ones with an outlier."""
    whole = load_backbone(tiny_folder("bert"), trunk_precision="int8")
    cut = whole.layers - 1
    plain, fast = Taps(whole, [cut]), Taps(whole, [cut])
    assert fast.may_use_onnx()
    fast.use_onnx(1)
    texts = [whole.tokenizer.encode(text, max_tokens=64)[0] for text in [*TEXTS, "order " * 30, "a", "退款 " * 12]]
    alone = [fast([one], [cut])[0][cut][0] for one in texts]
    for one, found in zip(texts, alone):
        wanted = plain([one], [cut])[0][cut][0]
        assert torch.nn.functional.cosine_similarity(found, wanted, -1).mean() >= ALIKE
        assert torch.nn.functional.cosine_similarity(found - wanted.mean(0), wanted - wanted.mean(0), -1).mean() >= ALIKE
    outlier, draw = whole.tokenizer.encode("refund " * 60, max_tokens=64)[0], random.Random(0)
    for _ in range(200):
        some = [draw.randrange(len(texts)) for _ in range(draw.randint(1, 8))]
        states, _ = fast([*(texts[at] for at in some), outlier], [cut])
        assert all(torch.equal(row[: len(texts[at])], alone[at]) for at, row in zip(some, states[cut]))


@pytest.mark.skipif(not processor_has("avx512_vnni", "avx_vnni", "avx2"), reason="int8 runs in torch there")
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_layers_in_int8_answer_as_the_branch_does_beside_any_neighbour(runtime, tiny_folder):
    """Bars A11 and S26 above the cut: of one text alone in a pass, of several of one length, and of texts of many lengths."""
    made = replace(branch(load_backbone(tiny_folder("bert"), trunk_precision="int8"), depth=1, seed=3, states="float32"), precision="int8")
    engine = Engine(cache_bytes=0, runtime=runtime)
    engine.add("one", made)
    assert engine.about("one")["runtime"] == {"trunk": runtime, "branch": runtime}
    texts = [*TEXTS, "order " * 30, "a"]
    alone = [asked(engine, [text], ["one"])["answers"][0]["one"] for text in texts]
    for found, wanted in zip(alone, made.predict(texts), strict=True):
        assert found["label"] == wanted.value
        assert found["probability"] == pytest.approx(wanted.probability, abs=0.02)
    draw = random.Random(0)
    for _ in range(20):
        some = [draw.randrange(len(texts)) for _ in range(draw.randint(1, 8))]
        replies = asked(engine, [*(texts[at] for at in some), "refund " * 60], ["one"])["answers"]
        assert all(np.abs(scores(reply["one"]) - scores(alone[at])).max() <= FLOAT32 for at, reply in zip(some, replies))
    engine.close()


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_embeddings_are_those_of_the_library(family, tiny_folder):
    """With padding, and with segments where the family has them; positions of xlm-roberta begin behind its padding."""
    whole = load_backbone(tiny_folder(family))
    made = onnx_layers.Embeddings.of(whole.stack)
    assert made is not None
    ids = torch.randint(5, 20, (3, 9))
    ids[1, 6:] = whole.tokenizer.pad_id
    for types in (None, torch.randint(0, whole.config.type_vocab_size, (3, 9))):
        found = made.norm(torch.from_numpy(made(ids.numpy(), None if types is None else types.numpy())))
        assert torch.allclose(found, onnx_layers.embedded(whole.stack, ids, types), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "attention"])
def test_a_head_in_onnx_is_that_of_torch(pooling, backbone):
    """Beside padding whose states are NaN. Those of a form that it does not have stay in torch."""
    upper = Upper(branch(backbone, depth=1, seed=3, pooling=pooling))
    mask = torch.arange(7) < torch.tensor([7, 3])[:, None]
    batch = Batch(torch.randn(2, 7, backbone.width), mask, torch.arange(2), upper.network.head)
    wanted = upper(batch).logits
    upper.use_onnx(1)
    lifted = upper.hidden(batch)
    assert len(lifted) == (2 if pooling in ("mean", "first") else 1)
    assert torch.allclose(upper.head(lifted, batch).logits, wanted, atol=1e-5)
    assert torch.allclose(upper.network.head(lifted[0].masked_fill(~mask[..., None], torch.nan), batch), wanted, atol=1e-5)


@pytest.mark.skipif(not processor_has("avx512_vnni", "avx_vnni", "avx2"), reason="int8 runs in torch there")
def test_int8_in_onnx_does_not_overflow(tiny_folder):
    """Weights of one magnitude all become 127 or -127, the largest sums there are: a product that rounds them to 16 bits shows it."""
    whole = load_backbone(tiny_folder("bert"), trunk_precision="int8")
    for module in whole.stack.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.copy_(0.2 * torch.randint(0, 2, module.weight.shape) - 0.1)
    plain, fast = Taps(whole, [1]), Taps(whole, [1])
    fast.use_onnx(1)
    texts = [whole.tokenizer.encode(text, max_tokens=64)[0] for text in TEXTS]
    (found, mask), (wanted, _) = fast(texts, [1]), plain(texts, [1])
    assert torch.nn.functional.cosine_similarity(found[1][mask], wanted[1][mask], -1).min() >= ALIKE


@pytest.mark.parametrize("order", [("float32", "nf4"), ("nf4", "float32"), ("nf4", "int8")])
def test_a_trunk_in_4_bits_lends_no_weights_and_takes_none(order, tiny_folder, tmp_path):
    """Others share one model in memory. This one has no floats that another could use, and rounds none that another uses."""
    wanted = {}
    for precision in order:
        made = branch(load_backbone(tiny_folder("bert"), trunk_precision=precision), depth=1, seed=3, states="float32")
        made.save(tmp_path / precision)
        wanted[precision] = [answer.scores for answer in made.predict(TEXTS)]
    shelf = Shelf()
    loaded = {precision: shelf.load(tmp_path / precision) for precision in order}
    assert len({id(one.backbone.model) for one in loaded.values()}) == 2
    for precision, one in loaded.items():
        assert np.allclose([answer.scores for answer in one.predict(TEXTS)], wanted[precision], atol=FLOAT32)


def test_states_of_a_text_are_reused_by_its_tenant_alone(kinds):
    engine = Engine(cache_bytes=1 << 20, runtime="torch")
    engine.add("one", kinds["one"])
    added = engine.passes
    first = asked(engine, TEXTS, ["one"], tenant="a")["answers"]
    passes = engine.passes
    again = asked(engine, TEXTS, ["one"], tenant="a")["answers"]
    assert engine.passes == passes
    assert all(np.abs(scores(x["one"]) - scores(y["one"])).max() <= FLOAT32 for x, y in zip(first, again))
    asked(engine, TEXTS, ["one"], tenant="b")
    assert engine.passes - passes == passes - added > 0
    engine.close()


def test_the_cache_keeps_within_its_bytes(kinds):
    engine = Engine(cache_bytes=40_000, runtime="torch")
    engine.add("one", kinds["one"])
    for text in (f"{a} {b}" for a in TEXTS for b in TEXTS):
        asked(engine, [text], ["one"])
        assert engine.cache.bytes <= 40_000
    assert len(engine.cache) > 1
    engine.close()


def test_requests_together_are_one_batch(engine, kinds):
    engine.add("one", kinds["one"])
    asked(engine, TEXTS, ["one"])
    replies = together(engine, [([text], ["one"]) for text in TEXTS * 4])
    assert max(reply["batch"] for reply in replies) > 4
    assert all("answers" in reply for reply in replies)


def test_tenants_take_turns(engine, kinds):
    """One who sends much does not keep another waiting: his one request is not behind all of theirs."""
    engine.add("one", kinds["one"])
    order: list[str] = []
    done = threading.Semaphore(0)
    for number in range(200):
        engine.ask(Ask([{"text": f"{TEXTS[0]} {number}"}], ["one"], lambda _: (order.append("many"), done.release()), tenant="many"))
    engine.ask(Ask([{"text": TEXTS[1]}], ["one"], lambda _: (order.append("single"), done.release()), tenant="single"))
    for _ in range(201):
        assert done.acquire(timeout=30)
    assert order.index("single") < 200 - 20


def test_what_is_late_or_gone_is_not_computed(engine, kinds):
    engine.add("one", kinds["one"])
    before = engine.passes
    assert asked(engine, TEXTS, ["one"], until=0.0)["error"] == "too_late"
    assert asked(engine, TEXTS, ["other"])["error"] == "gone"
    assert engine.passes == before


def test_a_text_too_long_is_refused_or_cut_as_asked(engine, kinds):
    engine.add("one", kinds["one"])
    assert asked(engine, ["order " * 100], ["one"])["error"] == "too_many_tokens"
    assert asked(engine, ["order " * 100], ["one"], truncate=True)["answers"][0]["one"]["truncated"] is True
    assert asked(engine, TEXTS, ["one"], max_cost=20)["error"] == "too_expensive"


def test_one_bad_request_harms_itself_alone(engine, kinds, monkeypatch):
    engine.add("one", kinds["one"])
    plain = Upper.hidden

    def bad(upper, batch):
        if batch.hidden.shape[1] > 40:
            raise RuntimeError("planted")
        return plain(upper, batch)

    monkeypatch.setattr(Upper, "hidden", bad)
    replies = together(engine, [([TEXTS[0]], ["one"]), (["order " * 50], ["one"]), ([TEXTS[1]], ["one"])])
    assert ["answers" in reply for reply in replies] == [True, False, True]
    assert replies[1]["error"] == "internal"
    assert "planted" not in replies[1]["message"]


@pytest.mark.parametrize("name", ["head", "one", "many", "number", "tag"])
def test_a_branch_that_gives_nan_is_named(engine, kinds, name):
    """NaN for one text: of the branch that gave it, and of that request alone."""
    for one in (name, "two"):
        engine.add(one, kinds[one])
    head = engine.loaded[name].upper.network.head

    def breaks(head, given, found):
        if int(given[1].mask.sum(1).max()) > 12:
            return (found[0] * torch.nan, found[1]) if isinstance(found, tuple) else found * torch.nan
        return found

    head.register_forward_hook(breaks)
    long = "my card " * 12
    replies = together(engine, [(["refund"], [name]), ([long], ["two"]), ([long], [name, "two"])])
    assert "answers" in replies[0]
    assert "answers" in replies[1]
    assert (replies[2]["error"], replies[2]["version"]) == ("not_finite", name)


def test_what_cannot_be_written_is_answered_at_once():
    """A reply that is no JSON: the worker says so, where it said nothing and the request waited out its deadline."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(packed({"threads": 1, "runtime": "torch", "cache_bytes": 0}))
        worker = Worker(theirs)
        for reply in ({"answers": [float("nan")]}, {"answers": [np.float32(1)]}):
            worker._reply(7, reply)
            found = receive(ours)
            assert (found["id"], found["error"]) == (7, "internal")
        worker._engine.close()


def test_messages_are_taken_whole_however_they_come():
    """In pieces, and several at once."""
    told = [{"id": 1, "text": "退款"}, {"id": 2}, {"id": 3, "text": "x" * 300}]
    data = b"".join(map(packed, told))
    for size in (1, 7, len(data)):
        taken, ended = [], []
        messages = Messages(taken.append, lambda ended=ended: ended.append(True))
        for start in range(0, len(data), size):
            messages.data_received(data[start : start + size])
        messages.connection_lost(None)
        assert (taken, ended) == (told, [True])


def test_a_branch_that_answers_otherwise_is_not_served(engine, kinds, monkeypatch):
    one = branch(kinds["one"].backbone, seed=3)
    stored = one.probe() + 0.1
    monkeypatch.setattr(one, "probe", lambda: stored)
    with pytest.raises(ArtefactError, match="answers its probes otherwise"):
        engine.add("one", one)
    assert engine.loaded == {}


def test_a_branch_that_writes_has_another_place(engine, tiny_folder):
    with pytest.raises(OptionError, match="model that writes"):
        engine.add("t5", branch(tiny_folder("t5"), "seq2seq"))


def test_removing_forgets_the_backbone(engine, kinds):
    engine.add("one", kinds["one"])
    engine.remove("one")
    assert engine.taps == {}
    assert asked(engine, TEXTS, ["one"])["error"] == "gone"


def test_a_folder_that_was_changed_is_not_served_as_the_version_it_was(engine, kinds, tmp_path, tiny_folder):
    """As when a worker is started again and loads what the server was given hours ago."""
    kinds["head"].save(tmp_path / "branch")
    version = version_of(tmp_path / "branch")
    assert engine.load(version, tmp_path / "branch", str(tiny_folder("bert")))["version"] == version
    kinds["head2"].save(tmp_path / "other")
    (tmp_path / "branch").rename(tmp_path / "gone")
    (tmp_path / "other").rename(tmp_path / "branch")
    with pytest.raises(ArtefactError, match="was changed since version"):
        engine.load(version, tmp_path / "branch", str(tiny_folder("bert")))

"""Work side by side in several threads: in order, at the same time, and over when an error comes out."""

import threading
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.serving.samples import asked, branch, together
from trunkline.model.backbone import load_backbone
from trunkline.model.precision import processor_has
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.lanes import Lanes

INTEGERS = pytest.mark.skipif(not processor_has("avx512_vnni", "avx_vnni", "avx2"), reason="int8 runs in torch there")


@pytest.fixture
def lanes():
    made = Lanes(3)
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_what_tasks_give_comes_in_their_order(count, lanes):
    assert lanes.run([lambda at=at: at for at in range(count)]) == list(range(count))


def test_tasks_run_at_the_same_time_and_without_gradients(lanes):
    meeting = threading.Barrier(3, timeout=20)

    def meet():
        meeting.wait()
        return torch.is_inference_mode_enabled()

    assert lanes.run([meet] * 3) == [True] * 3


def test_one_lane_is_the_thread_that_asks():
    assert set(Lanes(1).run([threading.get_ident] * 3)) == {threading.get_ident()}


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_comes_out_when_all_have_ended(bad, lanes):
    ended = []

    def work(at):
        if at == bad:
            raise ValueError("bad")
        ended.append(at)

    with pytest.raises(ValueError, match="bad"):
        lanes.run([lambda at=at: work(at) for at in range(3)])
    assert len(ended) == 2


@INTEGERS
def test_an_engine_of_two_threads_answers_as_one_of_one(tiny_folder):
    """Many texts in many passes, branches with the same and with other layers, in int8 and float32, in ONNX Runtime and in torch."""
    backbone = load_backbone(tiny_folder("bert"), trunk_precision="int8")
    made = {
        "one": replace(branch(backbone, depth=1, seed=1), precision="int8"),
        "same": replace(branch(backbone, depth=1, seed=1), precision="int8"),
        "other": replace(branch(backbone, depth=2, seed=2), precision="int8"),
        "float32": branch(backbone, depth=1, seed=6),
        "torch": branch(backbone, depth=2, seed=3, method="adapter"),
        "head": branch(backbone, depth=0, seed=4),
        "tag": branch(backbone, "tag", depth=1, seed=5),
    }
    texts = [text + " please" * (at % 7) for at, text in enumerate(tiny.TEXTS * 12)]
    replies = {}
    for threads in (1, 2):
        engine = Engine(threads=threads, runtime="onnx", cache_bytes=0)
        for name, one in made.items():
            engine.add(name, one)
        assert {name for name, loaded in engine.loaded.items() if loaded.upper.in_one_thread} >= {"one", "same", "other"}
        before = engine.passes
        replies[threads] = asked(engine, texts, list(made))["answers"]
        assert engine.passes - before >= 2
        engine.close()
    for one, two in zip(replies[1], replies[2], strict=True):
        for name in made:
            assert one[name].get("label") == two[name].get("label")
            assert one[name].get("entities") == two[name].get("entities")
            assert one[name].get("probability") == pytest.approx(two[name].get("probability"), abs=1e-5)


@INTEGERS
def test_a_branch_that_fails_beside_others_fails_its_own_request_only(tiny_folder):
    backbone = load_backbone(tiny_folder("bert"))
    good, bad = (replace(branch(backbone, depth=1, seed=seed), precision="int8") for seed in (1, 2))
    engine = Engine(threads=2, runtime="onnx", cache_bytes=0)
    engine.add("good", good)
    engine.add("bad", bad)
    engine.loaded["bad"].upper.network.head = None
    engine.loaded["bad"].upper.head = None  # calling it is an error
    found = together(engine, [(["my card"], ["good"]), (["my card"], ["good", "bad"]), (["refund"], ["good"])])
    assert [reply.get("error") for reply in found] == [None, "internal", None]
    assert found[0]["answers"][0]["good"]["label"] == good.predict("my card")[0].value
    engine.close()

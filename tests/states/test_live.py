"""The live twin: the same face and the same numbers as the store."""

import numpy as np
import pytest

from tests.states.fake_trunk import FakeTrunk, random_tokens
from trunkline.errors import StatesError
from trunkline.states.encode import encode
from trunkline.states.live import LiveStates, run_trunk
from trunkline.states.quantise import as_stored
from trunkline.states.store import States
from trunkline.types import Tokens

TEXTS = random_tokens(50, pairs=True)


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.02)])
def test_live_is_cached(tmp_path, dtype, noise):
    trunk = FakeTrunk()
    states = States.open(tmp_path / "s", trunk_id=trunk.id, width=16, dtype=dtype)
    encode(TEXTS, trunk, states, max_tokens=100)
    live = LiveStates(trunk, dtype=dtype, max_tokens=37)  # other batches than those of the store
    for got, wanted in zip(live.read(TEXTS), states.read(TEXTS), strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() <= noise
    assert np.abs(live.pooled(TEXTS) - states.pooled(TEXTS)).max() <= noise
    assert live.missing(TEXTS) == states.missing(TEXTS) == []
    assert (live.trunk_id, live.width, live.dtype) == (states.trunk_id, states.width, states.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_live_in_the_same_batches_is_cached_bit_for_bit(tmp_path, dtype):
    trunk, texts = FakeTrunk(), sorted(TEXTS, key=lambda one: (len(one), one.key))
    states = States.open(tmp_path / "s", trunk_id=trunk.id, width=16, dtype=dtype)
    encode(texts, trunk, states, max_tokens=100)
    live = LiveStates(trunk, dtype=dtype, max_tokens=100)
    assert all(np.array_equal(a, b) for a, b in zip(live.read(texts), states.read(texts), strict=True))
    assert np.array_equal(live.pooled(texts), states.pooled(texts))


def test_live_refuses_what_the_store_refuses():
    with pytest.raises(StatesError, match="65,504"):
        LiveStates(FakeTrunk(factor=1e6), dtype="float16").read(TEXTS)


def test_no_text_gives_no_states():
    live = LiveStates(FakeTrunk())
    assert live.read([]) == []
    assert live.pooled([]).shape == (0, 16)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(StatesError, match="A text has no tokens"):
        LiveStates(FakeTrunk()).read([TEXTS[0], Tokens(np.empty(0, dtype=np.int32))])


def test_a_batch_goes_in_padded_and_comes_out_cut():
    trunk = FakeTrunk()
    for got, one in zip(run_trunk(trunk, TEXTS[:9]), TEXTS, strict=False):
        assert got.shape == (len(one), 16)
        assert np.abs(got - run_trunk(trunk, [one])[0]).max() < 1e-5


def test_the_mask_is_given_only_where_something_is_padded():
    trunk, two = FakeTrunk(), [one for one in random_tokens(80) if len(one) == 2]
    run_trunk(trunk, two)
    run_trunk(trunk, [*two, TEXTS[0]])
    assert [masked for _, masked in trunk.calls] == [False, True]


def test_rounding_is_that_of_the_store():
    trunk = FakeTrunk()
    (got,) = LiveStates(trunk, dtype="int8").read(TEXTS[:1])
    assert np.array_equal(got, as_stored(run_trunk(trunk, TEXTS[:1])[0], "int8"))

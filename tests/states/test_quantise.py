"""Rounding: exact where it should be, bounded where it rounds, refused where it would lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trunkline.errors import OptionError, StatesError
from trunkline.states.quantise import as_stored, pack, pool

HIDDEN = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)
SOME = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-6e4, 6e4, width=32))


def test_float32_keeps_every_bit():
    assert as_stored(HIDDEN, "float32").tobytes() == HIDDEN.tobytes()


@given(SOME)
def test_float16_is_the_nearest_half(hidden):
    assert np.array_equal(as_stored(hidden, "float16"), hidden.astype(np.float16).astype(np.float32))


@given(SOME)
def test_int8_is_off_by_half_a_scale_at_most(hidden):
    stored, scales = pack(hidden, "int8")
    assert stored.dtype == np.int8
    assert scales.shape == (len(hidden),)
    largest = np.abs(hidden).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(as_stored(hidden, "int8") - hidden.astype(np.float64)) <= largest / 127 * 0.5001 + 1e-44).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rounding_twice_is_rounding_once(dtype):
    once = as_stored(HIDDEN, dtype)
    assert np.allclose(as_stored(once, dtype), once, rtol=1e-6)


def test_int8_scales_each_token_alone_and_keeps_zeros():
    hidden = np.array([[1000.0, 500.0], [0.0, 0.0], [0.001, -0.0005], [1e-45, 0.0]], dtype=np.float32)
    got = as_stored(hidden, "int8")
    assert np.allclose(got[[0, 2]], hidden[[0, 2]], rtol=0.01)
    assert not got[[1, 3]].any()


@pytest.mark.parametrize("value", [65520.0, -70000.0, 3e38])
def test_float16_refuses_what_it_cannot_hold(value):
    hidden = HIDDEN.copy()
    hidden[3, 4] = value
    with pytest.raises(StatesError, match=r"float16 can hold at most 65,504.*dtype='float32'"):
        pack(hidden, "float16")
    pack(hidden, "float32")
    pack(hidden, "int8")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(dtype, value):
    hidden = HIDDEN.copy()
    hidden[0, 0] = value
    with pytest.raises(StatesError, match="NaN or infinite"):
        pack(hidden, dtype)


def test_an_unknown_dtype_is_refused_with_the_list():
    with pytest.raises(OptionError, match=r"dtype='floot16': unknown. Did you mean 'float16'"):
        pack(HIDDEN, "floot16")


def test_pool_is_the_mean_even_of_many_large_tokens():
    assert pool(np.full((100_000, 1), 0.1, dtype=np.float32))[0] == np.float32(0.1)

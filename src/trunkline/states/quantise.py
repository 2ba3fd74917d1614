"""How one text's states are rounded for the store, and read back. Sits under `shard` and `live`, so that both round alike.

float32 keeps the trunk's own bits; float16 halves the bytes; int8 has one scale per token (its largest value / 127) and an
error of at most half a scale. One scale per token is coarse where a few channels are far larger than the rest, as in the
middle layers of GPT-2, Llama or Gemma (Source: Sun et al., "Massive Activations in Large Language Models", 2024): for such
a trunk float32 is the safe choice.
"""

from __future__ import annotations

import numpy as np

from trunkline.errors import StatesError, unknown

DTYPES: dict[str, np.dtype[np.generic]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}
_LARGEST_FLOAT16 = 65504


def pack(states: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """What the store keeps of `states` (T, D) float32: the values (T, D) in `dtype`, and scales (T,) float32 for int8, else None.

    Raises: StatesError for NaN, infinity, and for values that float16 cannot hold; OptionError for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if dtype == "int8":
        return _pack_int8(states)
    with np.errstate(over="ignore"):  # a value too large becomes inf here, and is refused in the next line
        stored = states.astype(DTYPES[dtype])
    if not np.isfinite(stored).all():
        raise _not_storable(states, dtype)
    return stored, None


def unpack(stored: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """(T, D) float32 from what `pack` gave; of float32 it is the same array."""
    if scales is None:
        return stored.astype(np.float32, copy=False)
    return np.multiply(stored, scales[:, None], dtype=np.float32)


def as_stored(states: np.ndarray, dtype: str) -> np.ndarray:
    """`states` (T, D) float32 as a store of this dtype would give them back.

    >>> as_stored(np.array([[1.0, -0.5, 0.001]], dtype=np.float32), "int8") * 127
    array([[127., -64.,   0.]], dtype=float32)
    """
    return unpack(*pack(states, dtype))


def pool(states: np.ndarray) -> np.ndarray:
    """(D,) float32: the mean over the tokens of (T, D), summed in float64 so that long texts lose nothing."""
    return states.mean(axis=0, dtype=np.float64).astype(np.float32)


def _pack_int8(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = (np.abs(states).max(axis=1) / 127).astype(np.float32)
    with np.errstate(over="ignore"):
        readable = np.isfinite(scales * np.float32(127)).all()
    if not readable:
        raise _not_storable(states, "int8")
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]  # a token of zeros stays zeros
    return np.clip(np.rint(states / divisors), -127, 127).astype(np.int8), scales


def _not_storable(states: np.ndarray, dtype: str) -> StatesError:
    if not np.isfinite(states).all():
        return StatesError(
            "The trunk gave NaN or infinite states, which would spoil everything trained on them. "
            "Check the model files, and run the trunk in float32."
        )
    largest = float(np.abs(states).max())
    limit = f"{_LARGEST_FLOAT16:,}" if dtype == "float16" else "3.4e38"
    return StatesError(
        f"dtype={dtype!r}: the trunk gave a state of {largest:,.6g}, and {dtype} can hold at most {limit} "
        "(decoder models have a few such large values). Use dtype='float32' for this trunk."
    )

"""Filling a store: each content once, in an order of its own, again from where it stopped."""

import random

import numpy as np
import pytest

from tests.states.fake_trunk import FakeTrunk, files, random_tokens
from trunkline.errors import StatesError
from trunkline.states.encode import encode
from trunkline.states.live import run_trunk
from trunkline.states.store import States

TEXTS = random_tokens(80, pairs=True)


def opened(folder, trunk, dtype="float32"):
    return States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=dtype)


def test_the_store_holds_what_the_trunk_gives_for_each_text_alone(tmp_path):
    trunk = FakeTrunk()
    states = opened(tmp_path / "s", trunk)
    encode(TEXTS, trunk, states, max_tokens=128)
    for got, one in zip(states.read(TEXTS), TEXTS, strict=True):
        assert np.abs(got - run_trunk(trunk, [one])[0]).max() < 1e-5


def test_each_content_is_computed_once(tmp_path):
    trunk = FakeTrunk()
    states = opened(tmp_path / "s", trunk)
    first = encode([*TEXTS[:50], *TEXTS[:50]], trunk, states)
    again = encode(TEXTS[:50], trunk, states)
    calls = len(trunk.calls)
    grown = encode(TEXTS, trunk, states)
    assert (first.rows, first.new_rows, first.tokens) == (100, 50, sum(map(len, TEXTS[:50])))
    assert (again.rows, again.new_rows, again.tokens, again.tokens_per_second) == (50, 0, 0, 0)
    assert (grown.new_rows, grown.tokens) == (30, sum(map(len, TEXTS[50:])))
    assert grown.tokens_per_second == pytest.approx(grown.tokens / grown.seconds)
    assert sum(rows for (rows, _), _ in trunk.calls[calls:]) == 30


def test_no_pass_is_over_the_budget(tmp_path):
    trunk = FakeTrunk()
    encode(TEXTS, trunk, opened(tmp_path / "s", trunk), max_tokens=50)
    assert max(rows * longest for (rows, longest), _ in trunk.calls) <= 50


def test_shards_are_cut_at_about_the_size_asked_for(tmp_path):
    trunk = FakeTrunk()
    states = opened(tmp_path / "s", trunk)
    encode(TEXTS, trunk, states, max_tokens=40, shard_bytes=10_000)
    sizes = sorted(entry.tokens * 16 * 4 for entry in states._entries())
    assert len(sizes) > 3
    assert all(10_000 <= size < 10_000 + 40 * 64 for size in sizes[1:])


def test_the_order_of_the_texts_does_not_matter(tmp_path):
    trunk, mixed = FakeTrunk(), random.Random(0).sample(TEXTS, k=len(TEXTS))
    for name, texts in (("a", TEXTS), ("b", mixed)):
        encode(texts, trunk, opened(tmp_path / name, trunk), max_tokens=64, shard_bytes=10_000)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("passes", [1, 7, 12])
def test_ctrl_c_leaves_whole_shards_and_the_next_run_goes_on(tmp_path, passes):
    plain = FakeTrunk()
    encode(TEXTS, plain, opened(tmp_path / "clean", plain), max_tokens=64, shard_bytes=10_000)

    def stop_in_the_end():
        if len(stopping.calls) == passes:
            raise KeyboardInterrupt

    stopping = FakeTrunk(before=stop_in_the_end)
    with pytest.raises(KeyboardInterrupt):
        encode(TEXTS, stopping, opened(tmp_path / "s", plain), max_tokens=64, shard_bytes=10_000)
    states = opened(tmp_path / "s", plain)
    kept = len(states)
    assert (kept > 0) == (passes > 6)
    assert encode(TEXTS, plain, states, max_tokens=64, shard_bytes=10_000).new_rows == 80 - kept
    assert files(tmp_path / "s") == files(tmp_path / "clean")


def test_the_store_of_another_trunk_is_refused(tmp_path):
    trunk, other = FakeTrunk(), FakeTrunk(seed=5)
    with pytest.raises(StatesError, match=f"is for trunk {trunk.id} of width 16, and the trunk given is {other.id}"):
        encode(TEXTS, other, opened(tmp_path / "s", trunk))


def test_states_too_large_for_float16_stop_the_run_and_say_what_to_do(tmp_path):
    trunk = FakeTrunk(factor=1e5)
    with pytest.raises(StatesError, match=r"can hold at most 65,504.*Use dtype='float32'"):
        encode(TEXTS, trunk, opened(tmp_path / "s", trunk, "float16"))
    encode(TEXTS, trunk, opened(tmp_path / "t", trunk, "float32"))


def test_progress_shows_only_when_asked_for_or_on_a_terminal(tmp_path, capsys, monkeypatch):
    trunk = FakeTrunk()
    for name, progress in (("a", None), ("b", False)):
        encode(TEXTS, trunk, opened(tmp_path / name, trunk), progress=progress)
        assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stderr for a terminal
    encode(TEXTS, trunk, opened(tmp_path / "c", trunk), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "80/80 rows" in err

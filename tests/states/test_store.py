"""The store: reads what was put in, refuses what is foreign, finds every flipped byte, survives kills, is closed to others."""

import errno
import json
import os
import random
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.states.fake_trunk import FakeTrunk, files, random_tokens
from trunkline import storage
from trunkline.errors import ArtefactError, OptionError, StatesError
from trunkline.states.encode import encode
from trunkline.states.live import run_trunk
from trunkline.states.manifest import Manifest
from trunkline.states.store import States
from trunkline.storage import write_folder

TRUNK = FakeTrunk()
TEXTS = random_tokens(60, pairs=True)
DTYPES = ["float32", "float16", "int8"]


def opened(folder, dtype="float32", trunk=TRUNK):
    return States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=dtype)


def fill(folder, dtype="float32", texts=TEXTS):
    states = opened(folder, dtype)
    encode(texts, TRUNK, states, max_tokens=64, shard_bytes=12_000)
    return states


def alone(tokens):
    """The states of each text in a batch of its own."""
    return [run_trunk(TRUNK, [one])[0] for one in tokens]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_put_in_is_read_in_any_order_and_after_opening_again(tmp_path, dtype):
    opened(tmp_path / "s", dtype).append(TEXTS, alone(TEXTS))
    states = opened(tmp_path / "s", dtype)
    mixed = random.Random(0).choices(TEXTS, k=200)
    close = {"float32": 0, "float16": 5e-4, "int8": 1 / 127}[dtype]
    for got, wanted in zip(states.read(mixed), alone(mixed), strict=True):
        assert got.dtype == np.float32
        assert got.flags.writeable
        assert np.abs(got - wanted).max() <= close
    assert np.allclose(states.pooled(mixed), [got.mean(axis=0) for got in states.read(mixed)], atol=1e-6)
    assert len(states) == 60
    assert states.bytes == sum(path.stat().st_size for path in (tmp_path / "s").glob("*.safetensors"))


def test_the_dtype_decides_the_size(tmp_path):
    texts = random_tokens(60, longest=150)
    sizes = {}
    for dtype in DTYPES:
        states = opened(tmp_path / dtype, dtype)
        states.append(texts, alone(texts))
        sizes[dtype] = sum(entry.tokens for entry in states._entries()) * TRUNK.width * np.dtype(dtype).itemsize
        assert sizes[dtype] < states.bytes < sizes[dtype] * 1.6
    assert sizes["float32"] == 2 * sizes["float16"] == 4 * sizes["int8"]


def test_missing_is_each_content_once_in_order(tmp_path):
    states = opened(tmp_path / "s")
    states.append(TEXTS[:10], alone(TEXTS[:10]))
    assert states.missing([*TEXTS[5:15], *TEXTS[8:20]]) == TEXTS[10:20]
    assert states.missing([]) == []
    assert TEXTS[0].key in states
    assert TEXTS[10].key not in states
    assert "text" not in states


def test_reading_a_text_that_is_not_there_says_so(tmp_path):
    states = opened(tmp_path / "s")
    states.append(TEXTS[:2], alone(TEXTS[:2]))
    for reading in (states.read, states.pooled):
        with pytest.raises(StatesError, match=r"1 of 3 texts have no states here. Run `encode`"):
            reading(TEXTS[:3])


def test_appending_twice_stores_once(tmp_path):
    states = opened(tmp_path / "s")
    states.append([*TEXTS[:5], *TEXTS[:5]], [*alone(TEXTS[:5]), *alone(TEXTS[:5])])
    before = files(tmp_path / "s")
    states.append(TEXTS[:5], alone(TEXTS[:5]))
    assert files(tmp_path / "s") == before
    assert [entry.rows for entry in states._entries()] == [5]


def test_an_empty_store_reads_nothing(tmp_path):
    states = opened(tmp_path / "s")
    states.append([], [])
    assert states.read([]) == []
    assert states.pooled([]).shape == (0, 16)
    assert (len(states), states.bytes) == (0, 0)


def test_bad_states_leave_the_store_as_it_was(tmp_path):
    states = opened(tmp_path / "s", "float16")
    before = files(tmp_path / "s")
    huge = [np.full((len(one), 16), 1e6, dtype=np.float32) for one in TEXTS]
    with pytest.raises(StatesError, match="65,504"):
        states.append(TEXTS, huge)
    with pytest.raises(StatesError, match="60 texts came with 1 arrays"):
        states.append(TEXTS, huge[:1])
    assert files(tmp_path / "s") == before


# Foreign folders


def test_a_store_of_another_trunk_is_refused_with_both_ids(tmp_path):
    fill(tmp_path / "s")
    before, other = files(tmp_path / "s"), FakeTrunk(seed=7)
    with pytest.raises(StatesError, match=f"trunk {TRUNK.id}, and trunk {other.id} is asked for"):
        opened(tmp_path / "s", trunk=other)
    (tmp_path / "s" / "manifest.json").unlink()
    with pytest.raises(StatesError, match=f"trunk {TRUNK.id}, and trunk {other.id} is asked for"):
        opened(tmp_path / "s", trunk=other)
    del before["manifest.json"]
    assert files(tmp_path / "s") == before


def test_a_store_of_another_dtype_or_width_is_refused(tmp_path):
    fill(tmp_path / "s", "float16")
    with pytest.raises(StatesError, match="width 16 as float16, and width 16 as int8 is asked for"):
        opened(tmp_path / "s", "int8")
    with pytest.raises(StatesError, match="width 16 as float16, and width 8 as float16 is asked for"):
        opened(tmp_path / "s", "float16", FakeTrunk(width=8))


def test_a_newer_format_is_refused(tmp_path):
    opened(tmp_path / "s")
    Manifest(TRUNK.id, 16, "float32", format=2).write(tmp_path / "s")
    with pytest.raises(StatesError, match=r"written in format 2; this Trunkline reads up to 1. Upgrade"):
        opened(tmp_path / "s")


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(OptionError, match="Did you mean 'int8'"):
        opened(tmp_path / "s", "int-8")
    assert not (tmp_path / "s").exists()


def test_folders_that_are_no_stores_are_left_alone(tmp_path):
    write_folder(tmp_path / "branch", {"a.bin": b"1"}, {"kind": "branch"})
    (tmp_path / "papers").mkdir(mode=0o755)
    (tmp_path / "papers" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name, message in (("branch", "not the manifest of a states store"), ("papers", "is not a states store"), ("file", "cannot hold")):
        with pytest.raises(StatesError, match=message):
            opened(tmp_path / name)
    assert files(tmp_path / "papers") == {"letter.txt": b"dear"}
    assert stat.S_IMODE((tmp_path / "papers").stat().st_mode) == 0o755
    assert (tmp_path / "branch" / "a.bin").read_bytes() == b"1"


# Privacy


def test_only_the_owner_can_read(tmp_path):
    (tmp_path / "s").mkdir(mode=0o755)
    old = os.umask(0)
    try:
        fill(tmp_path / "s")
        opened(tmp_path / "new" / "deep")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s", tmp_path / "new" / "deep")} == {0o700}


@pytest.mark.parametrize("dtype", DTYPES)
def test_forget_removes_the_rows_from_the_disk_and_touches_no_other(tmp_path, dtype):
    states = fill(tmp_path / "s", dtype)
    gone, kept = TEXTS[::5], [one for at, one in enumerate(TEXTS) if at % 5]
    before = states.read(kept)
    assert states.forget([*[one.key for one in gone], bytes(16)]) == 12
    for now in (states, opened(tmp_path / "s", dtype)):
        assert len(now) == 48
        assert now.missing(TEXTS) == gone
        assert all(np.array_equal(a, b) for a, b in zip(now.read(kept), before, strict=True))
    assert not any(one.key in data or one.ids.tobytes() in data for data in files(tmp_path / "s").values() for one in gone if len(one) > 2)
    assert states.forget(one.key for one in gone) == 0
    assert states.forget(one.key for one in kept) == 48
    assert list(files(tmp_path / "s")) == ["manifest.json"]


# Damage


def flips(folder, count):
    """`count` places: every part of every shard, the ends of the manifest, and all over."""
    chance, places = random.Random(0), set()
    for name, data in files(folder).items():
        places |= {(name, 0), (name, len(data) - 1)}
        if name != "manifest.json":
            header = 8 + int.from_bytes(data[:8], "little")
            parts = json.loads(data[8:header])
            places |= {(name, header + part["data_offsets"][0]) for part in parts.values() if "data_offsets" in part}
            places |= {(name, 7), (name, 8), (name, 20), (name, header - 1)}
    while len(places) < count:
        name, data = chance.choice(list(files(folder).items()))
        places.add((name, chance.randrange(len(data))))
    return [(name, place, 1 << chance.randrange(8)) for name, place in sorted(places)]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_every_flipped_byte_is_found_and_only_that_shard_rebuilt(tmp_path, dtype):
    folder = tmp_path / "s"
    states = fill(folder, dtype)
    clean, rows = files(folder), {entry.name: entry.rows for entry in states._entries()}
    for name, place, bit in flips(folder, 100):
        data = bytearray(clean[name])
        data[place] ^= bit
        (folder / name).write_bytes(data)
        with pytest.warns(UserWarning, match=name):
            states = opened(folder, dtype)
        assert len(states.missing(TEXTS)) == rows.get(name, 0), (name, place)
        assert len(states) == 60 - rows.get(name, 0)
        encode(TEXTS, TRUNK, states, max_tokens=64, shard_bytes=12_000)
        assert files(folder) == clean, (name, place)


@pytest.mark.parametrize("harm", ["cut", "empty", "longer", "gone", "swapped"])
def test_a_cut_or_lost_shard_is_rebuilt(tmp_path, harm):
    states = fill(tmp_path / "s")
    clean, (first, second, *_) = files(tmp_path / "s"), states._entries()
    path = tmp_path / "s" / first.name
    if harm == "gone":
        path.unlink()
    else:
        whole = clean[first.name]
        path.write_bytes({"cut": whole[:-100], "empty": b"", "longer": whole + b"\0", "swapped": clean[second.name]}[harm])
    with pytest.warns(UserWarning, match=f"{first.name}.*{first.rows} rows.*next `encode`"):
        assert len(opened(tmp_path / "s").missing(TEXTS)) == first.rows
    assert len(fill(tmp_path / "s")) == 60
    assert files(tmp_path / "s") == clean


def test_several_damaged_shards_are_rebuilt_as_they_were(tmp_path):
    states = fill(tmp_path / "s")
    clean, entries = files(tmp_path / "s"), states._entries()
    assert len(entries) >= 4
    for entry in entries[::2]:
        (tmp_path / "s" / entry.name).write_bytes(b"broken")
    with pytest.warns(UserWarning, match="Dropped"):
        fill(tmp_path / "s")
    assert files(tmp_path / "s") == clean


def test_a_lost_manifest_is_made_anew_from_whole_shards(tmp_path):
    states = fill(tmp_path / "s")
    clean, broken = files(tmp_path / "s"), states._entries()[1]
    (tmp_path / "s" / "manifest.json").unlink()
    (tmp_path / "s" / broken.name).write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"manifest.json: is not there. Made anew from \d whole shards of \d"):
        assert len(opened(tmp_path / "s").missing(TEXTS)) == broken.rows
    fill(tmp_path / "s")
    assert files(tmp_path / "s") == clean


def test_strays_of_a_killed_writer_are_deleted_at_open(tmp_path):
    fill(tmp_path / "s")
    clean = files(tmp_path / "s")
    for name in ("states-0123456789abcdef.safetensors", f".{next(iter(clean))}.0a1b2c3d.tmp", ".manifest.json.0a1b2c3d.tmp"):
        (tmp_path / "s" / name).write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tmp_path / "s")
    assert files(tmp_path / "s") == clean


def test_a_full_disk_at_any_write_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "clean")
    plain, left, failures = storage._write, 0, 0

    def write_until_full(path, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(path, data)

    monkeypatch.setattr(storage, "_write", write_until_full)
    states, kept = States(tmp_path / "s", Manifest(TRUNK.id, 16, "float32")), 0
    while len(states) < 60:
        left = failures % 4
        try:
            states = fill(tmp_path / "s")
        except ArtefactError as error:
            failures += "The disk is full" in str(error)
            left = 99
            states = opened(tmp_path / "s")
            assert kept <= len(states) < 60
            kept = len(states)
    assert failures >= 6
    assert files(tmp_path / "s") == files(tmp_path / "clean")


def test_a_shard_that_is_cut_while_open_is_an_error_and_no_crash(tmp_path):
    states = fill(tmp_path / "s")
    for path in (tmp_path / "s").glob("*.safetensors"):
        os.truncate(path, 1000)
    with pytest.raises(StatesError, match=r"was cut while it was open. Open the store again"):
        states.read(TEXTS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_memory_stays_flat_while_everything_is_read(tmp_path):
    script = Path(__file__).parents[2] / "bench" / "states_memory.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rows", "40000", "--json"], capture_output=True, text=True, timeout=280, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["store_mb"] > 900
    assert figures["resident_highest_mb"] < figures["resident_before_mb"] + 500


# Several writers


def test_a_second_object_sees_what_the_first_wrote_when_it_writes(tmp_path):
    first, second = opened(tmp_path / "s"), opened(tmp_path / "s")
    first.append(TEXTS[:20], alone(TEXTS[:20]))
    second.append(TEXTS[10:30], alone(TEXTS[10:30]))
    assert len(second) == 30
    assert [entry.rows for entry in second._entries()] == [20, 10]
    second.forget(one.key for one in TEXTS[:5])
    first.append(TEXTS[30:31], alone(TEXTS[30:31]))
    assert first.missing(TEXTS[:31]) == TEXTS[:5]
    assert all(np.array_equal(a, b) for a, b in zip(first.read(TEXTS[5:31]), alone(TEXTS[5:31]), strict=True))


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """What became of the stores of killed and of concurrent writers: see `crash.py`."""
    command = [sys.executable, "-m", "tests.states.crash", str(tmp_path_factory.mktemp("crashes"))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.wide
def test_an_encode_killed_at_random_moments_ends_as_a_clean_one(crashes):
    assert crashes["random"]["kills"] >= 15
    assert crashes["random"]["equal"] == crashes["random"]["rounds"]


@pytest.mark.wide
def test_an_encode_killed_at_each_step_of_each_write_ends_as_a_clean_one(crashes):
    assert crashes["steps"]["kills"] >= 36
    assert crashes["steps"]["equal"] == crashes["steps"]["kills"]


@pytest.mark.wide
def test_a_killed_forget_did_all_or_nothing_and_can_be_run_again(crashes):
    assert crashes["forget"]["kills"] >= 12
    assert crashes["forget"]["sound"] == crashes["forget"]["kills"]
    assert len(crashes["forget"]["sizes"]) == 2


@pytest.mark.wide
def test_two_processes_fill_one_store(crashes):
    assert crashes["together"] == {"rows": 240, "rows_in_shards": 240, "missing": 0}

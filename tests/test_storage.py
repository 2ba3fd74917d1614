"""Files and folders: whole or absent, closed to others, and refused when anything is odd about them."""

import errno
import json
import os
import random
import stat
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import storage
from trunkline.errors import ArtefactError

FILES = {"a.safetensors": bytes(range(256)), "b.json": b"{}\n", "empty": b""}


def saved(folder, files=FILES, **about):
    storage.write_folder(folder, files, {"kind": "thing", **about})
    return folder


def change_manifest(folder, change):
    """Change the manifest and give it the sum that fits, as someone would who means it."""
    path = folder / storage.MANIFEST
    body = json.loads(path.read_bytes())
    body.pop("sha256")
    change(body)
    path.write_bytes(storage.to_json({**body, "sha256": storage.sha256(storage.to_json(body))}))


def strays(folder):
    return sorted(path.name for path in folder.rglob(".*"))


# Files


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "deep" / "x.bin"
    storage.write_file(path, b"one")
    storage.write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not strays(tmp_path)


def test_a_link_is_replaced_and_what_it_points_at_is_left_alone(tmp_path):
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "x").symlink_to(tmp_path / "theirs")
    storage.write_file(tmp_path / "x", b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert not (tmp_path / "x").is_symlink()


def test_a_place_where_nothing_can_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y", tmp_path / "folder"):
        with pytest.raises(ArtefactError, match="could not be written"):
            storage.write_file(path, b"data")
    with pytest.raises(ArtefactError, match="could not be written"):
        saved(tmp_path / "file" / "x")
    assert not strays(tmp_path)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
@pytest.mark.parametrize("point", ["_write", "_rename", "_sync_folder"])
def test_an_interrupted_write_leaves_no_temporary_file(point, raised, tmp_path, monkeypatch):
    storage.write_file(tmp_path / "x", b"old")
    saved(tmp_path / "f")

    def fail(*arguments):
        if point == "_write":
            arguments[0].write_bytes(b"ha")
        raise raised

    monkeypatch.setattr(storage, point, fail)
    writes = [lambda: storage.write_file(tmp_path / "x", b"new"), lambda: saved(tmp_path / "g")]
    if point != "_rename":  # a folder in place of another is exchanged
        writes.append(lambda: saved(tmp_path / "f"))
    for write in writes:
        with pytest.raises((KeyboardInterrupt, ArtefactError)):
            write()
    assert not strays(tmp_path)
    assert (tmp_path / "x").read_bytes() == (b"old" if point != "_sync_folder" else b"new")
    assert storage.read_folder(tmp_path / "f", "thing")[0] == FILES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where the system has a device that is always full")
def test_a_full_device_says_that_it_is_full(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        full.write(b"x")
    assert "The disk is full: free some space" in str(storage.explain(caught.value, tmp_path / "x"))


# Folders


def test_a_folder_comes_back_as_it_was(tmp_path):
    saved(tmp_path / "f", trunkline="1")
    files, manifest = storage.read_folder(tmp_path / "f", "thing")
    assert files == FILES
    assert manifest["trunkline"] == "1"
    assert manifest["files"]["b.json"] == {"bytes": 3, "sha256": storage.sha256(b"{}\n")}
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "f").iterdir()} == {0o600}


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "renames"])
def test_a_folder_is_replaced_whole(exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(storage, "sys", SimpleNamespace(platform="other"))
    saved(tmp_path / "f")
    saved(tmp_path / "f", {"other": b"1"})
    assert storage.read_folder(tmp_path / "f", "thing")[0] == {"other": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_the_same_files_give_the_same_bytes(tmp_path):
    saved(tmp_path / "f")
    saved(tmp_path / "g", dict(reversed(FILES.items())))
    assert (tmp_path / "f" / storage.MANIFEST).read_bytes() == (tmp_path / "g" / storage.MANIFEST).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="the file system's errors differ")
def test_an_exchange_that_fails_loses_nothing(tmp_path, monkeypatch):
    """The second rename of a system without exchange fails: the old folder stands aside, and the next look puts it back."""
    monkeypatch.setattr(storage, "sys", SimpleNamespace(platform="other"))
    saved(tmp_path / "f")
    plain, calls = storage._rename, []

    def fail(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        plain(source, target)

    monkeypatch.setattr(storage, "_rename", fail)
    with pytest.raises(ArtefactError, match="Input/output error"):
        saved(tmp_path / "f", {"other": b"1"})
    assert not (tmp_path / "f").exists()
    assert storage.read_folder(tmp_path / "f", "thing")[0] == FILES
    assert not strays(tmp_path)


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/b", "", ".", "manifest.json", "missing"])
def test_a_manifest_that_names_anything_but_its_own_files_is_refused(name, tmp_path):
    folder = saved(tmp_path / "f")
    change_manifest(folder, lambda body: body["files"].update({name: {"bytes": 0, "sha256": storage.sha256(b"")}}))
    with pytest.raises(ArtefactError):
        storage.read_folder(folder, "thing")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("format"), lambda body: body.pop("kind"), lambda body: body.pop("files"),
        lambda body: body.update(format="x"), lambda body: body.update(format=None), lambda body: body.update(format=[]),
        lambda body: body.update(files=[]), lambda body: body.update(files={"b.json": 3}), lambda body: body.update(files={"b.json": {}}),
        lambda body: body.update(files={"b.json": {"bytes": 3, "sha256": "0", "more": 1}}),
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_damaged(change, tmp_path):
    folder = saved(tmp_path / "f")
    change_manifest(folder, change)
    with pytest.raises(ArtefactError, match="damaged"):
        storage.read_folder(folder, "thing")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": 1, "a": 2}', b"NaN", b"[" * 200 + b"]" * 200])
def test_a_manifest_that_is_no_json_object_is_damaged(data, tmp_path):
    folder = saved(tmp_path / "f")
    (folder / storage.MANIFEST).write_bytes(data)
    with pytest.raises(ArtefactError, match="damaged"):
        storage.read_folder(folder, "thing")


def test_another_kind_and_a_newer_format_say_what_to_do(tmp_path):
    folder = saved(tmp_path / "f")
    with pytest.raises(ArtefactError, match="holds a thing, and a branch is needed here"):
        storage.read_folder(folder, "branch")
    change_manifest(folder, lambda body: body.update(format=storage.FORMAT + 1))
    with pytest.raises(ArtefactError, match="Upgrade: pip install -U trunkline"):
        storage.read_folder(folder, "thing")
    with pytest.raises(ArtefactError, match="does not exist"):
        storage.read_folder(tmp_path / "none", "thing")
    (tmp_path / "plain").mkdir()
    with pytest.raises(ArtefactError, match=r"has no manifest\.json"):
        storage.read_folder(tmp_path / "plain", "thing")


def test_a_file_too_many_too_few_linked_or_a_folder_is_refused(tmp_path):
    folder = saved(tmp_path / "f")
    (folder / "more").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"more: on disk or in manifest.json, but not in both"):
        storage.read_folder(folder, "thing")
    assert storage.read_folder(folder, "thing", ignore=["more"])[0] == FILES
    (folder / "more").unlink()
    (folder / "empty").unlink()
    with pytest.raises(ArtefactError, match="empty: on disk or in"):
        storage.read_folder(folder, "thing")
    (folder / "empty").mkdir()
    with pytest.raises(ArtefactError, match="could not be read"):
        storage.read_folder(folder, "thing")
    (folder / "empty").rmdir()
    (tmp_path / "outside").write_bytes(b"")
    (folder / "empty").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtefactError, match="is a link"):
        storage.read_folder(folder, "thing")


def test_a_manifest_that_is_a_link_is_refused(tmp_path):
    folder = saved(tmp_path / "f")
    (folder / storage.MANIFEST).rename(tmp_path / "m")
    (folder / storage.MANIFEST).symlink_to(tmp_path / "m")
    with pytest.raises(ArtefactError, match="is a link"):
        storage.read_folder(folder, "thing")


def test_100_flipped_bits_in_a_folder_are_all_found(tmp_path):
    folder, chance = saved(tmp_path / "f"), random.Random(0)
    for number in range(100):
        path = folder / ["a.safetensors", "b.json", storage.MANIFEST][number % 3]
        whole = path.read_bytes()
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(ArtefactError):
            storage.read_folder(folder, "thing")
        path.write_bytes(whole)
    assert storage.read_folder(folder, "thing")[0] == FILES


# What is left over


def test_leftovers_go_with_the_next_write_and_those_of_others_stay(tmp_path):
    for name in (".f.01234567.tmp", ".f.g.01234567.tmp", ".g.01234567.tmp", ".f.tmp", ".f.notahex1.tmp"):
        (tmp_path / name).mkdir()
    saved(tmp_path / "f")
    assert strays(tmp_path) == [".f.g.01234567.tmp", ".f.notahex1.tmp", ".f.tmp", ".g.01234567.tmp"]


def test_leftovers_by_pattern(tmp_path):
    (tmp_path / ".step-1.01234567.tmp").write_bytes(b"")
    saved(tmp_path / ".step-2.01234567.tmp.old")
    (tmp_path / "step-3").mkdir()
    saved(tmp_path / ".step-3.01234567.tmp.old")
    storage.remove_leftovers(tmp_path, "step-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-3"], "what stood aside alone is put back"
    storage.remove_leftovers(tmp_path / "none", "x")


def test_a_removed_folder_is_gone_and_a_missing_one_is_no_error(tmp_path):
    saved(tmp_path / "f")
    for _ in range(2):
        storage.remove_folder(tmp_path / "f")
        assert not list(tmp_path.iterdir())


def test_the_cache_folder_is_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "c"))
    assert storage.cache_folder() == tmp_path / "c"
    monkeypatch.setenv("TRUNKLINE_CACHE", "~/x")
    assert storage.cache_folder() == Path.home() / "x"
    monkeypatch.delenv("TRUNKLINE_CACHE")
    assert storage.cache_folder() == Path.home() / ".cache" / "trunkline"


def test_sums_of_files_and_bytes_agree(tmp_path):
    (tmp_path / "x").write_bytes(bytes(100_000))
    assert storage.sha256_file(tmp_path / "x") == storage.sha256(bytes(100_000))
    assert storage.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_as_json_is_read_again(value):
    assert storage.from_json(storage.to_json(value), "x") == value
    assert storage.to_json(storage.from_json(storage.to_json(value), "x")) == storage.to_json(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_value_error(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            storage.from_json(data, "x")
        except ValueError:
            return


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b"[NaN]", "NaN is not JSON"), (b"-Infinity", "-Infinity is not JSON"), (b"1e999", "1e999 is too large"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100"), (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper than 100"),
        (b"1" * 1001, "an integer of 1,001 digits"), (b"1" * 10**6, "digits"), (b"\xff", "decode"), (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting"), (b"[1,]", "Expecting|Illegal"), (b"1 2", "Extra data"), (b'"\x00"', "control character"),
    ],
)  # fmt: skip
def test_odd_json_is_refused_with_its_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        storage.from_json(data, "file.json")


def test_the_limits_themselves_are_allowed():
    assert storage.from_json(b"[" * 100 + b"]" * 100, "x")
    assert storage.from_json(b"1" * 1000, "x") == int("1" * 1000)
    assert storage.from_json(b'"' + b"[" * 5000 + b'"', "x") == "[" * 5000, "brackets in a string nest nothing"
    assert storage.from_json(rb'"\"[[["', "x") == '"[[['


def test_json_over_64_mb_is_refused_before_it_is_read():
    with pytest.raises(ValueError, match="at most 67,108,864 are read"):
        storage.from_json(b" " * ((64 << 20) + 1), "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1, 2}}, b"x"])
def test_what_json_cannot_hold_is_not_written(value):
    with pytest.raises((ValueError, TypeError)):
        storage.to_json(value)

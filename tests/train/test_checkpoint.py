"""Checkpoints: whole or absent after a kill at any point, damage is found before use, one run a folder, full disks lose nothing."""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from tests.train.crash import save, strays
from trunkline import storage
from trunkline.errors import ArtefactError, OptionError
from trunkline.train.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """What was on disk after kills at every point: see `crash.py`."""
    memory = Path("/dev/shm")  # a kill loses nothing that was written, so no disk is needed, and without one it is quicker
    folder = tempfile.mkdtemp(dir=memory) if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("crashes")
    command = [sys.executable, "-m", "tests.train.crash", str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.wide
@pytest.mark.parametrize(("kind", "least"), [("checkpoints", 60), ("checkpoints, no exchange", 30)])
def test_a_save_that_is_killed_at_any_point_leaves_the_old_or_the_new_checkpoint(kind, least, crashes):
    found = crashes[kind]
    assert found["kills"] >= least
    assert found["whole"] == found["kills"]
    assert found["ended"] == found["kills"], "and the next run goes on and cleans up"


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["branch", "branch, no exchange"])
def test_a_branch_saved_over_another_and_killed_at_any_point_is_the_old_or_the_new_one(kind, crashes):
    found = crashes[kind]
    assert found["kills"] >= 14
    assert found["whole"] == found["ended"] == found["kills"]
    assert found["seen"] == ["new", "old"]


@pytest.mark.wide
def test_a_folder_in_use_is_refused_and_that_of_a_dead_process_is_not(crashes):
    assert crashes["locks"] == {"refused": 100, "recovered": True}


def content(kept):
    """Step and content of the newest good checkpoint, all of whose tensors must hold that content."""
    found = kept.latest()
    assert all(bool((tensors["x"] == found[1]["content"]).all()) for tensors in found[0].values())
    return found[1]["step"], found[1]["content"]


def test_the_newest_two_are_kept(tmp_path):
    with Checkpoints(tmp_path / "c", {}) as kept:
        assert kept.latest() is None
        for step in (5, 10, 99999, 100000):
            save(kept, step, step)
        assert content(kept) == (100000, 100000)
    assert sorted(path.name for path in (tmp_path / "c").glob("step-*")) == ["step-00099999", "step-00100000"]


def test_tensors_and_state_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b|exp_avg": torch.randn(5), "c": torch.tensor(3.0), "d": torch.zeros(0, 2)}
    state = {"losses": [0.1 + 0.2, 1e-300, 5e-324], "progress": {"best": None, "history": [{"step": 1}]}}
    with Checkpoints(tmp_path / "c", {"k": [1, "x", None]}) as kept:
        kept.save(7, {"weights": tensors, "empty": {}}, state)
        groups, found = kept.latest()
    assert groups["empty"] == {}
    assert all(torch.equal(groups["weights"][name], tensor) for name, tensor in tensors.items())
    assert {k: found[k] for k in state} == state
    assert found["step"] == 7


def test_files_are_closed_to_others(tmp_path):
    with Checkpoints(tmp_path / "c", {}) as kept:
        save(kept, 1, 1)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "c" / "step-00000001").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c" / "step-00000001").stat().st_mode & 0o777 == 0o700


# Damage


def flip(path, chance):
    """Turn one random bit of a file; gives back its content before."""
    whole = path.read_bytes()
    at = chance.randrange(len(whole))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
    return whole


@pytest.fixture
def two(tmp_path):
    with Checkpoints(tmp_path / "c", {"a": 1}) as kept:
        save(kept, 1, 1)
        save(kept, 2, 2)
        yield kept


def test_100_flipped_bits_are_all_found_and_the_checkpoint_before_is_used(two):
    chance, found = random.Random(0), 0
    files = sorted((two.folder / "step-00000002").iterdir())
    assert len(files) == 4
    for number in range(100):
        path = files[number % len(files)]
        whole = flip(path, chance)
        with pytest.warns(UserWarning, match="Going back to the checkpoint before it"):
            found += content(two) == (1, 1)
        path.write_bytes(whole)
    assert found == 100
    assert content(two) == (2, 2)


@pytest.mark.slow
def test_every_flipped_bit_of_a_manifest_is_found(two):
    path = two.folder / "step-00000002" / storage.MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(ArtefactError):
                storage.read_manifest(path.parent, "checkpoint")


def test_when_all_are_damaged_it_is_an_error(two):
    chance = random.Random(1)
    for step in (1, 2):
        flip(two.folder / f"step-0000000{step}" / "weights.safetensors", chance)
    with (
        pytest.warns(UserWarning, match="Going back"),
        pytest.raises(ArtefactError, match=r"all 2 checkpoints are damaged. Delete the folder"),
    ):
        two.latest()


@pytest.mark.parametrize("change", ["missing", "short", "empty", "extra", "link", "no manifest"])
def test_a_checkpoint_with_a_file_too_many_or_too_few_is_not_used(change, two):
    path = two.folder / "step-00000002" / "optimizer.safetensors"
    whole = path.read_bytes()
    if change == "extra":
        (path.parent / "more.safetensors").write_bytes(whole)
    elif change == "no manifest":
        (path.parent / storage.MANIFEST).unlink()
    else:
        path.unlink()
    if change in ("short", "empty"):
        path.write_bytes(whole[: len(whole) // 2 if change == "short" else 0])
    if change == "link":
        (two.folder / "other").write_bytes(whole)
        path.symlink_to(two.folder / "other")
    with pytest.warns(UserWarning, match="Going back"):
        assert content(two) == (1, 1)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", storage.MANIFEST])
def test_a_checkpoint_that_cannot_be_read_is_passed_over(name, two, monkeypatch):
    """EIO from the disk, at one of the files."""
    plain = Path.open

    def fail(path, *how, **more):
        if path == two.folder / "step-00000002" / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(path, *how, **more)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.warns(UserWarning, match="Input/output error"):
        assert content(two) == (1, 1)


# Another run


def test_a_change_of_data_or_options_is_refused_with_what_changed_unless_forced(tmp_path):
    about = {"rows": "abc", "settings.epochs": 3, "method": "full"}
    with Checkpoints(tmp_path / "c", about) as kept:
        save(kept, 1, 1)
    with Checkpoints(tmp_path / "c", about) as kept:
        assert content(kept) == (1, 1)
    for changed in ({**about, "rows": "abd", "settings.epochs": 4}, {k: v for k, v in about.items() if k != "method"}, {**about, "new": 1}):
        keys = sorted(k for k in changed.keys() | about.keys() if changed.get(k) != about.get(k))
        with Checkpoints(tmp_path / "c", changed) as kept:
            with pytest.raises(OptionError) as caught:
                kept.latest()
            assert caught.value.exit_code == 2
            assert [key for key in sorted({*about, *changed}) if f"{key}: " in str(caught.value)] == keys
            assert "--force" in str(caught.value)
        with Checkpoints(tmp_path / "c", changed, force=True) as kept:
            assert content(kept) == (1, 1)


def test_another_machine_is_a_warning(tmp_path):
    with Checkpoints(tmp_path / "c", {"machine.threads": 1, "machine.torch": "2"}) as kept:
        save(kept, 1, 1)
    warned = pytest.warns(UserWarning, match=r"machine\.threads changed since the checkpoint, so the result may differ")
    with Checkpoints(tmp_path / "c", {"machine.threads": 2, "machine.torch": "2"}) as kept, warned:
        assert content(kept) == (1, 1)


def test_two_runs_in_one_folder_are_not_possible_and_one_after_the_other_is(tmp_path):
    with Checkpoints(tmp_path / "c", {}), pytest.raises(ArtefactError, match="another run is using this folder"):
        Checkpoints(tmp_path / "c", {}).__enter__()
    with Checkpoints(tmp_path / "c", {}), Checkpoints(tmp_path / "d", {}):
        pass


def test_a_lock_on_a_folder_that_was_cleared_away_is_no_lock(tmp_path):
    """The one that waited has opened the lock file of the old folder; it must not run beside one that has the new folder."""
    folder = tmp_path / "c"
    with Checkpoints(folder, {}):
        storage.remove_folder(folder)
        with Checkpoints(folder, {}), pytest.raises(ArtefactError):
            Checkpoints(folder, {}).__enter__()


# A disk that fails

AFTER_THE_RENAME = 6
POINTS = ("_write", "_rename", "_sync_folder", "_exchange")


@pytest.fixture
def failing(monkeypatch):
    """Let the n-th write, rename or sync of storage fail with an error of the system; a write is half done by then."""

    def fail_at(point, number):
        points = iter(range(10**6))

        def guarded(name, plain):
            def run(*arguments):
                if next(points) == point:
                    if name == "_write":
                        arguments[0].write_bytes(arguments[1][: len(arguments[1]) // 2])
                    raise OSError(number, os.strerror(number))
                return plain(*arguments)

            return run

        for name in POINTS:
            monkeypatch.setattr(storage, name, guarded(name, getattr(storage, name)))
        return points

    return fail_at


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_fails_at_any_point_is_one_clear_error_and_loses_nothing(number, tmp_path, failing, monkeypatch):
    said, point, failed = [], 0, True
    while failed:
        with Checkpoints(tmp_path / str(point), {}) as kept:
            for step in (1, 2):
                save(kept, step, step)
            failing(point, number)
            try:
                save(kept, 3, 3)
                failed = False
            except ArtefactError as error:
                said.append(str(error))
            monkeypatch.undo()
            there = content(kept)[0]
            assert there == 2 or (there == 3 and (not failed or point >= AFTER_THE_RENAME))
            assert not strays(kept.folder)
            save(kept, 3, 3)
            assert content(kept) == (3, 3)
        point += 1
    assert len(said) == point - 1 == 8, "four writes, the folder's sync, the rename, the sync above, the rename of the pruned one"
    assert all(os.strerror(number) in one and "run the same command again" in one and "\n" not in one for one in said)


def test_too_little_space_is_said_before_anything_is_written(two, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ArtefactError, match=r"a checkpoint needs [\d,]+ bytes and the disk has fewer free"):
        save(two, 3, 3)
    monkeypatch.undo()
    assert content(two) == (2, 2)
    assert not strays(two.folder)


def test_a_limit_of_the_real_system_is_one_clear_error(two):
    """No stand-in: the kernel refuses to let a file grow over so many bytes."""
    before, failures = resource.getrlimit(resource.RLIMIT_FSIZE), 0
    for limit in (1, 100, 200, 300, 400, 500):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(ArtefactError, match="File too large"):
                save(two, 3, 3)
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert content(two) == (2, 2)
        assert not strays(two.folder)
    assert failures == 6


@pytest.mark.slow
def test_a_full_disk_of_20_megabytes(tmp_path):
    """A real file system that is full: mounted where the system lets us, else skipped."""
    script = """
        import sys, torch
        from pathlib import Path
        from trunkline.errors import ArtefactError
        from trunkline.train.checkpoint import Checkpoints
        place = Path(sys.argv[1])
        with Checkpoints(place / "c", {}) as kept:
            tensors = {"weights": {"x": torch.ones(1_500_000)}}
            kept.save(1, tensors, {})
            kept.save(2, tensors, {})
            (place / "other").write_bytes(bytes(4_000_000))
            for step in (3, 4, 5):
                try:
                    kept.save(step, tensors, {})
                    print("saved")
                except ArtefactError as error:
                    print("refused" if "Free some space" in str(error) or "free some space" in str(error) else error)
            print(kept.latest()[1]["step"], [p.name for p in (place / "c").iterdir() if p.name.startswith(".")])
    """
    lines = [line[8:] for line in script.splitlines()]
    (tmp_path / "run.py").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "disk").mkdir()
    command = f"mount -t tmpfs -o size=20m tmpfs {tmp_path / 'disk'} && {sys.executable} {tmp_path / 'run.py'} {tmp_path / 'disk'}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:100]}")
    assert done.stdout.split("\n")[:4] == ["refused", "refused", "refused", "2 []"], done.stdout + done.stderr


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="could not be written"):
        Checkpoints(tmp_path / "file" / "c", {}).__enter__()


def test_reading_again_and_again_gives_no_warning(two):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(two) == content(two) == (2, 2)

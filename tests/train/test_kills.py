"""Whole runs, stopped: by SIGKILL at random moments, by Ctrl-C and SIGTERM, and gone on with by the same call or another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.train.samples import make_rows, settings, without_seconds, write_csv
from trunkline.data.read import read
from trunkline.errors import ArtefactError, OptionError
from trunkline.train.checkpoint import lock
from trunkline.train.tune import tune

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
"""A signal in the middle of listing a folder leaves the list's handle to the collector, which says so."""


def kill(count, seed):
    folder = ["--folder", "/dev/shm"] if os.access("/dev/shm", os.W_OK) else []  # quicker than a disk, and a kill loses nothing
    command = [sys.executable, "bench/kills.py", "--kills", str(count), "--seed", str(seed), "--json", *folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.wide
def test_runs_that_were_killed_end_bit_for_bit_as_those_that_were_not():
    found = kill(10, seed=0)
    assert found["kills"] == 10
    assert found["identical"] == found["without strays"] == found["runs"] >= 2


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_100_kills():
    found = kill(100, seed=1)
    assert found["kills"] == 100
    assert found["identical"] == found["without strays"] == found["runs"]


@pytest.fixture(autouse=True)
def _signals_count():
    """A shell that starts the tests in the background has SIGINT ignored, here and in every process started from here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LONG = {"precision": "float32", "epochs": 80, "patience": None, "evaluate_every": 40, "dropout": 0.1, "checkpoint_seconds": 0.05}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file of rows and a cache, for all runs of this module; in memory where there is one, as disks are slow."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm")) if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("runs")
    before = os.environ.get("TRUNKLINE_CACHE")
    os.environ["TRUNKLINE_CACHE"] = str(folder / "cache")
    write_csv(folder / "rows.csv", make_rows(count=60))
    yield folder
    shutil.rmtree(folder)
    os.environ.pop("TRUNKLINE_CACHE")
    if before is not None:
        os.environ["TRUNKLINE_CACHE"] = before


@pytest.fixture
def run(place, tiny_folder):
    """The call, with what is to be different."""

    def call(out, file="rows.csv", **told):
        rows = read(place / file, "classify", text="text", label="label")
        return tune(rows, tiny_folder("bert"), depth=1, settings=settings(**{**LONG, **told}), out=place / out)

    before = torch.get_num_threads()
    yield call
    torch.set_num_threads(before)


def ended(folder):
    history = json.loads((folder / "report.json").read_text(encoding="utf-8"))["history"]
    return (folder / "branch.safetensors").read_bytes(), [without_seconds(one) for one in history]


@pytest.fixture(scope="module")
def clean(place, tiny_folder):
    """What a run ends with that nobody stopped."""
    rows = read(place / "rows.csv", "classify", text="text", label="label")
    tune(rows, tiny_folder("bert"), depth=1, settings=settings(**LONG), out=place / "clean")
    return ended(place / "clean")


def newest(folder):
    return max((path.name for path in folder.glob("step-*")), default="")


def wait_for(folder):
    while not newest(folder / "seed-0"):
        time.sleep(0.005)


def interrupted(call, folder, number=signal.SIGINT):
    """Run `call` and send this process a signal when a checkpoint comes that was not there before.

    Once more after a while, as a person would: what a signal raises is lost where Python happens to be clearing away an object.
    """
    over, before = threading.Event(), newest(folder / "seed-0")

    def watch():
        while not over.is_set() and newest(folder / "seed-0") == before:
            time.sleep(0.002)
        while not over.is_set():
            os.kill(os.getpid(), number)
            over.wait(1.0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        over.set()
        thread.join()


def test_ctrl_c_in_a_run_from_python_leaves_a_checkpoint_that_goes_on_bit_for_bit(run, clean, place):
    for _ in range(2):
        interrupted(lambda: run("python"), place / "python.checkpoints")
        assert not (place / "python").exists()
    run("python")
    assert ended(place / "python") == clean
    assert not (place / "python.checkpoints").exists()


@pytest.mark.wide
@pytest.mark.parametrize(("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_leaves_a_checkpoint_that_goes_on_bit_for_bit(number, code, run, clean, place, tiny_folder):
    out = place / f"stopped{code}"
    flags = [f"--{key.replace('_', '-')}={'none' if value is None else value}" for key, value in LONG.items()]
    flags += ["--batch-size=8", "--threads=1", f"--out={out}", f"--model={tiny_folder('bert')}", "--depth=1"]
    command = [sys.executable, "-m", "trunkline.cli", "tune", str(place / "rows.csv"), "--text=text", "--label=label", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = place / f"stopped{code}.checkpoints" / "seed-0"
    while not (found := newest(folder)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(number)
    started = time.monotonic()
    said, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == code, errors
    assert said == ""
    assert [line for line in errors.splitlines() if line and not line.startswith("note: ")] == [errors.splitlines()[-1]]
    assert errors.splitlines()[-1].startswith("trunkline: stopped")
    assert "Traceback" not in errors
    assert newest(folder) > found, "what was done since the last checkpoint is kept too"
    run(out.name)
    assert ended(out) == clean


@pytest.mark.wide
def test_changed_rows_and_changed_options_are_refused_by_name_and_force_goes_on(run, place):
    interrupted(lambda: run("changed"), place / "changed.checkpoints")
    lines = (place / "rows.csv").read_text(encoding="utf-8").splitlines()
    (place / "other.csv").write_text("\n".join([*lines[:-1], lines[-1].replace(",", " today,", 1)]) + "\n", encoding="utf-8")
    for told, keys in (({"file": "other.csv"}, ["rows"]), ({"batch_size": 4, "clip": 2.0}, ["settings.batch_size", "settings.clip"])):
        with pytest.raises(OptionError, match="belongs to another run") as caught:
            run("changed", **told)
        assert caught.value.exit_code == 2
        assert all(f"{key}: " in str(caught.value) for key in keys)
        assert str(caught.value).count(" -> ") == len(keys)
    run("changed", clip=2.0, force=True)
    assert (place / "changed" / "branch.safetensors").exists()


@pytest.mark.slow
def test_another_number_of_threads_is_a_warning(run, place):
    interrupted(lambda: run("threads"), place / "threads.checkpoints")
    with pytest.warns(UserWarning, match=r"machine\.threads changed since the checkpoint"):
        run("threads", threads=2)


@pytest.mark.parametrize("folder", [pytest.param("", marks=pytest.mark.slow), "seed-0"], ids=["the whole run", "the loop"])
@pytest.mark.wide
def test_a_second_run_with_the_same_out_is_refused_while_the_first_goes_on(folder, run, place):
    name, refused = f"twice{folder}", []

    def again():
        with pytest.raises(ArtefactError) as caught:
            lock(place / f"{name}.checkpoints" / folder)
        refused.append(str(caught.value))

    def call():
        thread = threading.Thread(target=lambda: (wait_for(place / f"{name}.checkpoints"), again()))
        thread.start()
        try:
            run(name)
        finally:
            thread.join()

    call()
    assert "another run is using this folder" in refused[0]
    lock(place / "once more").close()


def test_the_whole_call_gives_the_same_branch_twice(run, place):
    run("once", epochs=3)
    run("again", epochs=3)
    assert ended(place / "once") == ended(place / "again")


def test_out_that_holds_something_else_is_refused_and_left_alone(run, place):
    (place / "theirs").mkdir()
    (place / "theirs" / "letter.txt").write_text("dear")
    with pytest.raises(ArtefactError, match="is not a saved branch"):
        run("theirs", epochs=1)
    assert [path.name for path in (place / "theirs").iterdir()] == ["letter.txt"]

"""`clean` as a whole: every document is accounted for, whatever kills it, and for any number of workers the bytes are the same."""

import gzip
import hashlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trunkline.corpus import clean as module
from trunkline.corpus import files
from trunkline.corpus.clean import clean
from trunkline.corpus.settings import CleanSettings
from trunkline.errors import ArtefactError, DataError, OptionError

WORDS = "the bank sent a new card to my old address and that was two weeks ago so I have to wait with the rent of this month".split()  # noqa: SIM905
LOOSE = CleanSettings(rules="no_filler", near=0.8)


def sentence(generator: random.Random, size: int = 14) -> str:
    return " ".join(generator.choices(WORDS, k=size)).capitalize() + f" {generator.randrange(10**6)}."


def corpus(folder: Path, count: int = 300) -> tuple[list[Path], Counter[str]]:
    """Three files of known content; what must become of it, by reason."""
    generator = random.Random(1)
    texts = [sentence(generator) for _ in range(count)]
    lines = [json.dumps({"text": text, "url": f"https://{'ab'[n % 3 == 0]}.example.com/{n}"}) for n, text in enumerate(texts)]
    lines += [json.dumps({"text": texts[n].upper() + "  "}) for n in range(20)]  # exact, once folded
    lines += [json.dumps({"text": texts[n] + "!!"}) for n in range(20, 40)]
    lines += ["not json", '{"other": 1}', '{"text": 5}', '{"text": "   "}', '{"text": "Lorem ipsum dolor sit amet."}']
    first = folder / "first.jsonl.gz"
    first.write_bytes(gzip.compress("\n".join(lines).encode()))
    second = folder / "second.txt"
    second.write_bytes(b"\n\n".join([b"Mail me at li@example.com about the card that was lost.", b"\xff\xfe broken", texts[50].encode()]))
    third = folder / "third.parquet"
    pq.write_table(
        pa.table({"text": ["我的银行卡丢了，请问怎么补办一张新的？", "我的银行卡丢了，请问怎么补办一张新的？", None], "n": [1, 2, 3]}),
        third,
    )
    expected = Counter(exact_duplicate=22, near_duplicate=20, unreadable=5, empty=1) + Counter({"rule:no_filler": 1})
    return [first, second, third], expected


def sums(folder: Path) -> dict[str, str]:
    """The content of a result, without the seconds that it took."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "report.json"}
    report = json.loads((folder / "report.json").read_text())
    return found | {"report": json.dumps({k: v for k, v in report.items() if k != "seconds"}, sort_keys=True)}


def test_every_document_is_kept_or_counted(tmp_path: Path) -> None:
    paths, expected = corpus(tmp_path)
    report = clean(paths, tmp_path / "out", LOOSE)
    assert Counter(report.dropped) == expected
    assert report.read == 300 + 20 + 20 + 5 + 3 + 3 == report.kept + sum(report.dropped.values())
    assert [file["read"] for file in report.files] == [345, 3, 3]
    records = [json.loads(line) for line in (tmp_path / "out/data-00000.jsonl").read_text().splitlines()]
    assert len(records) == report.kept == 302
    assert records[0]["url"] == "https://b.example.com/0"
    assert records[300]["text"] == "Mail me at [mail] about the card that was lost."
    assert report.personal == {"mail": 1}
    assert records[301] == {"text": "我的银行卡丢了，请问怎么补办一张新的？", "n": 1}
    assert not (tmp_path / "out/.work").exists()
    assert "near_duplicate" in str(report)


def test_samples_say_what_was_dropped_and_for_what(tmp_path: Path) -> None:
    paths, expected = corpus(tmp_path)
    clean(paths, tmp_path / "out", LOOSE)
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert Counter(sample["reason"] for sample in samples) == {reason: min(5, count) for reason, count in expected.items()}
    for sample in samples:
        if "duplicate" in sample["reason"]:
            assert sample["like"]["text"].lower().split()[:1] == sample["text"].lower().split()[:1]
    assert {(s["file"], s["place"]) for s in samples if s["reason"] == "rule:no_filler"} == {(str(paths[0]), 345)}


@pytest.mark.wide
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK_DOCUMENTS", 40)
    paths, _ = corpus(tmp_path)
    found = []
    for workers in (1, 3):
        clean(paths, tmp_path / f"out{workers}", CleanSettings(rules="no_filler", domain="url", domain_most=0.6, workers=workers))
        found.append(sums(tmp_path / f"out{workers}"))
    assert found[0] == found[1]


KILLED = """
import sys
from pathlib import Path
from trunkline.corpus import files
from trunkline.corpus.clean import clean
from trunkline.corpus.settings import CleanSettings
if __name__ == "__main__":
    files._CHUNK_DOCUMENTS = 10
    clean([Path(p) for p in sys.argv[3:]], sys.argv[1], CleanSettings(rules="no_filler", workers=int(sys.argv[2])))
"""


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.wide), pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_and_go_on(tmp_path: Path, workers: int) -> None:
    paths, _ = corpus(tmp_path)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), "{}", str(workers), *map(str, paths)]
    whole = [part.format(tmp_path / "whole") for part in command]
    subprocess.run(whole, check=True, timeout=120)
    out, killed = tmp_path / "out", 0
    for parts in (2, 20) if workers == 1 else (9,):
        process = subprocess.Popen([part.format(out) for part in command], start_new_session=True)
        while process.poll() is None and len(list(out.glob(".work/*.json"))) < parts:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
            killed += 1
        process.wait()
        _gone(process.pid)
    subprocess.run([part.format(out) for part in command], check=True, timeout=120)
    assert killed
    assert sums(out) == sums(tmp_path / "whole")


def _gone(group: int) -> None:
    """Wait until no process of the group is left."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("workers of a killed parent live on")


def test_a_run_that_is_done_gives_its_report_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    paths, _ = corpus(tmp_path, 60)
    report = clean(paths, tmp_path / "out", LOOSE)
    assert clean(paths, tmp_path / "out", LOOSE) == report
    with pytest.raises(OptionError, match="other near"):
        clean(paths, tmp_path / "out", CleanSettings(rules="no_filler", near=0.9))
    with pytest.raises(OptionError, match="other files"):
        clean(paths[:2], tmp_path / "out", LOOSE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(ArtefactError, match="holds no run"):
        clean(paths, tmp_path / "mine", LOOSE)


def test_what_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 9)[:-12])
    for name, message in (("a.docx", "ending"), ("empty.txt", "empty"), ("none.txt", "no such"), ("cut.jsonl.gz", "damaged")):
        with pytest.raises(DataError, match=message):
            clean(tmp_path / name, tmp_path / f"out-{name}")


@pytest.mark.parametrize("change", ["none", "a list", "a text", "half", "no settings", "no counts", "not JSON"])
def test_a_foreign_report_or_plan_is_told_in_a_line(change: str, tmp_path: Path) -> None:
    paths, _ = corpus(tmp_path, 60)
    out = tmp_path / "out"
    clean(paths, out, LOOSE)
    whole = json.loads((out / "report.json").read_text())
    plan = {
        "none": None,
        "a list": [1],
        "a text": "x",
        "half": {"settings": whole["plan"]["settings"]},
        "no settings": {**whole["plan"], "settings": 3},
    }
    report = {**whole, "plan": plan.get(change)} if change != "no counts" else {**whole, "dropped": [1]}
    (out / "report.json").write_text("{" if change == "not JSON" else json.dumps(report))
    with pytest.raises(ArtefactError, match="another folder"):
        clean(paths, out, LOOSE)
    (tmp_path / "stopped/.work").mkdir(parents=True)
    (tmp_path / "stopped/.work/plan.json").write_text("{" if change == "not JSON" else json.dumps(plan.get(change)))
    with pytest.raises(ArtefactError, match="another folder"):
        clean(paths, tmp_path / "stopped", LOOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rules": "gofer"}, "gopher"), ({"repair": "unicod"}, "unicode"), ({"near": 0.2}, "near"), ({"domain_most": 0.5}, "needs domain"),
     ({"personal": "hide"}, "mask"), ({"personal_kinds": "mial"}, "mail"), ({"encoding": "utf-99"}, "utf-99"),
        ({"encoding": "utf-16"}, "Convert"), ({"workers": 0}, "workers")],
)  # fmt: skip
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CleanSettings(**options)


def test_domains_are_balanced(tmp_path: Path) -> None:
    generator = random.Random(2)
    rows = [{"text": sentence(generator), "site": "big" if n < 200 else f"small{n % 4}"} for n in range(280)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = clean(tmp_path / "a.jsonl", tmp_path / "out", CleanSettings(rules=None, domain="site", domain_most=0.5))
    assert report.domains["big"] == 80 == report.kept - 80
    assert report.dropped == {"balance": 120}


def test_the_forms_of_the_result(tmp_path: Path) -> None:
    generator = random.Random(3)
    rows = [{"text": sentence(generator), "n": n, "more": {"a": [1]}} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = {
        "jsonl": lambda p: [json.loads(line) for line in p.read_text().splitlines()],
        "jsonl.gz": lambda p: [json.loads(line) for line in gzip.decompress(p.read_bytes()).splitlines()],
        "jsonl.zst": lambda p: [json.loads(line) for line in pa.input_stream(p, compression="zstd").read().splitlines()],
        "parquet": lambda p: [
            {"text": r["text"], "n": json.loads(r["n"]), "more": json.loads(r["more"])} for r in pq.read_table(p).to_pylist()
        ],
    }
    for form, back in read.items():
        clean(tmp_path / "a.jsonl", tmp_path / form, CleanSettings(rules=None, form=form))
        assert back(tmp_path / form / f"data-00000.{form}") == rows
    report = clean(tmp_path / "jsonl.zst/data-00000.jsonl.zst", tmp_path / "again", CleanSettings(rules=None, form="txt"))
    assert report.kept == 9  # what we wrote we read
    assert (tmp_path / "again/data-00000.txt").read_text().split("\n\n")[:-1] == [row["text"] for row in rows]


def test_a_huge_line_is_read_past_and_its_neighbours_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    (tmp_path / "a.txt").write_text("before the storm\n" + "x" * (5 << 20) + "\nafter the rain\n" + "y " * 700_000 + "\n")
    report = clean(tmp_path / "a.txt", tmp_path / "out", CleanSettings(rules=None, divide="line"))
    assert report.dropped == {"too_large": 2}
    assert (tmp_path / "out/data-00000.jsonl").read_text().count("\n") == 2 == report.kept


def test_a_branch_keeps_what_it_finds_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder) -> None:
    """The real path through a saved branch, on a tiny model; what it is sure of is another matter."""
    from trunkline.branch import Branch, load
    from trunkline.methods.full import Config
    from trunkline.model.backbone import load_backbone
    from trunkline.tasks.classify import TaskSpec

    branch = Branch.new(load_backbone(tiny_folder("bert")), TaskSpec(task="classify", labels=("bad", "good")), "full", Config(), 1)
    branch.save(tmp_path / "branch")
    paths, _ = corpus(tmp_path, 60)
    plain = clean(paths, tmp_path / "plain", LOOSE)
    texts = [json.loads(line)["text"] for line in (tmp_path / "plain/data-00000.jsonl").read_text().splitlines()]
    probabilities = [float(answer.scores[1]) for answer in load(tmp_path / "branch").predict(texts)]
    cut = sorted(probabilities)[len(texts) // 2]
    settings = CleanSettings(rules="no_filler", quality_branch=str(tmp_path / "branch"), keep_above=cut)
    report = clean(paths, tmp_path / "out", settings)
    assert report.dropped["quality_branch"] == sum(p < cut for p in probabilities) > 5
    assert report.kept + report.dropped["quality_branch"] == plain.kept
    with pytest.raises(OptionError, match="bad, good"):
        clean(paths, tmp_path / "out2", CleanSettings(quality_branch=str(tmp_path / "branch"), quality_label="fine"))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out/.work").mkdir(parents=True)
    with module._alone(tmp_path / "out"), pytest.raises(OptionError, match="another process"), module._alone(tmp_path / "out"):
        pass


def test_the_example_runs(capsys: pytest.CaptureFixture) -> None:
    example = Path(__file__).parents[2] / "examples/clean.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(example))["main"]()
    printed = capsys.readouterr().out
    assert "near_duplicate" in printed
    assert "[phone]" in printed

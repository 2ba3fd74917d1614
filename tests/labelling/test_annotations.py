"""What people said is on disk at once and survives a kill; agreement against references; other tools' files come back as they went."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trunkline.errors import DataError, OptionError
from trunkline.labelling import exchange
from trunkline.labelling.agreement import cohen_kappa, krippendorff_alpha, pairwise
from trunkline.labelling.annotations import Annotation, Annotations, key_of


def test_who_said_what(tmp_path: Path) -> None:
    with Annotations(tmp_path / "a.jsonl") as made:
        for row, by, kind, label in [
            ("1", "li", "label", "x"), ("1", "wang", "label", "y"), ("2", "li", "label", "x"), ("2", "li", "label", "y"), ("3", "li", "skip", ""),
            ("4", "li", "label", "x"), ("4", "li", "undo", ""), ("5", "li", "label", "x"), ("5", "wang", "label", "y"), ("5", "zhou", "decide", "z"),
        ]:  # fmt: skip
            made.add(Annotation(row, by, kind, label))
    with Annotations(tmp_path / "a.jsonl") as again:
        assert again.labels() == {"1": {"li": "x", "wang": "y"}, "2": {"li": "y"}, "3": {"li": ""}, "5": {"li": "x", "wang": "y"}}
        assert again.final() == {"2": "y", "5": "z"}
        assert again.disputed() == ["1"]
        with pytest.raises(DataError, match="another process"):
            Annotations(tmp_path / "a.jsonl")


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """Every label whose `add` had returned is there after SIGKILL."""
    code = (
        "import sys\nfrom trunkline.labelling.annotations import Annotation, Annotations\n"
        f"made = Annotations({str(tmp_path / 'a.jsonl')!r})\n"
        "for n in range(100000):\n    made.add(Annotation(str(n), 'li', 'label', '标签'))\n    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    with Annotations(tmp_path / "a.jsonl") as again:
        assert [act.row for act in again.acts][: len(told)] == list(map(str, told))


def test_a_line_that_was_cut_off_is_left_out_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Annotations(path) as made:
        made.add(Annotation("1", "li", "label", "x"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"row": "2", "by": "l')
    with pytest.warns(UserWarning, match="cut off"):
        again = Annotations(path)
    with again:
        again.add(Annotation("3", "li", "label", "x"))
    with Annotations(path) as third:
        assert [act.row for act in third.acts] == ["1", "3"]
    path.write_bytes(b"not json\n" + whole)
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        Annotations(path)


def test_cohen_against_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        first = generator.choice(list("abc"), 40)
        second = np.where(generator.random(40) < 0.6, first, generator.choice(list("abc"), 40))
        assert cohen_kappa(first.tolist(), second.tolist()) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa(["a"] * 3, ["a"] * 3) == 1.0


def test_krippendorff_against_his_own_example() -> None:
    """Krippendorff 2011, example C: four people, twelve rows, some left out; nominal alpha 0.743."""
    said = ["123321412...", "1233224125.3", ".333234 2251.".replace(" ", ""), "12332441251."]
    units = [[one[at] for one in said if one[at] != "."] for at in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=0.0005)
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
    with pytest.raises(OptionError, match="two people"):
        krippendorff_alpha([["a"], []])


def test_pairs_of_people() -> None:
    labels = {"1": {"a": "x", "b": "x"}, "2": {"a": "y", "b": "y", "c": "y"}, "3": {"a": "x", "b": ""}, "4": {"c": "x"}}
    assert pairwise(labels) == {("a", "b"): (1.0, 2), ("a", "c"): (1.0, 1), ("b", "c"): (1.0, 1)}


@pytest.mark.parametrize("form", exchange.FORMS)
def test_to_other_tools_and_back(form: str, tmp_path: Path) -> None:
    rows = [{"text": "我的卡丢了"}, {"text": "refund, please"}, {"text": "hello"}]
    labels = {key_of(rows[0]): {"li": "card"}, key_of(rows[1]): {"li": "refund"}}
    assert exchange.export(rows, labels, form, tmp_path / "out.json") == 3
    found = exchange.load(tmp_path / "out.json")
    assert {act.row: act.label for act in found} == {key_of(rows[0]): "card", key_of(rows[1]): "refund"}


def test_a_file_as_label_studio_writes_it(tmp_path: Path) -> None:
    result = {
        "from_name": "sentiment",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["Positive"]},
        "id": "a",
        "origin": "manual",
    }
    task = {
        "id": 1,
        "data": {"text": "fine"},
        "annotations": [{"id": 1, "completed_by": 7, "result": [result], "was_cancelled": False}],
        "predictions": [],
    }
    (tmp_path / "x.json").write_text(json.dumps([task]), encoding="utf-8")
    assert [(act.by, act.kind, act.label) for act in exchange.load(tmp_path / "x.json")] == [("7", "label", "Positive")]
    (tmp_path / "x.json").write_text('{"text": "fine", "label": [[0, 4, "PER"]]}', encoding="utf-8")
    with pytest.raises(DataError, match="doccano"):
        exchange.load(tmp_path / "x.json")


def test_time_is_kept(tmp_path: Path) -> None:
    with Annotations(tmp_path / "a.jsonl") as made:
        made.add(Annotation("1", "li", "label", "x"))
    assert json.loads((tmp_path / "a.jsonl").read_text())["at"].startswith(time.strftime("%Y", time.gmtime()))

"""prepare: what is shown of rows before anything is trained, and which flags would clear away what is wrong."""

import json
import subprocess
import sys

import pytest
from rich.cells import cell_len

from trunkline.data.prepare import NONE, prepare, quantiles, runs_folder
from trunkline.data.read import read
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.types import Rows


def messages(count=60, **more):
    return [{"text": f"message number {n} {'please ' * (n % 5)}", "label": ("refund", "delivery")[n % 2], **more} for n in range(count)]


def test_rows_labels_lengths_and_split(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [*messages(), {"text": "", "label": "refund"}])))
    found = prepare(read(file, skip_bad=tmp_path / "bad.jsonl"))
    assert found.labels == {"refund": 30, "delivery": 30}
    assert len(found.shown) == 10
    assert {row["label"] for row in found.shown} == {"refund", "delivery"}
    assert found.shown == prepare(found.rows).shown == sorted(found.shown, key=lambda row: int(row["text"].split()[2])), (
        "the same, in order"
    )
    sizes = sorted(len(row["text"]) for row in messages())
    assert found.lengths == {"text": {"smallest": sizes[0], "median": sizes[30], "90%": sizes[53], "99%": sizes[58], "largest": sizes[-1]}}
    assert sum(map(len, found.parts.parts().values())) == 60
    assert found.remedies == []
    shown = str(found)
    assert f"{file}: 60 rows for classify, 1 bad ones left out" in shown
    assert "text is empty" in shown
    assert "columns: text = 'text', label = 'label'" in shown
    assert all(row["text"].strip() in shown for row in found.shown)
    assert f"train {len(found.parts.train)}" in shown
    told = found.to_json()
    assert json.loads(json.dumps(told)) == told
    assert (told["rows"], told["bad"], told["split"]["rows"]["train"]) == (60, 1, len(found.parts.train))
    assert told["tokens"] is None


def test_what_does_not_fit_is_cut_and_stays_on_one_line():
    rows = [{"text": f"line one {n}\nline [bold]two[/bold] " + "字" * 300, "label": "ab"[n % 2]} for n in range(20)]
    shown = str(prepare(rows))
    assert "line [bold]two[/bold]" in shown
    assert "…" in shown
    assert all(cell_len(line) <= 100 for line in shown.splitlines())
    asked = [{"question": "问" * 40, "context": "答案" + "字" * 900 + str(n), "answers": ["答案"]} for n in range(12)]
    first = str(prepare(asked, "span")).split("────\n")[1].splitlines()[0]
    assert first.endswith("答案"), "a narrow column stays whole beside wide ones"


def test_numbers_have_quantiles_and_no_classes():
    found = prepare([{"text": f"message {n}", "score": n / 10} for n in range(50)], "regress")
    assert found.labels == {}
    assert found.facts["largest"] == 4.9
    assert found.facts["mean"] == pytest.approx(2.45)
    assert found.facts["different values"] == 50
    assert "2.45" in str(found)


def test_answers_and_entities_are_shown_as_texts():
    passage = "Ada was born in London."
    asked = [{"question": f"Where {n}?", "context": passage, "answers": ["London"] if n % 2 else []} for n in range(20)]
    found = prepare(asked, "span")
    assert (found.facts["with an answer"], found.facts["without an answer"]) == (10, 10)
    assert found.facts["answer, characters, largest"] == 6
    assert "London" in str(found)
    assert NONE in str(found)
    assert "[[16" not in str(found)
    tagged = Rows(tuple({"text": f"Ada {n}", "label": [[0, 3, "PER"]] if n % 2 else []} for n in range(20)), "tag")
    found = prepare(tagged)
    assert found.labels == {"PER": 10}
    assert "PER: Ada" in str(found)


def test_remedies_for_groups_and_leaks():
    grouped = read([{**row, "who": f"customer {n % 3}"} for n, row in enumerate(messages())], group="who")
    found = prepare(split(grouped, by="label"))
    assert found.remedies == ["--split", "group"]
    assert any("groups that stand in" in finding.what for finding in found.findings)
    assert prepare(grouped).remedies == [], "groups are not divided unless one says so"
    rows = read(messages())
    test = Rows(rows.rows[:5], "classify")
    found = prepare(split(rows, test=test))
    assert found.remedies == ["--drop-leaks"]
    assert len(found.rows) == 65
    assert "texts that stand in" in str(found)


def test_a_task_that_is_not_that_of_the_rows_is_refused():
    rows = read(messages())
    assert prepare(rows, "classify").rows is rows
    with pytest.raises(OptionError, match="these rows were read for 'classify'"):
        prepare(rows, "regress")


def test_more_labels_than_are_shown():
    found = prepare([{"text": f"text {n}", "label": f"label {n % 30}"} for n in range(90)])
    assert "and 10 more" in str(found)
    assert len(found.labels) == 30


def test_quantiles_are_values_that_are_there():
    assert quantiles(range(101)) == {"smallest": 0, "median": 50, "90%": 90, "99%": 99, "largest": 100}
    assert set(quantiles([7]).values()) == {7}
    assert runs_folder("memory") == "runs/memory"


def test_it_takes_no_torch():
    code = "import sys, trunkline as tl; str(tl.prepare(tl.embedded('zh'))); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""`drift`: no change where there is none, and in what where there is; the page is safe, says it in both languages, and works in a real browser."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import trunkline as tl
from tests import tiny
from tests.serving.samples import branch as sample
from tests.serving.samples import load_backbone
from trunkline.cli import commands
from trunkline.data.read import read
from trunkline.errors import OptionError
from trunkline.quality.drift import Drifted, drift
from trunkline.quality.drift_page import render, save
from trunkline.quality.duplicates import Vectors
from trunkline.quality.shift import word_shift
from trunkline.quality.words import CHINESE
from trunkline.types import Answer, Rows

CHROMIUM = shutil.which("chromium")
GENERATOR = np.random.default_rng(0)


def sides(moved: int, rows: int = 120) -> tuple[Rows, Rows, Vectors]:
    """Stored rows of two kinds, and live ones of which the last `moved` are of a third."""
    kinds = [GENERATOR.integers(0, 2, 200), np.concatenate([GENERATOR.integers(0, 2, rows - moved), np.full(moved, 2)])]
    vectors = [(4 * np.eye(3, 8)[one] + GENERATOR.normal(size=(len(one), 8))).astype(np.float32) for one in kinds]
    stored, live = (
        Rows(
            tuple({"text": f"{['card', 'money', 'parcel'][kind]} {at} <b>", "label": "abc"[kind]} for at, kind in enumerate(one)),
            "classify",
            name,
        )
        for one, name in zip(kinds, ("stored.csv", "live.csv"))
    )
    return stored, live, Vectors(*vectors, "tiny", "id", 0.9, 0.99)


def test_no_change_is_said_where_there_is_none() -> None:
    found = drift(*sides(0))
    assert not found.changed
    assert "No change is shown" in str(found)


def test_what_changed_and_which_texts() -> None:
    found = drift(*sides(40))
    assert found.reasons == ["texts", "classes"]
    assert all(row["text"].startswith("parcel") for row in found.moved[:30])
    assert all(row["other"] == found.stored[row["other_row"] - 1]["text"] for row in found.moved)
    assert {one.label for one in found.classes if one.p_value < 0.01} >= {"c"}
    assert found.words[0].label == "parcel"
    assert json.loads(json.dumps(found.to_json()))["moved"][0]["row"] > 80


def test_a_branch_that_is_less_sure_from_a_row_on() -> None:
    stored, live, vectors = sides(0, 400)
    sure = [Answer("a", None, 0.95 + 0.01 * (at % 3)) for at in range(len(stored))]
    now = [Answer("a", None, 0.95 if at < 200 else 0.5) for at in range(len(live))]
    found = drift(stored, live, vectors, answers=(sure, now))
    assert found.by == "answer"
    assert found.reasons == ["confidence"]
    assert found.confidence is not None
    assert found.confidence.changed is not None
    assert 150 <= found.confidence.changed <= 215


def test_words_by_hand() -> None:
    before, now = [{"a", "b"}] * 90 + [{"a"}] * 10, [{"a"}] * 50 + [{"b"}] * 50
    (first, second) = word_shift(before, now)
    assert {first.label, second.label} == {"a", "b"}
    told = {one.label: one for one in (first, second)}
    assert (told["a"].before, told["a"].now, told["b"].before, told["b"].now) == (1.0, 0.5, 0.9, 0.5)
    z = 0.4 / (0.7 * 0.3 * 0.02) ** 0.5
    assert told["b"].p_value == pytest.approx(math.erfc(z / 2**0.5))  # two words, and the smaller p is the other's
    with pytest.raises(OptionError):
        word_shift([], now)


def test_vectors_of_other_rows_are_refused() -> None:
    stored, live, vectors = sides(0)
    with pytest.raises(OptionError, match="Make them of the same rows"):
        drift(live, stored, vectors)


def test_a_file_of_one_column_is_texts(tmp_path: Path) -> None:
    (tmp_path / "live.csv").write_text('text\nHello, where is it?\n"Quoted, too"\nno marks\n', encoding="utf-8")
    assert [row["text"] for row in read(tmp_path / "live.csv", "classify", labelled=False)] == [
        "Hello, where is it?",
        "Quoted, too",
        "no marks",
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_safe_and_in_both_languages(language: str, tmp_path: Path) -> None:
    found = drift(*sides(40))
    page = render(found, language)
    assert "119 &lt;b&gt;" in page
    assert "119 <b>" not in page
    assert re.findall(r"https?://", page) == []
    assert ("进来的文本变了吗" in page) == (language == "zh")
    save(found, tmp_path / "out", language)
    assert json.loads((tmp_path / "out/drift.json").read_text("utf-8"))["changed"] is True


def test_every_phrase_has_its_chinese() -> None:
    template = (Path(tl.__file__).parent / "quality/drift.html.j2").read_text("utf-8")
    used = set(re.findall(r't\("([^"]+)"\)', template))
    assert len(used) > 25
    assert not used - CHINESE.keys()


def test_the_command(tmp_path: Path) -> None:
    tiny.save("bert", tmp_path / "model")
    for name, texts in (
        ("old", ["where is my card", "send the money back"] * 15),
        ("new", ["send the money back", "where is my card"] * 8),
    ):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([f"{text} {at}"] for at, text in enumerate(texts))])
    asked = [
        "drift",
        str(tmp_path / "old.csv"),
        str(tmp_path / "new.csv"),
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(commands, asked)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/drift.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt install chromium)")
@pytest.mark.slow
def test_in_a_browser(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found: Drifted = drift(*sides(40))
    save(found, tmp_path)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, errors = browser.new_page(viewport={"width": 1000, "height": 800}), []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "drift.html").as_uri())
        assert page.inner_text("h1").startswith("Yes")
        assert page.locator("#legend button").all_inner_texts() == ["earlier", "came in now"]
        page.locator("#legend button").first.click()
        page.fill("#find", "parcel")
        assert not errors
        browser.close()


def test_a_branch_without_classes_is_refused(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = sample(load_backbone(tiny_folder("bert")), "regress", depth=1).save(tmp_path / "branch")
    (tmp_path / "rows.csv").write_text("text\n" + "where is my card\n" * 12, encoding="utf-8")
    asked = ["drift", str(tmp_path / "rows.csv"), str(tmp_path / "rows.csv"), "--branch", str(folder)]
    with pytest.raises(OptionError, match="for 'regress'"):
        CliRunner().invoke(commands, asked, catch_exceptions=False)

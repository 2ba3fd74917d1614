"""`check` as a whole: what was planted is found in the right section; the file of changes; the page; the command."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

import trunkline as tl
from trunkline.cli import commands
from trunkline.data.read import read
from trunkline.data.tagging import split_words
from trunkline.errors import DataError, OptionError
from trunkline.quality import changes, classes, texts
from trunkline.quality import vectors as vectors_module
from trunkline.quality.check import check
from trunkline.quality.duplicates import Vectors, Words
from trunkline.quality.map import places
from trunkline.quality.material import Material
from trunkline.quality.page import render
from trunkline.quality.words import CHINESE
from trunkline.types import Rows

THINGS = ("card", "parcel", "refund", "password")
GENERATOR = np.random.default_rng(0)


def planted(count: int = 160) -> tuple[Rows, Rows, Vectors]:
    """Rows of four classes with one of each thing that can be wrong, and vectors that know the classes."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("nk", "st", "lm", "rp")]
    rows, truth = [], []
    for at in range(count):
        thing = at % 4
        rows.append({"text": f"{' '.join(GENERATOR.choice(words, 7))} {THINGS[thing]} {at}", "label": THINGS[thing]})
        truth.append(thing)
    rows[10]["label"] = "card"  # was refund: wrong
    rows[20]["text"] = "mail li@example.com about card 4111 1111 1111 1111"
    rows[21]["text"] = "the parcel donâ€™t arrive"
    rows[22]["text"] = "退款在哪里我要退款"
    rows[23]["text"] = "password " * 300
    rows[31] = {"text": rows[30]["text"].upper() + "!", "label": rows[30]["label"]}
    truth[31] = truth[30]
    rows[41] = {"text": rows[40]["text"] + ".", "label": "refund"}
    against = [
        {"text": rows[50]["text"].replace(" ", "  "), "label": "refund"},
        {"text": "nothing like any other of them", "label": "card"},
    ]
    vectors = (3 * np.eye(8)[truth] + GENERATOR.normal(size=(count, 8))).astype(np.float32)
    vectors[31], vectors[41] = vectors[30], vectors[40]
    vectors[60] = [0, 0, 0, 0, 9, -9, 9, 9]
    other = np.stack([vectors[50], [0, 0, 0, 0, -9, 9, 9, 9]]).astype(np.float32)
    return Rows(tuple(rows), "classify"), Rows(tuple(against), "classify"), Vectors(vectors, other, "fake", "fake", 0.7, 0.9999)


@pytest.fixture(scope="module")
def found():
    rows, against, vectors = planted()
    return check(rows, vectors, against=against)


def numbers(found, kind: str) -> list[int]:
    section = found.section(kind)
    return [row["row"] for row in section.rows] if section else []


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("leaks", 51),
        ("duplicates", 32),
        ("conflicts", 41),
        ("labels", 11),
        ("personal", 21),
        ("encoding", 22),
        ("languages", 23),
        ("lengths", 24),
        ("outliers", 61),
    ],
)
def test_what_was_planted_is_found(found, kind: str, row: int) -> None:
    assert row in numbers(found, kind)
    assert len(numbers(found, kind)) <= 12


def test_details(found) -> None:
    assert found.section("labels").rows[numbers(found, "labels").index(11)]["proposed"] == "refund"
    assert found.section("personal").rows[0]["new_text"] == "mail [mail] about card [card]"
    assert found.section("encoding").rows[0]["new_text"] == "the parcel don’t arrive"
    # 39 of the 40 rows of each have the word; "card" and "refund" stand in rows of the other label too, so they give nothing away
    given_away = [(row["text"], row["label"], row["rows_with_it"], row["with_label"]) for row in found.section("give-aways").rows]
    assert sorted(given_away) == [("parcel", "parcel", 39, 39), ("password", "password", 39, 39)]
    assert found.section("leaks").level == "error"
    assert any("personal" in str(one).casefold() for one in found)
    assert "label_errors_expected" in json.dumps(found.to_json())


def test_a_model_that_understands_nothing_names_no_wrong_label() -> None:
    """English MiniLM on the Chinese rows of the demo would change seven labels in ten; that says nothing of the labels."""
    rows, _, _ = planted()
    noise = np.random.default_rng(3).normal(size=(len(rows), 8)).astype(np.float32)
    found = check(rows, Vectors(noise, np.zeros((0, 8), np.float32)))
    assert found.section("labels").title == "Labels that this model cannot judge"
    assert found.section("labels").count > 80
    assert not found.section("labels").rows
    assert found.suspects is None
    assert not [line for line in changes.proposals(found) if line["action"] == "relabel"]
    render(found, "zh")


def test_a_row_is_named_in_the_singular(found) -> None:
    assert "\n    row 11: " in str(found)
    assert "rows 11" not in str(found)
    assert any(line["compare_with"].startswith("row 31: ") for line in changes.proposals(found))


def test_without_vectors_and_on_a_split() -> None:
    rows, _, _ = planted()
    found = check(rows)
    assert 32 in numbers(found, "duplicates")
    assert found.section("labels") is None
    assert len(tl.check(tl.split(rows)))
    with pytest.raises(OptionError, match="a split has its own"):
        check(tl.split(rows), against=rows)
    with pytest.raises(OptionError, match="same rows"):
        check(rows, Vectors(np.zeros((3, 2), np.float32), np.zeros((0, 2), np.float32)))


def test_a_clean_set_gives_nothing() -> None:
    letters = "bcdfghjklmnpqrstvwxz"
    rows = Rows(
        tuple({"text": f"{one * 9} {two * 9} sent", "label": "ab"[n % 2]} for n, (one, two) in enumerate(zip(letters, letters[::-1]))),
        "classify",
    )
    found = check(rows)
    assert not found.sections
    assert "nothing was found" in str(found)


def test_numbers_have_suspects_too() -> None:
    vectors = GENERATOR.normal(size=(60, 3)).astype(np.float32)
    rows = [{"text": f"text {number} {'abcdefgh'[number % 8] * 9}", "label": float(vector[0])} for number, vector in enumerate(vectors)]
    rows[5]["label"] = 30.0
    found = check(Rows(tuple(rows), "regress"), Vectors(vectors, np.zeros((0, 3), np.float32), near=0.999, same=0.9999))
    assert numbers(found, "labels")[0] == 6


def decide(path: Path, decisions: dict[int, dict[str, str]]) -> None:
    """Write decisions into a file of changes, by the number of the row and the action."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        if (wanted := decisions.get(int(line["row"]))) and line["action"] == wanted.get("action", line["action"]):
            line.update(wanted)
    with path.open("w", encoding="gb18030", newline="") as file:  # as a Chinese spreadsheet does
        writer = csv.DictWriter(file, lines[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(lines)


def test_only_what_was_decided_is_changed(found, tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    changes.write(found, path)
    assert changes.apply(found.rows, path).rows == found.rows.rows
    decide(path, {11: {"decision": "yes", "action": "relabel"}, 21: {"decision": "YES", "action": "rewrite"}, 32: {"decision": "x", "action": "drop"},
                  51: {"decision": "no"}})  # fmt: skip
    after = changes.apply(found.rows, path)
    assert len(after) == len(found.rows) - 1
    assert after[10]["label"] == "refund"
    assert after[20]["text"] == "mail [mail] about card [card]"
    untouched = [row for at, row in enumerate(found.rows) if at not in (10, 20, 31)]
    assert [row for at, row in enumerate(after) if at not in (10, 20)] == untouched
    assert "drop 1, relabel 1, rewrite 1" in after.notes[-1]


def test_a_file_that_moved_on_is_noticed(found, tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    changes.write(found, path)
    decide(path, {11: {"decision": "yes", "action": "relabel"}})
    later = Rows(found.rows.rows[5:], "classify")
    assert changes.apply(later, path)[5]["label"] == "refund"  # found again by its text
    gone = Rows(found.rows.rows[:10], "classify")
    with pytest.raises(DataError, match="no row has this text"):
        changes.apply(gone, path)
    changes.write(found, path)
    decide(path, {11: {"decision": "perhaps", "action": "relabel"}})
    with pytest.raises(DataError, match="write yes"):
        changes.apply(found.rows, path)


def test_formulas_are_not_run_and_come_back(tmp_path: Path) -> None:
    rows = Rows(({"text": "=1+1 mail li@example.com", "label": "a"}, {"text": "'quoted li@example.com", "label": "b"}), "classify")
    changes.write(check(rows), tmp_path / "changes.csv")
    text = (tmp_path / "changes.csv").read_text("utf-8-sig")
    assert ",'=1+1 mail li@example.com," in text
    decide(tmp_path / "changes.csv", {1: {"decision": "yes"}, 2: {"decision": "yes"}})
    assert [row["text"] for row in changes.apply(rows, tmp_path / "changes.csv")] == ["=1+1 mail [mail]", "'quoted [mail]"]


def test_saved_rows_are_read_again(tmp_path: Path) -> None:
    rows = Rows(({"text": 'a "b"\n, c', "label": "a", "id": "1"}, {"text": "=d", "label": "b", "id": "2"}), "classify")
    for name in ("out.csv", "out.jsonl"):
        assert read(changes.save(rows, tmp_path / name), id="id").rows == rows.rows
    with pytest.raises(OptionError, match="csv"):
        changes.save(rows, tmp_path / "out.xls")


def test_the_page(found) -> None:
    hostile = Rows((*found.rows.rows[:-1], {"text": "</script><script>alert(1)</script> li@example.com", "label": "<b>card"}), "classify")
    page = render(check(hostile, found.vectors, against=found.against), command="trunkline prepare <x>")
    assert page.count("<script") == 2
    assert "<b>card" not in page
    assert "alert(1)</script>" not in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:|//)""", page)
    chinese = render(found, "zh")
    assert "可能标错的标签" in chinese
    with pytest.raises(OptionError, match="language"):
        render(found, "fr")


def test_every_phrase_has_its_chinese() -> None:
    folder = Path(changes.__file__).parent
    used = set(re.findall(r't\("([^"]+)"\)', (folder / "check.html.j2").read_text("utf-8")))
    source = (folder / "sections.py").read_text("utf-8")
    used |= {
        phrase
        for call in re.findall(r'Section\(\s+"[\w-]+", "\w+", ("[^"]+"),\s+("[^"]+"),\s+("[^"]+"),', source)
        for phrase in (p[1:-1] for p in call)
    }
    assert len(used) > 40
    assert not used - CHINESE.keys()


def test_the_map_puts_near_ones_near() -> None:
    vectors = np.concatenate([GENERATOR.normal(size=(30, 5)) * 0.1 + 5 * np.eye(5)[at] for at in range(3)])
    chosen, where = places(vectors, [3], drawn=60)
    assert len(chosen) == 60
    assert 3 in chosen
    assert np.abs(where).max() <= 1 + 1e-9
    group = chosen // 30
    centres = np.stack([where[group == at].mean(0) for at in range(3)])
    assert (np.linalg.norm(where[:, None] - centres[None], axis=2).argmin(1) == group).mean() > 0.95
    assert places(np.ones((5, 3)))[1].shape == (5, 2)


def test_give_aways_and_gaps() -> None:
    words = [f"text {n} alpha" + (" ticket#" if n % 2 else "") for n in range(100)]
    labels = ["odd" if n % 2 else "even" for n in range(100)]
    (one,) = classes.give_aways(words, labels)
    assert (one.word, one.label, one.rows, one.with_label) == ("ticket", "odd", 50, 50)
    assert not classes.give_aways(words, ["odd"] * 100)
    assert [gap.label for gap in classes.gaps(np.array([0] * 100 + [1] * 3), ["a", "b"])] == ["b"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("naïve café, 50 %", ""),
        ("Ã©tat", "UTF-8 read as Latin-1"),
        ("å¥½çš„", "UTF-8 read as Latin-1"),
        ("what? why? no", ""),
        ("x < y & z", ""),
        ("好的。", ""),
    ],
)
def test_damage(text: str, wanted: str) -> None:
    assert texts.damage(text) == wanted


def test_the_command(cache: Path, tiny_folder, tmp_path: Path) -> None:
    rows, against, _ = planted(80)
    changes.save(rows, tmp_path / "train.csv")
    changes.save(against, tmp_path / "test.csv")
    out = tmp_path / "out"
    words = [
        "check",
        str(tmp_path / "train.csv"),
        "--against",
        str(tmp_path / "test.csv"),
        "--model",
        str(tiny_folder("bert")),
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(commands, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "Personal data" in done.output
    assert {path.name for path in out.iterdir()} == {"check.html", "changes.csv", "check.json"}
    CliRunner().invoke(commands, words, catch_exceptions=False)
    assert (out / "changes.1.csv").is_file()  # what a person may have decided is not written over
    decide(out / "changes.csv", {21: {"decision": "yes", "action": "rewrite"}})
    cleaned = tmp_path / "cleaned.csv"
    done = CliRunner().invoke(
        commands,
        ["prepare", str(tmp_path / "train.csv"), "--apply", str(out / "changes.csv"), "--out", str(cleaned)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert read(cleaned)[20]["text"] == "mail [mail] about card [card]"


def placed(text: str, kind: str, word: str) -> dict:
    start = text.index(word)
    return {"text": text, "label": [[start, start + len(word), kind]]}


def tagged(count: int = 120) -> list[dict]:
    """Requests about a place or a thing among words of no meaning; in row 8 the thing is not marked, but a word that is none."""
    generator, things = np.random.default_rng(1), {"card": "place", "account": "place", "order": "thing", "password": "thing"}
    words = ["".join(generator.choice(list("abdeghiklmnoprstu"), 6)) for _ in range(300)]
    rows = []
    for at in range(count):
        before, thing, after = generator.choice(words, 3), list(things)[at % 4], generator.choice(words, 2)
        rows.append(placed(f"{' '.join(before)} {thing} {' '.join(after)}", things[thing], thing))
    rows[7] = placed(rows[7]["text"], "thing", rows[7]["text"].split()[0])
    return rows


def test_a_word_with_a_wrong_label_is_found(tmp_path: Path) -> None:
    """With vectors that know the types. The first word of row 8 is marked, and is none; the thing in it is not."""
    rows, known, generator = tagged(), {"card": 1, "account": 1, "order": 2, "password": 2}, np.random.default_rng(2)
    words = []
    for row in rows:
        spans = tuple(split_words(row["text"]))
        kinds = [known.get(row["text"][start:end], 0) for start, end in spans]
        words.append(Words(spans, (4 * np.eye(3, 8)[kinds] + generator.normal(size=(len(kinds), 8))).astype(np.float16)))
    pooled = generator.normal(size=(len(rows), 8)).astype(np.float32)
    found = check(Rows(tuple(rows), "tag"), Vectors(pooled, np.zeros((0, 8), np.float32), words=tuple(words)))
    section = found.section("labels")
    assert section.title == "Texts with a word whose label may be wrong"
    assert section.rows[0]["row"] == 8
    assert section.rows[0]["why"].endswith((": thing -> O", ": O -> thing"))
    assert len(section.rows) <= 4
    assert "其中某个词可能标错的文本" in render(found, "zh")
    changes.write(found, tmp_path / "changes.csv")
    lines = list(csv.DictReader((tmp_path / "changes.csv").read_text(encoding="utf-8-sig").splitlines()))
    (line,) = [line for line in lines if line["row"] == "8" and line["why"].startswith("Texts with a word")]
    assert (line["action"], line["new_label"]) == ("", "")


def test_words_that_a_model_cannot_judge_are_not_named(cache: Path, tiny_folder, tmp_path: Path) -> None:
    """A random model takes all words for none, and nearly all words are none: what counts are those that are marked."""
    path = tmp_path / "tagged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tagged()))
    words = ["check", str(path), "--task", "tag", "--model", str(tiny_folder("bert")), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(commands, words, catch_exceptions=False)
    assert done.exit_code == 0
    (section,) = [one for one in json.loads((tmp_path / "out/check.json").read_text())["sections"] if one["kind"] == "labels"]
    assert section["title"] == "Labels that this model cannot judge"
    assert not section["rows"]


def test_words_of_too_many_rows_are_said_to_be_left_out(cache: Path, tiny_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "_MOST_WORDS", 300)
    rows = read(tagged(), task="tag")
    found = check(rows, vectors_module.vectors(rows, model=tiny_folder("bert")))
    assert any("of 120 rows, drawn by chance" in str(one) for one in found)
    assert sum(one is not None for one in found.vectors.words) < 60


@pytest.mark.real
def test_planted_types_in_real_texts_come_first(tmp_path: Path) -> None:
    """CLUENER: in one text of ten one entity gets another type; e5-small as it is."""
    path = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data")) / "cluener/normalised/dev.jsonl"
    if not path.is_file():
        pytest.skip("CLUENER is not here")
    whole, generator = read(path, task="tag"), np.random.default_rng(0)
    rows = [dict(row) for row in whole if row["label"]][:800]
    kinds, wrong = sorted({kind for row in rows for _, _, kind in row["label"]}), generator.random(len(rows)) < 0.1
    for at in np.flatnonzero(wrong):
        labels = [list(one) for one in rows[at]["label"]]
        labels[0][2] = generator.choice([kind for kind in kinds if kind != labels[0][2]])
        rows[at]["label"] = labels
    changed = Rows(tuple(rows), "tag")
    found = Material(changed, Rows((), "tag"), vectors_module.vectors(changed, model="e5-small"), 0)
    assert found.word_suspects is not None
    assert roc_auc_score(wrong, found.word_suspects.doubt) > 0.7
    assert found.word_suspects.share < 0.5

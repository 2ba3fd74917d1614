"""The edits: each changes something, keeps what it promises, and gives the same for the same seed, in English and in Chinese."""

from pathlib import Path
from random import Random

import pytest

from trunkline.augmentation import edits
from trunkline.augmentation.synonyms import WordNet
from trunkline.augmentation.units import HAN, like, units, word
from trunkline.errors import DataError

TEXTS = ["My card has not arrived yet, who can help me?", "我的银行卡还没有收到，请帮我查一下", "order 123 还没到"]
EDITS = [edits.eda, edits.aeda, edits.keyboard, edits.ocr]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("text", TEXTS)
def test_edits_change_a_text_and_repeat_themselves(edit, text: str) -> None:
    made = [edit(text, 0.2, Random(seed)) for seed in range(30)]
    assert made == [edit(text, 0.2, Random(seed)) for seed in range(30)]
    different = {one for one in made if one != text}
    if edit is not edits.keyboard or any(char.isascii() and char.isalpha() for char in text):
        assert len(different) > 3
    assert all("  " not in one for one in made)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("text", ["", " ", "a", "卡", "!!!", "\n"])
def test_hardly_any_text_is_no_trouble(edit, text: str) -> None:
    assert isinstance(edit(text, 0.5, Random(0)), str)


def test_units_are_the_text() -> None:
    for text in [*TEXTS, "  a  b ", "", "卡card卡"]:
        assert "".join(units(text)) == text
        assert all("".join(word(unit)) == unit for unit in units(text))
    assert [like("Card", "bill"), like("CARD", "bill"), like("card", "bill")] == ["Bill", "BILL", "bill"]


def test_aeda_only_adds_marks() -> None:
    for text in TEXTS:
        made = edits.aeda(text, 0.1, Random(1))
        marks = set(".;?:!,。；？：！， ")
        assert [char for char in made if char not in marks] == [char for char in text if char not in marks]
        assert len(made) > len(text)


def test_eda_adds_no_word_that_was_not_there() -> None:
    for seed in range(40):
        made = edits.eda(TEXTS[0], 0.2, Random(seed))
        assert set(made.split()) <= set(TEXTS[0].split())


def test_homophones_sound_the_same() -> None:
    pypinyin = pytest.importorskip("pypinyin")
    texts = ["他在公司工作", "再见，坐车作业", "请把帐号清空"]
    edit = edits.Homophones(texts)
    changed = 0
    for text in texts:
        for seed in range(10):
            made = edit(text, 0.3, Random(seed))
            assert len(made) == len(text)
            for old, new in zip(text, made):
                if old != new:
                    changed += 1
                    sounds = [pypinyin.pinyin(char, style=pypinyin.Style.TONE3) for char in (old, new)]
                    assert sounds[0] == sounds[1]
                    assert any(new in other for other in texts)
    assert changed > 5
    assert edits.Homophones(["Where is it"])("Where is it", 0.1, Random(0)) in ("Were is it", "Wear is it", "Where is it's")


def test_share_decides_how_much() -> None:
    text = " ".join(["arrive"] * 60)
    few, many = (sum(a != b for a, b in zip(edits.ocr(text, s, Random(0)), text)) for s in (0.05, 0.6))
    assert 0 < few < many / 4


def test_wordnet_s_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 This is a licence line that no word stands in\n"
        "00001 06 n 03 money 0 cash 0 hard_currency 0 000 | what one pays with\n00002 06 n 01 alone 0 000 | x\n"
        "00003 06 n 02 Money 0 funds(p) 1 000 | x\n"
    )
    monkeypatch.setenv("TRUNKLINE_WORDNET", str(tmp_path))
    others = WordNet()
    assert others("Money") == ["cash", "funds"]
    assert others("alone") == others("the") == []
    assert edits.words_replaced("Money, please", 0.1, Random(0), others) in ("Cash, please", "Funds, please")


def test_no_wordnet_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.augmentation.synonyms._PLACES", ())
    monkeypatch.delenv("TRUNKLINE_WORDNET", raising=False)
    with pytest.raises(DataError, match="wordnet-base"):
        WordNet()


def test_look_alikes_of_chinese_are_chinese() -> None:
    assert all(HAN.match(other) for char, others in edits._ALIKE.items() if HAN.match(char) for other in others)

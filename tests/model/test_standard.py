"""The model that is taken where none is named, by the letters of the texts."""

import pytest

from trunkline.model import standard as standards
from trunkline.model.sources import known
from trunkline.model.standard import MANY_LANGUAGES, MODELS, standard, why


def rows(*texts):
    return [{"text": text, "label": "a"} for text in texts]


@pytest.mark.parametrize(
    "texts", [["Where is my card?"], ["Wo bleibt meine Überweisung? Größe"], ["Tôi muốn huỷ đơn hàng"], ["12 345 :-)"], [], ["🙂🙂 ok"]]
)
def test_latin_letters_and_none_at_all_are_for_the_usual_one(texts):
    assert standard("encoder", rows(*texts)) == MODELS["encoder"]


@pytest.mark.parametrize("text", ["我的卡还没有到", "Где моя карта?", "أين بطاقتي", "カードはどこ", "iPhone 14 Pro Max 256GB 怎么退货"])
def test_other_letters_are_for_the_one_of_many_languages(text):
    assert standard("encoder", rows(text)) == MANY_LANGUAGES


def test_a_few_foreign_words_change_nothing():
    assert standard("encoder", rows(*["The order has not arrived yet"] * 50, "谢谢")) == MODELS["encoder"]


def test_the_second_text_of_a_pair_counts_and_so_do_rows_from_all_over():
    assert standard("encoder", [{"text": "OK", "text_b": "这句话是什么意思"}]) == MANY_LANGUAGES
    assert standard("encoder", rows(*["ok"] * 3000, *["这句话是什么意思"] * 3000)) == MANY_LANGUAGES


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_other_kinds_have_one_each(kind):
    assert standard(kind, rows("我的卡还没有到")) == MODELS[kind]


def test_why_is_said_where_it_is_not_the_usual_one():
    assert why(MODELS["encoder"]) is None
    assert MANY_LANGUAGES in (why(MANY_LANGUAGES) or "")


def test_all_stand_in_the_table():
    named = {about.name: about for about in known()}
    assert {*MODELS.values(), MANY_LANGUAGES} <= set(named)
    assert "Chinese" in named[MANY_LANGUAGES].languages
    assert {named[one].kind for one in (MODELS["encoder"], MANY_LANGUAGES)} == {"encoder"}
    assert standards.ENCODER.startswith(MODELS["encoder"])

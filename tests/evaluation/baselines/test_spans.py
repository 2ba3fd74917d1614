"""The overlap baseline: which sentence, which words of it, and when none."""

from types import SimpleNamespace

import pytest

from trunkline.errors import DataError
from trunkline.evaluation.baselines.spans import span_baselines

PASSAGE = (
    "The tower was built in 1889. Its engineer was Gustave Eiffel, from Dijon. It is 330.5 metres tall, says U.N.E.S.C.O. Many visit it!"
)
OTHER = "The bridge was built in 1932. Its engineer was John Bradfield, from Sandgate. It is 134 metres tall. Many visit it!"


def row(question, answer, passage=PASSAGE):
    return {"text": question, "text_b": passage, "label": [[passage.index(answer), answer]] if answer else []}


def run(train, test, validation=(), none=False):
    return span_baselines(train, test, SimpleNamespace(no_answers=none), validation=validation)


def test_the_words_of_the_best_sentence_that_the_question_does_not_have():
    rows = [
        row("When was the tower built?", "1889"),
        row("How tall is it in metres?", "330.5"),
        row("When was the bridge built?", "1932", OTHER),
    ]
    (found,) = run(rows, rows)
    assert found.name == "overlap"
    assert found.test[0] == "1889"
    assert found.test[2] == "1932"
    assert "330" in found.test[1], "a dot in a number ends no sentence"
    assert found.options["words"] in (1, 2)


def test_the_length_is_picked_on_the_validation_rows():
    one = [row("When was the tower built?", "1889"), row("When was the bridge built?", "1932", OTHER)]
    many = [row("Who was its engineer?", "Gustave Eiffel, from Dijon")]
    assert run(one, many, validation=many)[0].test == ["Gustave Eiffel, from Dijon"]
    whole = [row("Who was its engineer?", "Its engineer was Gustave Eiffel, from Dijon.")]
    (found,) = run(one, whole, validation=whole)
    assert found.test == found.validation == ["Its engineer was Gustave Eiffel, from Dijon."]
    assert found.options["words"] == "the sentence"


def test_questions_without_an_answer():
    rows = [
        row("When was the tower built?", "1889"),
        row("What do penguins eat all winter long?", ""),
        row("When was the tower built?", "1889"),
    ]
    majority, overlap = run(rows, rows, validation=rows, none=True)
    assert (majority.name, majority.test) == ("majority", ["", "", ""])
    assert overlap.test == ["1889", "", "1889"]
    assert overlap.options["least share of the question"] > 0


def test_chinese_and_what_has_no_words():
    passage = "铁塔建于1889年。工程师是居斯塔夫。"
    rows = [row("工程师是谁？", "居斯塔夫", passage)]
    assert run(rows, rows)[0].test == ["居斯塔夫"]
    odd = [row("?!", "...", "... !"), row("who", "who", "who")]
    assert run(rows, odd)[0].test == ["...", "who"]


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="at least one of each"):
        run([], [row("who", "Many")])

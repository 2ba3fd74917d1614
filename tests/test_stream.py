"""A text in pieces: together they are the text that predict gives, and who stops reading stops the writing."""

import dataclasses
import threading

import pytest

from tests import tiny
from tests.test_contract import make
from trunkline.errors import OptionError
from trunkline.stream import stream


@pytest.fixture(params=[("generate", "llama"), ("seq2seq", "t5")])
def branch(request, tiny_folder):
    task, family = request.param
    return make(tiny_folder(family), task, "lora", 1)


def test_the_pieces_are_the_text(branch):
    many = 0
    for text in tiny.TEXTS:
        pieces = list(stream(branch, text))
        (answer,) = branch.predict([text])
        assert "".join(pieces) == answer.value
        many += len(pieces) > 2
    assert many > 3


def test_a_stop_is_never_shown(branch):
    (answer,) = branch.predict([tiny.TEXTS[0]])
    stop = answer.value[len(answer.value) // 2 :][:3]
    branch = dataclasses.replace(branch, spec=dataclasses.replace(branch.spec, stop=stop))
    assert "".join(stream(branch, tiny.TEXTS[0])) == answer.value[: answer.value.index(stop)]
    assert branch.predict([tiny.TEXTS[0]])[0].value == answer.value[: answer.value.index(stop)]


def test_who_stops_reading_stops_the_writing(branch):
    branch = dataclasses.replace(branch, spec=dataclasses.replace(branch.spec, max_new_tokens=400))
    before = threading.active_count()
    reader = stream(branch, {"text": tiny.TEXTS[0]})
    next(reader)
    reader.close()
    assert threading.active_count() == before


def test_beams_and_tasks_that_do_not_write_are_refused(branch, tiny_folder):
    with pytest.raises(OptionError, match="beams=2"):
        stream(dataclasses.replace(branch, spec=dataclasses.replace(branch.spec, beams=2)), "who")
    with pytest.raises(OptionError, match="does not write"):
        stream(make(tiny_folder("bert"), "classify", "lora", 1), "who")


def test_an_error_while_writing_reaches_the_reader(branch, monkeypatch):
    monkeypatch.setattr(branch.network, "write", lambda batch, reader: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream(branch, "who"))

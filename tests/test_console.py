"""What a person reads in the table of answers, and a spreadsheet in the file."""

import pytest

from trunkline import console
from trunkline.types import Answer

PLACE = {"start": 3, "end": 9, "text": "Berlin"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("refund", "refund"),
        (["refund", "card"], "refund, card"),
        ([], "-"),
        (0.12345, "0.123"),
        (PLACE, "Berlin"),
        ({**PLACE, "text": ""}, "-"),
        ([{**PLACE, "type": "city"}, {**PLACE, "type": "place"}], "city: Berlin, place: Berlin"),
    ],
)
def test_an_answer_of_each_kind_is_readable_in_the_table(value, shown, capsys):
    console.answers([{"text": "in Berlin"}], [Answer(value, None, None)], None, False)
    assert shown in capsys.readouterr().out


def test_places_are_json_in_a_csv_file(tmp_path):
    console.answers([{"text": "in Berlin"}], [Answer([PLACE], None, None)], tmp_path / "answers.csv", False)
    assert '""start"": 3' in (tmp_path / "answers.csv").read_text(encoding="utf-8")

"""Entities by prompt: the answer keeps to its form, is looked for in the text, and is measured beside a dictionary; and the same from a server."""

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import tiny
from tests.model.writing.test_language import saved
from tests.prompting.test_server import Handler, answering
from trunkline import cli
from trunkline.data.split import Split
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.metrics import compute
from trunkline.evaluation.report import Report
from trunkline.model.backbone import load_backbone
from trunkline.prompting.extract import ByExtraction, Said, _listed, placed, read
from trunkline.prompting.prompt import prompt
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.types import Rows

NAMES, CITIES = ("Ann", "Bob", "Eve"), ("Bonn", "Rome")
FORM = Template("{text}\n:\n{label}", {"PER": "person", "LOC": "place"})
QUICK = PromptSettings(threads=1, neighbours=None)


def rows(count: int, first: int = 0) -> Rows:
    made = []
    for n in range(first, first + count):
        name, city = NAMES[n % 3], CITIES[n % 2]
        text = f"{n} {name} in {city}"
        at, there = text.index(name), text.index(city)
        made.append({"text": text, "label": [(at, at + len(name), "PER"), (there, there + len(city), "LOC")]})
    return Rows(tuple(made), "tag")


PARTS = Split(rows(12), rows(4, 20), rows(6, 40))


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random decoder whose tokens are bytes, so that it can write any JSON."""
    return saved("llama", tmp_path_factory.mktemp("letters"), words=tiny.letters(512), max_position_embeddings=512)


def test_every_answer_keeps_to_its_form(letters: Path) -> None:
    made = ByExtraction(load_backbone(letters), FORM, QUICK)
    asked = [made.writing.ids(text) for text in ("a", "Ann in Rome\n:\n", "longer than both of them")]
    for text in made._write(asked, 200):
        assert text == "[]" or text.startswith('[{"text":"')
        for entity in _listed(text)[0]:
            assert list(entity) == ["text", "type"]
            assert entity["type"] in ("person", "place")
    alone = [made._write([one], 60)[0] for one in asked]
    assert [text[:40] for text in made._write(asked, 60)] == [text[:40] for text in alone]  # rows do not see each other


def test_report_beside_the_dictionary(letters: Path, cache: Path) -> None:
    found = prompt(PARTS, letters, template=FORM, shots=1, pick="random", settings=QUICK)
    report = found.report
    assert [one["name"] for one in report.results] == ["dictionary", "prompted"]
    assert [(one["before"], one["metric"]) for one in report.comparisons] == [("dictionary", "entity_f1")]
    spans = [answer.scores for answer in found.predict(PARTS.test)]
    truth = [row["label"] for row in PARTS.test]
    assert report.results[-1]["metrics"]["entity_f1"]["value"] == compute(["entity_f1"], truth, spans)["entity_f1"]
    assert Report.from_json(report.to_json()) == report
    assert report.cost["tokens"] > 0
    assert "Entity F1" in str(report)
    assert "dictionary" in report.html()


def test_a_search_goes_by_entities(letters: Path, cache: Path) -> None:
    found = prompt(PARTS, letters, template=FORM, shots=[0, 1], pick="random", settings=QUICK)
    assert [one.rows for one in found.trials] == [4, 4]


def test_default_template_shows_json() -> None:
    from trunkline.prompting.template import default_template

    form = default_template(["PER", "LOC"], task="tag")
    assert form.prompt(PARTS.test[0], [PARTS.train[0]]).endswith(
        'Text: 0 Ann in Bonn\nEntities:\n[{"text":"Ann","type":"PER"},{"text":"Bonn","type":"LOC"}]\n\nText: 40 Bob in Bonn\nEntities:\n'
    )
    assert "JSON" in default_template(["人名"], task="tag").instruction


def test_what_is_named_is_found_or_counted() -> None:
    said = Said()
    words = dict(FORM.labels)
    assert read('[{"text":"Ann","type":"person"},{"text":"Max","type":"place"}]', "Ann left", words, said) == [(0, 3, "PER")]
    assert read('[{"text":"Ann","type":"person"},{"text":"Bo', "Ann and Bo", words, said) == [(0, 3, "PER")]
    assert read("I found:\n```json\n" + '[{"text":"Bo","type":"place"}]\n```', "Ann and Bo", words, said) == [(8, 10, "LOC")]
    assert read("nothing", "Ann", words, said) == read("[[[[", "Ann", words, said) == read('[1, "a"]', "Ann", words, said) == []
    assert read('[{"text":"Ann","type":"animal"},{"text":3,"type":"person"}]', "Ann", words, said) == []
    assert (said.endless, said.lost) == (4, 3)
    assert placed("北京到北京", [("北京", "LOC"), ("北京", "LOC"), ("北京", "LOC")]) == ([(0, 2, "LOC"), (3, 5, "LOC")], 0)
    assert placed("the cat", [("at", "X"), ("", "X")]) == ([(5, 7, "X")], 1)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"calibrate": "contextual"}, "calibrate='contextual'"),
        ({"settings": replace(QUICK, by="likelihood")}, "by='likelihood'"),
        ({"settings": replace(QUICK, balance=True)}, "balance=True"),
        ({"template": replace(FORM, labels={"PER": "person"})}, "no words for the label 'LOC'"),
    ],
)
def test_refusals(told: dict, message: str, letters: Path, cache: Path) -> None:
    with pytest.raises(OptionError, match=message):
        prompt(PARTS, letters, **{"template": FORM, "settings": QUICK, **told})


def test_only_decoders_and_only_with_entities(tiny_folder, letters: Path, cache: Path) -> None:
    with pytest.raises(OptionError, match="only a decoder"):
        prompt(PARTS, tiny_folder("bert"), template=FORM, settings=QUICK)
    nothing = Rows(tuple({"text": f"{n}", "label": []} for n in range(20)), "tag")
    with pytest.raises(DataError, match="has an entity"):
        prompt(nothing, letters, template=FORM, settings=QUICK)
    with pytest.raises(DataError, match="does not say which entities"):
        prompt(replace(nothing, rows=(*nothing.rows, {"text": "a"})), letters, template=FORM, settings=QUICK)


class Extracting(Handler):
    """Answers with the first two letters of the text as a person."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        said = json.dumps([{"text": body["messages"][-1]["content"].split()[1], "type": "person"}])
        data = json.dumps({"choices": [{"message": {"content": said}}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def there() -> Iterator[ThreadingHTTPServer]:
    with answering(Extracting) as server:
        yield server


def test_a_server_is_asked_for_the_schema(there: ThreadingHTTPServer, cache: Path) -> None:
    asked = PromptSettings(server=f"http://127.0.0.1:{there.server_port}/v1", per_minute=1e6, threads=1)
    found = prompt(PARTS, "there", template=FORM, shots=1, pick="fixed", settings=asked)
    result = found.report.results[-1]["metrics"]
    assert result["entity_precision"]["value"] == 1.0
    assert result["entity_recall"]["value"] == 0.5
    body = there.seen[0]
    assert body["response_format"]["json_schema"]["schema"]["items"]["properties"]["type"]["enum"] == ["place", "person"]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert json.loads(body["messages"][1]["content"])[0]["text"] == "Ann"
    assert found.predict("7 Ann in Bonn")[0].value == [{"start": 2, "end": 5, "type": "PER", "text": "Ann"}]


def test_command(letters: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, template = tmp_path / "rows.jsonl", tmp_path / "t.json"
    lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in rows(30)]
    file.write_text("\n".join(lines), encoding="utf-8")
    template.write_text(json.dumps(FORM.to_json()), encoding="utf-8")
    cli.commands.main(
        ["prompt", str(file), "--task", "tag", "--model", str(letters), "--template", str(template), "--threads", "1", "--json"],
        standalone_mode=False,
    )
    assert json.loads(capsys.readouterr().out)["results"][-1]["name"] == "prompted"
    with pytest.raises(OptionError, match="--task='rank'"):
        cli.commands.main(["prompt", str(file), "--task", "rank"], standalone_mode=False)

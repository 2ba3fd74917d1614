"""/v1/predict over a real socket: what is answered is what the branches say, and every wrong request gets a refusal that says why."""

import json
import re
import shutil

import pytest
import torch

from tests import tiny
from tests.quality.test_bounds import INSIDE, OUTSIDE, rows, vectors
from tests.serving.conftest import Client
from trunkline import branch as branches
from trunkline.quality.bounds import bound, of
from trunkline.serving.api.predict import _tokens
from trunkline.serving.compute.upper import Upper
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings
from trunkline.types import Output

TEXTS = tiny.TEXTS


def test_it_answers_as_the_branches_do(client, folders):
    status, headers, found = client.predict(TEXTS)
    assert status == 200
    assert set(found["answers"][0]) == {"intent", "mood", "things"}
    for name in found["versions"]:
        wanted = branches.load(folders[name]).predict(TEXTS)
        for given, answer in zip(found["answers"], wanted, strict=True):
            value = given[name]["entities"] if name == "things" else given[name]["label"]
            assert value == answer.value
            assert given[name]["probability"] == pytest.approx(answer.probability, abs=1e-3)
    assert headers["x-trunkline-versions"].count("=") == 3
    assert len(headers["x-request-id"]) == 16


def test_one_text_some_branches_and_a_threshold(client):
    status, _, found = client.predict("refund the money", branches=["intent"], threshold=1.0, top=2)
    assert status == 200
    (only,) = found["answers"]
    assert set(only) == {"intent"}
    assert only["intent"]["abstained"] is True
    assert len(only["intent"]["labels"]) == 2


def test_entities_have_offsets(client):
    text = "退款 my card, please 😀 card"
    _, _, found = client.predict(text, branches=["things"])
    for one in found["answers"][0]["things"]["entities"]:
        assert text[one["start"] : one["end"]] == one["text"]


def test_a_pair(client):
    assert client.predict([{"text": "card", "text_b": "order"}], branches=["intent"])[0] == 200


def test_batch_files_keep_their_order(client):
    lines = [json.dumps({"text": TEXTS[at % 7]}) for at in range(70)]
    lines[3] = '{"text": 5}'
    lines[40] = "no json"
    status, headers, data = client("POST", "/v1/batch?branches=intent", "\n".join(lines).encode(), {"Content-Type": "application/x-ndjson"})
    found = [json.loads(line) for line in data.splitlines()]
    assert (status, len(found)) == (200, 70)
    assert headers["content-type"].startswith("application/x-ndjson")
    assert [at for at, one in enumerate(found) if "error" in one] == [3, 40]
    assert found[0]["intent"]["label"] == found[7]["intent"]["label"]


WRONG = {
    "no json": (b"{", 400, "invalid_json"),
    "not utf-8": (b'{"inputs": "\xff"}', 400, "invalid_json"),
    "utf-16": ('{"inputs": "a"}'.encode("utf-16"), 400, "invalid_json"),
    "nul": (b'{"inputs": "a\\u0000b"}', 400, "invalid_json"),
    "raw nul": (b'{"inputs": "a\x00b"}', 400, "invalid_json"),
    "nan": (b'{"inputs": "a", "threshold": NaN}', 400, "invalid_json"),
    "infinity": (b'{"inputs": "a", "threshold": 1e999}', 400, "invalid_json"),
    "twice": (b'{"inputs": "a", "inputs": "b"}', 400, "invalid_json"),
    "deep": (b'{"inputs": ' + b"[" * 33 + b"]" * 33 + b"}", 400, "invalid_json"),
    "very deep": (b"[" * 100_000, 400, "invalid_json"),
    "long integer": (b'{"inputs": "a", "top": ' + b"1" * 5000 + b"}", 400, "invalid_json"),
    "half of a pair of surrogates": (b'{"inputs": "\\ud800"}', 422, "invalid_request"),
    "empty": (b"", 400, "invalid_json"),
    "a list": (b"[]", 422, "invalid_request"),
    "no inputs": (b"{}", 422, "invalid_request"),
    "empty text": (b'{"inputs": ""}', 422, "invalid_request"),
    "no texts": (b'{"inputs": []}', 422, "too_many_inputs"),
    "number": (b'{"inputs": 5}', 422, "invalid_request"),
    "unknown field": (b'{"inputs": "a", "temperature": 1}', 422, "invalid_request"),
    "unknown field of a row": (b'{"inputs": [{"text": "a", "labels": []}]}', 422, "invalid_request"),
    "text where a number goes": (b'{"inputs": "a", "top": "5"}', 422, "invalid_request"),
    "negative": (b'{"inputs": "a", "top": -1}', 422, "invalid_request"),
    "unknown branch": (b'{"inputs": "a", "branches": ["intnet"]}', 404, "unknown_branch"),
    "path for a branch": (b'{"inputs": "a", "branches": ["../../etc/passwd"]}', 404, "unknown_branch"),
    "too many texts": (json.dumps({"inputs": ["a"] * 33}).encode(), 422, "too_many_inputs"),
    "too many characters": (json.dumps({"inputs": "a" * 100_001}).encode(), 422, "too_many_characters"),
    "too many tokens": (json.dumps({"inputs": "order " * 100}).encode(), 422, "too_many_tokens"),
    "words out of order": (b'{"inputs": [{"text": "abc", "words": [[2, 1]]}], "branches": ["things"]}', 422, None),
    "words out of the text": (b'{"inputs": [{"text": "abc", "words": [[0, 99]]}], "branches": ["things"]}', 422, None),
    "words of three": (b'{"inputs": [{"text": "abc", "words": [[0, 1, 2]]}], "branches": ["things"]}', 422, None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused(client, name):
    body, status, code = WRONG[name]
    found = client("POST", "/v1/predict", body)
    assert found[0] == status, found
    error = found[2]["error"]
    assert code in (None, error["code"])
    assert error["request_id"] == found[1]["x-request-id"]
    assert "Traceback" not in json.dumps(error)
    assert not re.search(r"constrained|union|function-|Row\]", error["message"]), "names of the library are nothing for people"


def test_what_is_wrong_with_a_body_is_said_by_place(client):
    said = {body: client("POST", "/v1/predict", body.encode())[2]["error"]["message"] for body in ('{"texts": ["a"]}', '{"inputs": [""]}')}
    assert said['{"texts": ["a"]}'] == (
        "inputs: is missing; texts: is no field here. The fields are inputs (needed), branches, top, threshold, truncate, user."
    )
    assert said['{"inputs": [""]}'].startswith("inputs.0: String should have at least 1 character, or: ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/predict", 405), ("POST", "/nowhere", 404), ("GET", "//etc/passwd", 404), ("TRACE", "/", 405)],
)
def test_other_routes_are_refused_in_one_form(client, method, path, status):
    found = client(method, path)
    assert found[0] == status
    assert found[2]["error"]["type"]


def test_the_kind_of_body_is_json(client):
    assert client("POST", "/v1/predict", b'{"inputs": "a"}', {"Content-Type": "text/plain"})[0] == 415
    assert client("POST", "/v1/predict", b"inputs=a", {"Content-Type": "application/x-www-form-urlencoded"})[0] == 415
    assert client("POST", "/v1/predict", b"\x1f\x8b", {"Content-Encoding": "gzip"})[0] == 415


def test_a_branch_that_gives_nan_is_named_and_counted(server, monkeypatch):
    """500 at once, and the others answer."""
    with server("intent", "mood") as client:
        real = Upper.head

        def broken(self, hidden, batch):
            out = real(self, hidden, batch)
            return Output(torch.full_like(out.logits, torch.inf), out.hidden) if self.network.depth == 1 else out

        monkeypatch.setattr(Upper, "head", broken)
        status, _, found = client.predict(TEXTS[0])
        assert (status, found["error"]["code"]) == (500, "not_finite")
        assert "branch='intent'" in found["error"]["message"]
        assert client.predict(TEXTS[0], branches=["mood"])[0] == 200
        counted = client("GET", "/metrics")[2].decode()
        assert 'trunkline_refused_total{reason="not_finite"} 1.0' in counted
        assert 'trunkline_requests_total{route="/v1/predict",status="500"} 1.0' in counted


def test_out_of_scope_is_said_where_the_branch_has_bounds(folders, tmp_path):
    """Alone, in a batch of other lengths, and from the cache alike; null of a branch without."""
    folder = shutil.copytree(folders["intent"], tmp_path / "intent")
    bound(folder, rows(400))
    within = of(folder)
    given = [*INSIDE[:6], *OUTSIDE]
    wanted = within.distances(vectors(folder, given))
    settings = ServeSettings(port=0, runtime="torch", drain_seconds=5.0, threads=1)
    with serving([folder, folders["mood"]], settings) as address:
        client = Client(address)
        for some in (given, given[::-1], *([text] for text in given)):
            for text, one in zip(some, client.predict(some)[2]["answers"], strict=True):
                assert one["intent"]["distance"] == pytest.approx(wanted[given.index(text)], rel=0.02)  # of float16 states
                assert one["intent"]["out_of_scope"] is (text in OUTSIDE or one["intent"]["distance"] > 1)
                assert (one["mood"]["out_of_scope"], one["mood"]["distance"]) == (None, None)
        told = client("GET", "/v1/branches")[2]["branches"]
    assert {one["name"]: one["scope"] for one in told} == {"intent": True, "mood": False}


def test_openapi_shows_every_route_with_an_example(client):
    _, _, found = client("GET", "/openapi.json")
    predict = found["paths"]["/v1/predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert predict["responses"]["200"]["content"]["application/json"]["example"]
    assert {"/v1/batch", "/v1/feedback", "/v1/branches/{name}/canary", "/livez", "/metrics"} <= set(found["paths"])


def test_the_example_has_the_fields_of_an_answer(client):
    paths = client("GET", "/openapi.json")[2]["paths"]
    example = paths["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert set(example["answers"][0]["intent"]) == set(client.predict("refund")[2]["answers"][0]["intent"])


def test_all_texts_of_a_row_count_as_tokens():
    """Before they are taken apart: what waits is bounded by tokens, and a history is most of the row that has one."""
    text = "order " * 10
    assert [_tokens({"text": text}), _tokens({"text": text, "text_b": text}), _tokens({"text": text, "history": [text] * 9})] == [
        17,
        32,
        152,
    ]


def test_branches_say_what_they_are(client):
    _, _, found = client("GET", "/v1/branches")
    assert [one["name"] for one in found["branches"]] == ["intent", "mood", "things"]
    assert found["branches"][0]["labels"]
    assert found["branches"][0]["runtime"] == {"trunk": "torch", "branch": "torch"}

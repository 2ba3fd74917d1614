"""A real small HTTP server on this machine, and what the client makes of its answers, refusals and pauses."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.train.samples import make_rows
from trunkline.data.split import split
from trunkline.errors import ModelError, OptionError
from trunkline.prompting.prompt import prompt
from trunkline.prompting.server import ByServer, Server, label_in
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template

KEY = "sk-very-secret"
QUICK = PromptSettings(per_minute=1e6, threads=1, parallel=2)
TEMPLATE = Template(
    "Text: {text}\nAbout: {label}", {"package": "a package", "password": "a password", "refund": "a refund"}, "Say what it is."
)


class Handler(BaseHTTPRequestHandler):
    """Answers with the first word of the text; before that, with what `server.script` holds."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body, time.monotonic()))
        code, headers, answer = self.server.script.pop(0) if self.server.script else (200, {}, None)
        if answer is None:
            text = f"A {body['messages'][-1]['content'].split()[1]}."
            answer = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *told: object) -> None:
        """Nothing on stderr."""


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.seen, server.script = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def there() -> Iterator[ThreadingHTTPServer]:
    with answering(Handler) as server:
        yield server


def address(there: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{there.server_address[1]}/v1"


def client(there: ThreadingHTTPServer, folder: Path | None = None, **told) -> tuple[Server, list[float]]:
    slept: list[float] = []
    return Server(address(there), "a-model", replace(QUICK, **told), folder, slept.append), slept


ASKED = [{"role": "user", "content": "Text: refund please"}]


def test_the_verb_measures_a_server(there: ThreadingHTTPServer, cache: Path) -> None:
    parts = split(make_rows(), validation=0.2, test=0.3)
    told = replace(QUICK, server=address(there), price_in=1.0, price_out=2.0)
    found = prompt(parts, "a-model", template=TEMPLATE, shots=2, pick="random", settings=told)
    assert [one["name"] for one in found.report.results] == ["majority", "tfidf", "prompted"]
    assert found.report.results[-1]["metrics"]["accuracy"]["value"] == 1.0
    count = len({row["text"] for row in parts.test})
    assert found.report.cost["tokens"] == 12 * count
    assert f"cost {(10 + 4) * count / 1e6:.4f}" in found.report.data["notes"]
    _, _, body, _ = there.seen[0]
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert body["messages"][2]["content"] in TEMPLATE.labels.values()
    assert found.predict("refund the money")[0].value == "refund"


def test_the_same_is_asked_once(there: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_API_KEY", KEY)
    assert client(there, tmp_path)[0].complete(ASKED) == "A refund."
    again = client(there, tmp_path)[0]
    assert again.complete(ASKED) == "A refund."
    assert (again.spent.kept, again.spent.requests, len(there.seen)) == (1, 0, 1)
    Server(address(there), "another", QUICK, tmp_path).complete(ASKED)
    assert len(there.seen) == 2
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert not [path for path in kept if KEY.encode() in path.read_bytes() or b"refund please" in path.read_bytes()]


def test_asked_again_on_demand(there: ThreadingHTTPServer, tmp_path: Path) -> None:
    for _ in range(2):
        client(there, tmp_path, fresh=True)[0].complete(ASKED)
    assert len(there.seen) == 2


def test_a_damaged_answer_is_asked_for_again(there: ThreadingHTTPServer, tmp_path: Path) -> None:
    client(there, tmp_path)[0].complete(ASKED)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_bytes(kept.read_bytes()[:-20])
    assert client(there, tmp_path)[0].complete(ASKED) == "A refund."
    assert len(there.seen) == 2


def test_after_an_error_nothing_more_is_asked(there: ThreadingHTTPServer) -> None:
    there.script = [(401, {}, b"no")] * 100
    scorer = ByServer(client(there)[0], TEMPLATE, "none")
    rows = [{"text": f"refund {n}"} for n in range(50)]
    with pytest.raises(ModelError, match="status 401"):
        scorer.probabilities(rows, [()] * 50, [])
    assert len(there.seen) < 10


def test_what_passes_is_tried_again_later_each_time(there: ThreadingHTTPServer) -> None:
    there.script = [(503, {}, {}), (500, {}, {}), (429, {"Retry-After": "7"}, {})]
    server, slept = client(there)
    assert server.complete(ASKED) == "A refund."
    assert server.spent.again == 3
    assert 0.5 <= slept[0] <= 1
    assert 1 <= slept[1] <= 2
    assert slept[2] == 7


def test_it_gives_up(there: ThreadingHTTPServer) -> None:
    there.script = [(503, {}, b"busy")] * 3
    with pytest.raises(ModelError, match="status 503: busy, after 3 tries"):
        client(there, retries=2)[0].complete(ASKED)


def test_nobody_there() -> None:
    server = Server("http://127.0.0.1:9/v1", "a-model", replace(QUICK, retries=1), sleep=lambda seconds: None)
    with pytest.raises(ModelError, match=r"no answer .*after 2 tries"):
        server.complete(ASKED)


def test_key_goes_to_the_server_and_nowhere_else(there: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_API_KEY", KEY)
    there.script = [(401, {}, f"wrong key {KEY}".encode())]
    server, _ = client(there)
    with pytest.raises(ModelError, match=r"wrong key \*\*\*\. Put the right key in the environment variable TRUNKLINE_API_KEY") as refused:
        server.complete(ASKED)
    assert there.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{refused.value}{refused.value.__cause__}{server!r}"


def test_no_key_no_header(there: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # meant for another address
    monkeypatch.delenv("TRUNKLINE_API_KEY", raising=False)
    client(there)[0].complete(ASKED)
    assert "Authorization" not in there.seen[0][1]


def test_redirects_are_not_followed(there: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_API_KEY", KEY)
    there.script = [(307, {"Location": f"{address(there)}/elsewhere"}, b"")]
    with pytest.raises(ModelError, match="Redirects are not followed"):
        client(there)[0].complete(ASKED)
    assert len(there.seen) == 1


@pytest.mark.parametrize("answer", [b"not json", {}, {"choices": []}, [1], {"choices": [{"message": None}]}])
def test_odd_answers(there: ThreadingHTTPServer, answer: object) -> None:
    there.script = [(200, {}, answer)]
    with pytest.raises(ModelError, match="another form"):
        client(there)[0].complete(ASKED)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ftp://host/v1", "http://host:port"),
        ("http://me:word@host/v1", "environment variable"),
        ("http://example.org/v1", "can read the key"),
    ],
)
def test_addresses(place: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_API_KEY", KEY)
    with pytest.raises(OptionError, match=message):
        Server(place, "a-model", QUICK)


def test_requests_keep_their_distance(there: ThreadingHTTPServer) -> None:
    server = Server(address(there), "a-model", replace(QUICK, per_minute=60 / 0.05))
    for _ in range(4):
        server.complete(ASKED)
    begun = [seen[-1] for seen in there.seen]
    assert begun[-1] - begun[0] > 0.12  # three distances of 0.05 s, less what the way takes


def test_answers_that_name_no_label_count_as_wrong(there: ThreadingHTTPServer, cache: Path) -> None:
    nothing = (200, {}, {"choices": [{"message": {"content": "I cannot say."}}]})
    parts = split(make_rows(), validation=0.2, test=0.3)
    there.script = [nothing] * 100
    told = replace(QUICK, server=address(there), baseline_rows=0)
    found = prompt(parts, "a-model", template=TEMPLATE, settings=told)
    assert found.report.results[-1]["metrics"]["accuracy"]["value"] == 0.0
    assert f"{len(parts.test)} answers named no label, or several, and count as wrong" in found.report.data["notes"]
    assert found.predict(parts.test[0]["text"])[0].value is None


def test_calibration_needs_likelihood(there: ThreadingHTTPServer) -> None:
    with pytest.raises(OptionError, match="no likelihood"):
        ByServer(client(there)[0], TEMPLATE, "pmi")


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("Positive.", ["negative", "positive"], 1),
        ("The label is: card arrival", ["card", "card arrival"], 1),
        ("card", ["card", "card arrival"], 0),
        ("card arrival, or lost card", ["card arrival", "lost card"], None),
        ("nonpositive", ["positive", "negative"], None),
        ("类别：退款。", ["物流", "退款"], 1),
        ("", ["a", "b"], None),
    ],
)
def test_label_in_a_text(text: str, words: list[str], found: int | None) -> None:
    assert label_in(text, words) == found

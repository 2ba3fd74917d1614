"""A session, the server, and the page in a real browser: two people label by keyboard, differ, and settle it."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trunkline.errors import OptionError
from trunkline.labelling.annotations import Annotations
from trunkline.labelling.label import label as label_rows
from trunkline.labelling.server import Server
from trunkline.labelling.session import Session
from trunkline.types import Rows

CHROMIUM = shutil.which("chromium")
GENERATOR = np.random.default_rng(0)
TRUTH = np.arange(60) % 2
ROWS = [{"text": f"message {n} about {'cards' if label else 'refunds'}"} for n, label in enumerate(TRUTH)]
VECTORS = (4 * np.eye(2, 6)[TRUTH] + GENERATOR.normal(size=(60, 6))).astype(np.float32)
NAMES = ("refund", "card")


def truth_of(text: str) -> str:
    return "card" if "cards" in text else "refund"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Annotations(tmp_path / "annotations.jsonl") as annotations:
        made = Session(ROWS, VECTORS, annotations, names=NAMES, people=2)
        yield made
        made.close()


@pytest.fixture
def server(session: Session) -> Iterator[Server]:
    made = Server(session)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.stop()
    thread.join(timeout=10)
    made.close()


def until(what, seconds: float = 120.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_learns_meanwhile_and_suggests(session: Session) -> None:
    for _ in range(24):
        given = session.next("li")
        assert given is not None
        session.label(given["row"], "li", truth_of(given["text"]))
    # it learns again ten labels later: from 14 at the most once more, from 15 on perhaps not
    until(lambda: session.state()["taught_on"] >= 15)
    given = session.next("li")
    assert given["suggestions"][0]["label"] == truth_of(given["text"])
    assert given["suggestions"][0]["probability"] > 0.6


def test_nobody_gets_a_row_twice_and_all_rows_are_labelled(session: Session) -> None:
    for by in ("li", "wang", "zhou"):
        seen = []
        while (given := session.next(by)) is not None:
            assert session.next(by)["row"] == given["row"]  # asked again: the same, though what is suggested may be better by now
            seen.append(given["row"])
            session.label(given["row"], by, truth_of(given["text"]))
        assert len(set(seen)) == len(seen) == (60 if by != "zhou" else 0)  # two people a row were asked for
    assert session.state()["labelled"] == 60
    assert session.state()["alpha"] == 1.0
    assert len(session.labelled(Rows(tuple(ROWS), "classify"))) == 60


def test_taking_back(session: Session) -> None:
    given = session.next("li")
    session.label(given["row"], "li", "card")
    assert session.undo("li") == given["row"]
    assert session.next("li")["row"] == given["row"]
    assert session.undo("li") is None
    with pytest.raises(OptionError, match="a name"):
        session.label(given["row"], " ", "card")


def call(server: Server, method: str, path: str, body: dict | None = None, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    sent = {"X-Key": server.key, "Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, json.dumps(body) if body is not None else None, sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if answer.headers["Content-Type"] == "application/json" else {"page": data.decode()}


def test_only_who_has_the_key_is_answered(server: Server) -> None:
    assert call(server, "GET", "/state")[0] == 200
    assert call(server, "GET", f"/?key={server.key}")[0] == 200
    for method, path, headers in (
        ("GET", "/", {"X_Key": ""}), ("GET", "/?key=x", {"X_Key": ""}), ("GET", "/state", {"X_Key": "x"}), ("GET", "/state", {"Host": "evil.example:80"}),
        ("POST", "/label", {"X_Key": ""}), ("POST", "/label", {"Host": "evil.example"}),
    ):  # fmt: skip
        assert call(server, method, path, {} if method == "POST" else None, **headers)[0] == 403
    assert call(server, "POST", "/label", {"row": "x", "by": "li", "label": "card"})[0] == 400
    assert call(server, "POST", "/label", {"row": "x"}, Content_Type="text/plain")[0] == 400
    assert call(server, "POST", "/nothing", {"row": "x"})[0] == 404


def test_the_verb(cache: Path, tiny_folder, tmp_path: Path) -> None:
    """From rows to labelled.csv; a second call goes on from there; another tool's labels come in."""

    def people(count: int):
        def work(server: Server) -> None:
            def labels() -> None:
                for _ in range(count):
                    given = call(server, "GET", "/next?by=li")[1]
                    call(server, "POST", "/label", {"row": given["row"], "by": "li", "label": truth_of(given["text"])})
                server.stop()

            threading.Thread(target=labels, daemon=True).start()

        return work

    rows = Rows(tuple(ROWS[:20]), "classify")
    model = str(tiny_folder("bert"))
    assert len(label_rows(rows, tmp_path / "out", model=model, names=NAMES, ready=people(3))) == 3
    (tmp_path / "old.jsonl").write_text(json.dumps({"text": ROWS[19]["text"], "label": ["card"]}) + "\n", encoding="utf-8")
    done = label_rows(rows, tmp_path / "out", model=model, names=NAMES, imported=tmp_path / "old.jsonl", ready=people(2))
    assert len(done) == 6
    assert (tmp_path / "out/labelled.csv").read_text("utf-8").startswith("text,label\n")
    acts = (tmp_path / "out/annotations.jsonl").read_text("utf-8")
    label_rows(rows, tmp_path / "out", model=model, names=NAMES, imported=tmp_path / "old.jsonl", ready=people(0))
    assert (tmp_path / "out/annotations.jsonl").read_text("utf-8") == acts  # what was taken over once does not speak again


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt install chromium)")
def test_two_people_in_a_browser(server: Server, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the counts come late: what is pressed meanwhile is meant for the row that is shown."""
    plain = session.state
    monkeypatch.setattr(session, "state", lambda: (time.sleep(0.3), plain())[1])
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        wrong: list[str] = []

        def person(name: str):
            page = browser.new_context(locale="en-GB").new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.goto(server.url)
            page.fill("#by", name)
            page.press("#by", "Enter")
            page.wait_for_selector("#choices button")
            return page

        def labelled(page, name: str, keys: list[str]) -> str:
            """Press keys, and wait until another row is shown."""
            text = page.inner_text("#text")
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_function("before => document.getElementById('text').textContent !== before", arg=text)
            return text

        li = person("li")
        first = labelled(li, "li", ["1"])  # the first suggestion
        labelled(li, "li", [*"car", "Enter"])  # by typing
        skipped = labelled(li, "li", ["ArrowRight"])
        labelled(li, "li", [*"new kind", "Enter"])  # a label that was not there
        labelled(li, "li", ["ArrowLeft"])  # taken back
        wang = person("wang")
        shown = labelled(wang, "wang", ["2"])  # wang sees li's row first, and says the other thing
        assert shown == first
        wang.wait_for_selector("#disputes button")
        wang.click("#disputes button >> nth=0")
        wang.wait_for_selector("#disputes", state="hidden")
        wang.click("#language")
        wang.wait_for_selector("#progress:has-text('已标注')")  # it is asked for anew
        browser.close()
    assert not wrong
    acts = [(act.by, act.kind, act.label) for act in session.annotations.acts]
    assert acts[:5] == [
        ("li", "label", "refund"),
        ("li", "label", "card"),
        ("li", "skip", ""),
        ("li", "label", "new kind"),
        ("li", "undo", ""),
    ]
    assert acts[5] == ("wang", "label", "card")
    assert acts[6][:2] == ("wang", "decide")
    assert skipped

"""The long bars of serving: workers killed, branches swapped, servers stopped, wrong requests, too many requests, slow clients.

    python bench/soak.py                          # all, minutes to hours by --count
    python bench/soak.py fuzz swaps --count 500
    make soak

On a tiny random model, which stands or falls with the server and not with arithmetic. Each line is a bar: what, how often, what went wrong.
Exit 1 when anything did. docs/reliability.md holds the last results.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from tests import tiny
from tests.serving import samples
from trunkline.feedback.store import FeedbackStore
from trunkline.model.backbone import load_backbone
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings

TEXTS = tiny.TEXTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="*", choices=[*BARS, []], help=f"some of {', '.join(BARS)}; none: all")
    parser.add_argument("--count", type=int, help="kills, swaps, stops, requests: how often  [default: as each bar says]")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    failed, results = False, {}
    with tempfile.TemporaryDirectory() as folder:
        made = branches(Path(folder))
        for name in asked.bars or BARS:
            run, usual = BARS[name]
            began = time.monotonic()
            found = run(made, asked.count or usual)
            found["seconds"] = round(time.monotonic() - began, 1)
            results[name] = found
            failed |= bool(found["wrong"])
            print(f"{name}: {json.dumps(found)}", flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "soak.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


def branches(folder: Path) -> dict[str, Path]:
    backbone = load_backbone(tiny.save("bert", folder / "bert"))
    made = {"one": samples.branch(backbone, depth=1, seed=1), "two": samples.branch(backbone, depth=1, seed=4)}
    return {name: branch.save(folder / name) for name, branch in made.items()}


def kills(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S20: a worker is killed while two clients ask and give feedback; nobody gets a wrong answer or none, and all feedback is kept."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "feedback.db"
        with server(made, processes=True, deadline=300.0, store=FeedbackStore(place)) as address, asking(address, feedback=True) as seen:
            for _ in range(count):
                killed = workers()[0]
                os.kill(killed, signal.SIGKILL)
                wait(lambda killed=killed: {*workers()} - {killed} and ask(address, "GET", "/readyz")[0] == 200)  # type: ignore[misc]
                time.sleep(random.random())
        return {"kills": count, **judged(seen, place)}


def swaps(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S19: the branch is replaced while two clients ask; every answer is that of the version it names."""
    with server(made, root=str(made["one"].parent)) as address, asking(address) as seen:
        memory = psutil.Process().memory_info().rss
        for number in range(count):
            status, _ = ask(address, "PUT", "/v1/branches/one", {"folder": ("two", "one")[number % 2]})
            seen["swap", status] += 1
            time.sleep(0.2 * random.random())
        grown = psutil.Process().memory_info().rss / memory - 1
    return {"swaps": count, "memory": f"{100 * grown:+.1f}%", **judged(seen)}


def stops(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S21: SIGTERM while two clients ask and give feedback; what was let in is answered, all feedback is kept, the process ends with 0."""
    wrong, seconds, done = Counter[str](), [], Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "feedback.db"
        command = [sys.executable, "-m", "trunkline.cli", "serve", str(made["one"]), "--port", "0", "--runtime", "torch"]
        for _ in range(count):
            process = subprocess.Popen([*command, "--feedback", str(place)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            address = process.stdout.readline().split()[-1]  # type: ignore[union-attr]
            with asking(address, may_go=True, feedback=True) as seen:
                time.sleep(0.2 + random.random())
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                wrong["exit"] += process.wait(60) != 0
                seconds.append(time.monotonic() - began)
            found = judged(seen, place)
            wrong.update(found.pop("wrong"))
            done.update(found)
    return {"stops": count, "median_seconds": round(statistics.median(seconds), 2), **done, "wrong": dict(+wrong)}


def fuzz(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S9: requests right and wrong, NUL and half surrogates among them; no 5xx, none over 5 seconds."""
    draw, seen, slowest = random.Random(0), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = FeedbackStore(Path(folder) / "feedback.db")
        with server(made, root=str(made["one"].parent), store=store) as address:
            for _ in range(count):
                began = time.monotonic()
                status, _ = ask(address, *_odd(draw))
                slowest = max(slowest, time.monotonic() - began)
                seen[f"{status // 100}xx"] += 1
    wrong = {name: number for name, number in seen.items() if name not in ("2xx", "4xx")} | ({"slow": 1} if slowest > 5 else {})
    return {"requests": count, "statuses": dict(seen), "slowest": round(slowest, 2), "wrong": wrong}


def _odd(draw: random.Random) -> tuple[str, str, Any]:
    path = draw.choice(
        ["/v1/predict"] * 8 + ["/v1/batch", "/v1/feedback", "/v1/branches/one", "/v1/branches/x/canary", "/v1/embeddings", "/%00", "/../x"]
    )
    value = _value(draw, 3)
    body = {
        draw.choice(["inputs", "branches", "top", "threshold", "user", "folder", "x\0"]): _value(draw, 3) for _ in range(draw.randint(0, 4))
    }
    if draw.random() < 0.5:
        body["inputs"] = draw.choice([value, "card", ["card", "order"], [{"text": "a", "text_b": "b"}]])
    if path == "/v1/feedback" and draw.random() < 0.7:
        body = {
            "branch": "one",
            "row": {"text": "card"},
            draw.choice(["label", "answer", "comment", "rating", "subject", "request"]): value,
        }
    data = json.dumps(body if draw.random() < 0.8 else value).encode()
    if draw.random() < 0.3 and data:
        at = draw.randrange(len(data))
        data = data[:at] + bytes([draw.randrange(256)]) + data[at + draw.randint(0, 1) :]
    return draw.choice(["POST"] * 6 + ["PUT", "GET", "DELETE"]) if path != "/v1/branches/one" else "GET", path, data


def _value(draw: random.Random, depth: int) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice(["", "a", "\0", "\ud800", "退款", "😀" * 50, "order " * 200, "'; --", "<script>", "\u202e", "e\u0301" * 99]),
        lambda: draw.choice([0, -1, 1, 5, 2**63, 10**400, 0.5, -0.0, 1e300]),
        lambda: draw.choice([None, True, False]),
        lambda: [_value(draw, depth - 1) for _ in range(draw.randint(0, 5))],
        lambda: {str(draw.random()): _value(draw, depth - 1) for _ in range(draw.randint(0, 3))},
    ]
    return draw.choice(kinds if depth else kinds[:3])()


def overload(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S2: far more at once than may wait; only 200, 429 and 503, refusals at once, and all is well behind it."""
    told = {"max_queue": 16, "max_wait": 0.2}
    times: dict[int, list[float]] = {}
    with server(made, **told) as address:

        def one() -> None:
            for _ in range(count // 64):
                began = time.monotonic()
                status, _ = ask(address, "POST", "/v1/predict", {"inputs": [random.choice(TEXTS) for _ in range(8)]})
                times.setdefault(status, []).append(time.monotonic() - began)

        threads = [threading.Thread(target=one) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = ask(address, "POST", "/v1/predict", {"inputs": "card"})[0]
    wrong = {str(status): len(found) for status, found in times.items() if status not in (200, 429, 503)} | (
        {} if after == 200 else {"after": after}
    )
    return {"requests": sum(map(len, times.values())), "statuses": {str(s): len(t) for s, t in times.items()}, "wrong": wrong}


def slow(made: dict[str, Path], count: int) -> dict[str, Any]:
    """S5: so many clients that send a head or a body at a byte a second, and nothing of it is felt; all are held at first and cut off in time."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    parts = [(head + b"X-Slow: ", b"a"), (head + b"Content-Length: 99\r\n\r\n", b" ")]
    with server(made, header_seconds=5.0, body_seconds=5.0) as address:
        place, refused = (urlsplit(address).hostname, urlsplit(address).port), Counter[int]()

        def ask_some() -> float:
            began = time.monotonic()
            for _ in range(20):
                refused[ask(address, "POST", "/v1/predict", {"inputs": "card"})[0]] += 1
            return (time.monotonic() - began) / 20

        alone, beside, early = [ask_some() for _ in range(8)], list[float](), 0
        ends = [socket.create_connection(place) for _ in range(count)]
        for second in range(9):
            for at, end in enumerate(ends):
                with contextlib.suppress(OSError):  # it is cut off
                    end.send(parts[at % 2][second > 0])
            beside += [ask_some()] if second < 5 else []
            early += sum(not _is_held(end) for end in ends) if second == 2 else 0
            time.sleep(1.0)
        kept = sum(map(_is_held, ends))
        for end in ends:
            end.close()
    found = {f"{name} ms": round(1000 * statistics.median(times), 1) for name, times in (("alone", alone), ("beside", beside))}
    wrong = +Counter({"cut too early": early, "open": kept, "refused": refused.total() - refused[200]})
    return {"clients": count, **found, "wrong": dict(wrong)}


BARS: dict[str, tuple[Callable[[dict[str, Path], int], dict[str, Any]], int]] = {
    "kills": (kills, 50), "swaps": (swaps, 100), "stops": (stops, 50), "fuzz": (fuzz, 10_000), "overload": (overload, 6400), "slow": (slow, 500),
}  # fmt: skip
"""Each bar with how often it is tried."""


@contextmanager
def server(made: dict[str, Path], *, processes: bool = False, store: FeedbackStore | None = None, **told: Any) -> Iterator[str]:
    settings = ServeSettings(**{"port": 0, "runtime": "torch", "threads": 1, "drain_seconds": 10.0, **told})
    with serving([made["one"]], settings, processes=processes, store=store) as address:
        yield address


@contextmanager
def asking(address: str, *, may_go: bool = False, feedback: bool = False) -> Iterator[Counter[Any]]:
    """Two clients that ask while the block lasts, and say something of every fourth answer where there is feedback.

    Counts (version, text, label) of answers, ids of feedback that was acknowledged, and what else came.
    """
    seen, stop = Counter[Any](), threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            text = TEXTS[number % len(TEXTS)]
            says = feedback and number % 4 == 0
            body = {"branch": "one", "row": {"text": text}, "rating": 1} if says else {"inputs": text}
            try:
                status, found = ask(address, "POST", "/v1/feedback" if says else "/v1/predict", body)
            except (OSError, http.client.HTTPException):
                seen["lost", 0 if may_go else 1] += 1
                stop.wait(0.01)
                continue
            if status == 200:
                seen["answer", found["versions"]["one"], text, found["answers"][0]["one"]["label"]] += 1
            elif status == 201:
                seen["feedback", found["id"]] += 1
            else:
                seen["refused", found["error"]["code"]] += 1

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def judged(seen: Counter[Any], place: Path | None = None) -> dict[str, Any]:
    """How many answers there were, and what was wrong: two labels for one text and version, a refusal, a lost request.

    place: the feedback store, where what was acknowledged has to be.
    """
    labels: dict[Any, set[str]] = {}
    for key in seen:
        if key[0] == "answer":
            labels.setdefault(key[1:3], set()).add(key[3])
    wrong = Counter[str]()
    wrong["mixed"] = sum(len(found) > 1 for found in labels.values())
    for key, number in seen.items():
        wrong["lost"] += number if key == ("lost", 1) else 0
        wrong["refused"] += number if key[0] == "refused" and key[1] != "draining" else 0
        wrong["swap"] += number if key[0] == "swap" and key[1] != 200 else 0
    counts = {"answers": sum(number for key, number in seen.items() if key[0] == "answer")}
    if place is not None:
        acknowledged, store = {key[1] for key in seen if key[0] == "feedback"}, FeedbackStore(place)
        store.verify()
        wrong["unkept"] = len(acknowledged - {record.id for record in store.records()})
        store.close()
        counts["feedback"] = len(acknowledged)
    return {**counts, "wrong": dict(+wrong)}


def ask(address: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text.startswith(b"{") and b"\n" not in text.strip() else text
    finally:
        connection.close()


def workers() -> list[int]:
    """The process ids of the workers of this process."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that was just killed has no command line any more
            found += [one.pid] if any("compute.worker" in word for word in one.cmdline()) else []
    return found


def wait(done: Callable[[], Any]) -> None:
    until = time.monotonic() + 300
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("the server did not come back")
        time.sleep(0.05)


def _is_held(end: socket.socket) -> bool:
    """Whether the server neither answered nor closed."""
    try:
        end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()

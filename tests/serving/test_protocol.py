"""HTTP at its edges, over raw sockets: slow clients, huge heads and bodies, two lengths, small pieces; and what is let in."""

import json
import logging
import socket
import time
from urllib.parse import urlsplit

import pytest

from trunkline.serving.edge.gate import Gate
from trunkline.serving.refused import Refused
from trunkline.serving.settings import ServeSettings

HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"


def raw(address, *parts, pause=0.0, seconds=20.0, replies=1):
    """What the server sends until it closes, or goes quiet, or has sent so many replies, and after how long."""
    began = time.monotonic()
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=seconds) as end:
        found = b""
        try:
            for part in parts:
                end.sendall(part)
                time.sleep(pause)
            end.settimeout(seconds)
            while part := end.recv(65536):
                found += part
                if b"connection: close" not in found.lower() and found.endswith(b"}") and found.count(b"HTTP/1.1 ") >= replies:
                    break
        except OSError:
            pass
    return found, time.monotonic() - began


def status(found):
    return int(found.split(b" ", 2)[1]) if found.startswith(b"HTTP/1.1 ") else 0


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        (b"Content-Length: -5\r\n", 400),
        (b"Content-Length: 5, 5\r\n", 400),
        (b"Content-Length: 99999999999999999999999999\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"X: a\x00b\r\n", 400),
    ],
)
def test_two_ways_to_say_a_length_are_one_too_many(client, headers, wanted):
    """Bar S28: refused, and the connection closed, so that nothing behind it is read as another request."""
    found, _ = raw(client.address, b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + headers + b"\r\n0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n")
    assert status(found) == wanted
    assert found.count(b"HTTP/1.1 ") == 1


def test_a_bad_chunk_ends_the_connection(client):
    found, _ = raw(client.address, b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n")
    assert status(found) in (0, 400)
    assert found.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    "headers", [b"X: " + b"a" * 40_000 + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(120)), b"X: " + b"a" * 400_000]
)
def test_a_large_head_is_refused(client, headers):
    """Bar S6; the last one never ends."""
    found, seconds = raw(client.address, b"GET /livez HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert status(found) in (431, 0)  # 0: it was closed while this end still wrote
    assert seconds < 10


def test_a_large_body_is_refused_before_it_is_read(client):
    """Bar S7: by what Content-Length says; chunked when it is too much."""
    found, _ = raw(client.address, b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 10000000000\r\n\r\n{")
    assert status(found) == 413
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    found, _ = raw(client.address, b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40)
    assert status(found) in (413, 0)
    assert client("GET", "/livez")[0] == 200


@pytest.mark.slow
def test_three_megabytes_in_pieces_of_six_bytes(client):
    """Bar S8: refused at the limit, though the body does not end, and so without waiting for more."""
    pieces = b"6\r\n      \r\n" * ((3 << 20) // 6)
    head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    found, seconds = raw(client.address, head, pieces, seconds=120.0)
    assert status(found) in (413, 0)  # 0: it was closed while this end still wrote
    assert seconds < 25  # a body that is waited for has 30
    assert client("GET", "/livez")[0] == 200


def test_slow_clients_are_cut_off(server):
    """Bar S5: a head that comes a byte at a time, a body that does not come, a connection that says nothing. uvicorn alone waits for good."""
    with server("mood", header_seconds=0.5, body_seconds=0.5) as client:
        head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON
        for parts, code in (
            ([head[at : at + 1] for at in range(40)], 408),
            ([head + b"Content-Length: 50\r\n\r\n", b"{"], 408),
            ([b""], 408),
        ):
            found, seconds = raw(client.address, *parts, pause=0.05)
            assert status(found) in (code, 0)
            assert seconds < 8
        assert client.predict("card")[0] == 200


def test_what_the_protocol_refuses_has_an_id_a_line_and_a_count(server, caplog):
    """Before any route: the id in the body, in the header and in the log is one, and none is given twice."""
    head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON
    with server("mood", header_seconds=0.5, body_seconds=0.5) as client, caplog.at_level(logging.INFO, "trunkline.serving.access"):
        told = []
        for parts, code in (
            ([b"no http\r\n\r\n"], "bad_http"),
            ([head + b"Transfer-Encoding: gzip, chunked\r\n\r\n"], "bad_length"),
            ([head + b"".join(b"X-%d: a\r\n" % n for n in range(120)) + b"\r\n"], "head_too_large"),
            ([b"POST"], "too_slow"),
            ([head + b"Content-Length: 50\r\n\r\n", b"{"], "too_slow"),
        ):
            found, _ = raw(client.address, *parts)
            lines, _, body = found.partition(b"\r\n\r\n")
            error = json.loads(body)["error"]
            assert error["code"] == code
            assert b"x-request-id: " + error["request_id"].encode() in lines
            told.append((error["request_id"], code))
        counted = client("GET", "/metrics")[2].decode()
    written = [json.loads(record.getMessage()) for record in caplog.records if record.name == "trunkline.serving.access"]
    assert [(line["id"], line["code"]) for line in written if line["event"] == "cut"] == told
    assert len({identity for identity, _ in told}) == 5
    assert told[-1][0] in {line["id"] for line in written if line["event"] == "request"}, "the guard knew this one"
    assert 'trunkline_refused_total{reason="too_slow"} 2.0' in counted


def test_a_kept_connection_takes_many_requests(client):
    body = json.dumps({"inputs": "card"}).encode()
    one = b"POST /v1/predict HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body
    found, _ = raw(client.address, one * 3, replies=3)  # pipelined, too
    assert found.count(b"HTTP/1.1 200") == 3


def test_the_gate_is_bounded_by_requests_tokens_and_time():
    """Bar S3 and S2: full is 429, too long a wait 503, each with a time to come back."""
    gate = Gate(ServeSettings(max_queue=20, max_queue_tokens=1000, max_wait=0.5))
    held = [gate.admit(10) for _ in range(20)]
    for one in held:
        one.__enter__()
    with pytest.raises(Refused, match="20 requests") as refused, gate.admit(1):
        pass
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    for one in held:
        one.__exit__(None, None, None)
    assert (gate.requests, gate.tokens) == (0, 0)
    with gate.admit(5000), pytest.raises(Refused, match="1,000 tokens"), gate.admit(1):  # alone it is let in, however large
        pass
    gate.rate = 100.0
    held = [gate.admit(10) for _ in range(16)]
    for one in held:
        one.__enter__()
    with pytest.raises(Refused) as refused, gate.admit(1):
        pass
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert int(refused.value.headers["retry-after"]) >= 1

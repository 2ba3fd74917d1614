"""Branches are added, replaced, tried on a share, taken back and removed while requests go on; feedback goes to the store."""

import contextlib
import socket
import threading
from http.client import HTTPException

import pytest

from tests import tiny
from trunkline.errors import DataError, OptionError
from trunkline.serving.client import Client, ServerError
from trunkline.serving.compute.pool import version_of
from trunkline.serving.deployments import inside

TEXTS = tiny.TEXTS


def label_of(client, text, **told):
    status, _, found = client.predict(text, branches=["intent"], **told)
    assert status == 200, found
    return found["answers"][0]["intent"]["label"], found["versions"]["intent"]


def test_a_swap_drops_no_request_and_mixes_no_version(server, folders):
    """Bar S19, ten swaps; bench/soak.py does a hundred."""
    root = folders["intent"].parent
    with server("intent", root=str(root)) as client:
        first, second = version_of(folders["intent"]), version_of(folders["intent-2"])
        right = {}
        for name, version in (("intent", first), ("intent-2", second)):
            assert client("PUT", "/v1/branches/intent", {"folder": name})[0] == 200
            right[version] = {text: label_of(client, text)[0] for text in TEXTS}
        assert right[first] != right[second]
        stop, wrong, count = threading.Event(), [], [0]

        def ask():
            while not stop.is_set():
                text = TEXTS[count[0] % len(TEXTS)]
                status, _, found = client.predict(text)
                count[0] += 1
                if status != 200 or found["answers"][0]["intent"]["label"] != right[found["versions"]["intent"]][text]:
                    wrong.append((status, found))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(10):
            status, _, found = client("PUT", "/v1/branches/intent", {"folder": ("intent", "intent-2")[number % 2]})
            assert (status, found["version"]) == (200, (first, second)[number % 2])
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert count[0] > 5


def test_a_bad_branch_changes_nothing(server, folders, tmp_path):
    with server("intent", root=str(folders["intent"].parent)) as client:
        before = label_of(client, TEXTS[0])
        for folder, code in (("nothing", 422), ("../../etc", 422), ("/etc", 422), ("intent/../../x", 422), ("a\0b", 400), ("", 422)):
            status, _, found = client("PUT", "/v1/branches/intent", {"folder": folder})
            assert status == code, (folder, found)
            assert str(tmp_path.parent) not in str(found)
        assert client("PUT", "/v1/branches/..%2f..%2fx", {"folder": "intent"})[0] in (404, 422)
        assert client("PUT", "/v1/branches/UPPER", {"folder": "intent"})[0] == 422
        assert label_of(client, TEXTS[0]) == before


def test_what_is_not_served_is_told_from_what_is_wrong(server, folders):
    """404 for a name that nothing is served under, 422 for all else, whatever words stand in it."""
    with server("intent", root=str(folders["intent"].parent)) as client:
        for method, path, body, status, code in (
            ("DELETE", "/v1/branches/other", None, 404, "unknown_branch"),
            ("POST", "/v1/branches/other/promote", {}, 404, "unknown_branch"),
            ("PUT", "/v1/branches/other/canary", {"folder": "intent-2", "share": 0.5}, 404, "unknown_branch"),
            ("PUT", "/v1/branches/unknown!", {"folder": "intent-2"}, 422, "unusable_branch"),
            ("PUT", "/v1/branches/intent", {"folder": "unknown"}, 422, "unusable_branch"),
            ("POST", "/v1/branches/intent/promote", {}, 422, "unusable_branch"),
        ):
            found = client(method, path, body)
            assert (found[0], found[2]["error"]["code"]) == (status, code), (method, path)


def test_a_canary_has_its_share_and_is_taken_back_at_once(server, folders):
    with server("intent", root=str(folders["intent"].parent)) as client:
        old = label_of(client, TEXTS[0])[1]
        status, _, found = client("PUT", "/v1/branches/intent/canary", {"folder": "intent-2", "share": 0.3})
        assert (status, found["canary"]["share"]) == (200, 0.3)
        users = [f"user-{number}" for number in range(60)]
        seen = {user: label_of(client, TEXTS[0], user=user)[1] for user in users}
        assert 6 <= sum(version != old for version in seen.values()) <= 30
        assert all(label_of(client, TEXTS[0], user=user)[1] == seen[user] for user in users[:5]), "the same user, the same version"
        assert client("POST", "/v1/branches/intent/rollback", {})[0] == 200
        assert {label_of(client, TEXTS[0], user=user)[1] for user in users[:10]} == {old}
        client("PUT", "/v1/branches/intent/canary", {"folder": "intent-2", "share": 0.5})
        assert client("POST", "/v1/branches/intent/promote", {})[2]["before"] == old
        assert label_of(client, TEXTS[0])[1] != old
        assert client("POST", "/v1/branches/intent/rollback", {})[2]["version"] == old
        assert client("POST", "/v1/branches/intent/promote", {})[0] == 422


@pytest.mark.parametrize(
    ("method", "path", "headers", "count"),
    [
        ("GET", "/v1/branches", {}, 3),
        ("PUT", "/v1/branches/intent", {}, 3),
        ("POST", "/v1/predict", {}, 3),
        ("POST", "/v1/batch?branches=intent", {}, 3),
        ("POST", "/v1/feedback", {"Idempotency-Key": "a"}, 3),
        ("POST", "/v1/feedback", {}, 1),
        ("POST", "/v1/branches/intent/promote", {}, 1),
        ("POST", "/v1/branches/intent/rollback", {}, 1),
        ("DELETE", "/v1/branches/intent", {}, 1),
    ],
)
def test_what_could_be_done_twice_is_not_asked_again(method, path, headers, count):
    """A server that does what it is asked, and whose reply is lost."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def loses() -> None:
            with contextlib.suppress(OSError):
                while True:
                    end, _ = listening.accept()
                    with end:
                        asked.append(end.recv(1000))

        thread = threading.Thread(target=loses)
        thread.start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", tries=3) as client, pytest.raises((OSError, HTTPException)):
            client.call(method, path, {}, headers)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(asked) == count


def test_a_kept_connection_that_ended_is_no_reason_to_give_up(server, folders):
    with server("intent", root=str(folders["intent"].parent)) as address, Client(address.address) as client:
        client.branches()
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        client.call("PUT", "/v1/branches/intent/canary", {"folder": "intent-2", "share": 0.5})
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        assert "before" in client.call("POST", "/v1/branches/intent/promote", {})


def test_adding_and_removing(server, folders):
    with server("intent", root=str(folders["intent"].parent)) as client:
        assert client("PUT", "/v1/branches/feeling", {"folder": "mood"})[0] == 200
        assert set(client.predict(TEXTS[0])[2]["answers"][0]) == {"intent", "feeling"}
        assert client("DELETE", "/v1/branches/feeling")[0] == 200
        assert client("DELETE", "/v1/branches/feeling")[0] == 404
        assert client.predict(TEXTS[0], branches=["feeling"])[0] == 404


def test_without_a_root_nothing_is_added(client):
    status, _, found = client("PUT", "/v1/branches/intent", {"folder": "mood"})
    assert (status, found["error"]["code"]) == (422, "unusable_branch")
    with pytest.raises(OptionError, match="--root"):
        inside(None, "mood")


class Memory:
    """A store that keeps what it is given."""

    def __init__(self):
        self.kept, self.closed = [], False

    def add(self, entry, *, who, idempotency_key=None):
        if entry["label"] == "wrong":
            raise DataError("label='wrong': unknown")
        if entry["label"] == "full":
            raise OSError(28, "no space")
        self.kept.append((entry, who, idempotency_key))
        return str(len(self.kept))

    def close(self):
        self.closed = True


def test_feedback_is_kept_before_it_is_acknowledged(server):
    store = Memory()
    with server("mood", store=store) as client, Client(client.address) as asking:
        given = asking.feedback("mood", {"text": "thanks"}, key="k1", label="card", subject="person-1")
        assert given == "1"
        entry, who, key = store.kept[0]
        assert (entry["row"], entry["label"], who, key) == ({"text": "thanks"}, "card", "local", "k1")
        with pytest.raises(ServerError, match="422 unusable_feedback"):
            asking.feedback("mood", {"text": "thanks"}, key="k2", label="wrong")
        assert client("POST", "/v1/feedback", {"branch": "mood", "row": {"text": "a"}, "label": "full"})[0] == 503
        assert client.predict("card")[0] == 200
    assert store.closed


def test_the_client_answers_as_the_server(server):
    with server("mood") as client, Client(client.address) as asking:
        assert asking.predict("card")["mood"]["label"]
        assert len(asking.predict(["card", "order"], ["mood"])) == 2
        assert [one["name"] for one in asking.branches()] == ["mood"]
        with pytest.raises(ServerError, match=r"404 unknown_branch.*Did you mean 'mood'"):
            asking.predict("card", ["moood"])
    with pytest.raises(OptionError, match="http://HOST"):
        Client("localhost:8000")


def test_metrics_count_what_the_client_counts(server):
    """Bar S24: exactly, and few series."""
    with server("mood", "intent") as client:
        for _ in range(30):
            client.predict(["card", "order"], branches=["mood"])
        for _ in range(5):
            client.predict("card", branches=["none"])
        page = client("GET", "/metrics")[2].decode()
    assert 'trunkline_requests_total{route="/v1/predict",status="200"} 30.0' in page
    assert 'trunkline_requests_total{route="/v1/predict",status="404"} 5.0' in page
    assert 'trunkline_refused_total{reason="unknown_branch"} 5.0' in page
    assert sum(line.startswith("trunkline_answers_total") and line.endswith(" 60.0") for line in page.splitlines()) == 1
    assert len([line for line in page.splitlines() if not line.startswith("#")]) < 1000

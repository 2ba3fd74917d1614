"""What stands before the routes: keys, scopes, hosts, origins, quotas; and that no route is without."""

import json
import logging
import re

import pytest

from trunkline.errors import ArtefactError, OptionError
from trunkline.serving import openai
from trunkline.serving.app import routers
from trunkline.serving.edge.gate import Minute, Quotas
from trunkline.serving.edge.guard import OPEN, scope_of
from trunkline.serving.edge.keys import Keys, add_key, told
from trunkline.serving.generator import Generator
from trunkline.serving.refused import Refused
from trunkline.serving.serve import service
from trunkline.serving.settings import ServeSettings

CANARIES = [f"{word}-{number}@canary.example" for number in range(10) for word in ("mail", "card4111", "sk-key", "prompt")]
"""Bar S17: 40 texts that must be in no log, no label and no error."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, {scope: add_key(path, f"a-{scope}", (scope,)) for scope in ("infer", "feedback", "admin")}


@pytest.fixture
def locked(server, keys):
    with server("mood", keys=str(keys[0])) as client:
        yield client


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def routes():
    """Every method and path that is mounted, those for branches that write among them."""
    made = service([], ServeSettings(root="."), None, None, None)
    mounted = [*routers(made), openai.router(made, Generator({}))]
    found = [(method, route.path) for router in mounted for route in router.routes for method in route.methods]
    return [*found, ("GET", "/openapi.json")]


def test_every_route_but_one_needs_a_key(locked, keys):
    """Bar S13: the routes are those that the application has, not those that somebody remembered."""
    found = routes()
    assert len(found) >= 19
    assert ("POST", "/v1/chat/completions") in found
    for method, path in found:
        path = re.sub(r"\{[^}]*\}", "mood", path)
        status, headers, body = locked(method, path, None if method == "GET" else {})
        assert status == (200 if path in OPEN else 401), (method, path)
        assert path in OPEN or (headers["www-authenticate"] and body["error"]["code"] == "key_missing")
    assert {"/livez"} == OPEN


def test_each_scope_opens_its_routes_alone(locked, keys):
    _, secrets = keys
    for method, path in routes():
        wanted = scope_of(method, re.sub(r"\{[^}]*\}", "mood", path))
        for scope, secret in secrets.items():
            status = locked(method, re.sub(r"\{[^}]*\}", "none", path), None if method == "GET" else {}, bearer(secret))[0]
            assert (status == 403) == (wanted not in (None, scope)), (method, path, scope)
    assert scope_of("DELETE", "/v1/branches/mood") == "admin"
    assert scope_of("GET", "/v1/branches") == scope_of("POST", "/what/comes/later") == "infer"


def test_keys_are_kept_as_sums(keys):
    path, secrets = keys
    text = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert not any(secret in text for secret in secrets.values())
    assert Keys(path).find(secrets["infer"]).name == "a-infer"
    assert Keys(path).find(secrets["infer"] + "x") is None
    with pytest.raises(OptionError, match="has a key of this name"):
        add_key(path, "a-infer", ("infer",))
    with pytest.raises(OptionError, match="Did you mean 'admin'"):
        add_key(path, "b", ("admn",))


@pytest.mark.parametrize(
    "text", ["", "{}", '{"keys": []}', '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "scopes": ["all"], "sha256": ""}]}']
)
def test_a_damaged_file_of_keys_is_refused(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ArtefactError, match="trunkline keys"):
        Keys(tmp_path / "keys.json")


def test_what_an_authorization_says():
    assert told("Bearer abc") == told("bearer  abc") == "abc"
    assert told("Basic dXNlcjphYmM=") == "abc"
    assert told(None) is told("Basic !") is told("Basic /w==") is told("Digest x") is None


def test_another_address_needs_keys():
    with pytest.raises(OptionError, match="there is no API key"):
        ServeSettings(host="0.0.0.0")


def test_wrong_keys_are_counted(locked, keys):
    """Bar S14: ten a minute from one address; then it has to wait, whatever it sends."""
    for _ in range(10):
        assert locked("GET", "/v1/branches", headers=bearer("tl-wrong"))[0] == 401
    status, headers, _ = locked("GET", "/v1/branches", headers=bearer(keys[1]["infer"]))
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 60
    assert locked("GET", "/livez")[0] == 200


def test_a_key_has_so_many_requests_a_minute(server, keys):
    with server("mood", keys=str(keys[0]), per_minute=20) as client:
        found = [client.predict("card", **{})[0] for _ in range(1)]
        assert found == [401]
        replies = [client("POST", "/v1/predict", {"inputs": "card"}, bearer(keys[1]["infer"])) for _ in range(25)]
    assert [reply[0] for reply in replies] == [200] * 20 + [429] * 5
    assert replies[0][1]["x-ratelimit-remaining-requests"] == "19"
    assert replies[-1][2]["error"]["type"] == "rate_limit_error"
    assert int(replies[-1][1]["retry-after"]) > 50


def test_quotas_are_exact_over_a_moving_minute():
    """Bar S14: within 5%, with a clock that is told what time it is."""
    now = [0.0]
    quotas = Quotas(600, 5000, clock=lambda: now[0])
    let_in, refused = [], 0
    for step in range(60 * 60):  # three minutes, 20 tries a second
        now[0] = step / 20
        try:
            quotas.request("a")
            let_in.append(now[0])
        except Refused:
            refused += 1
    for start in range(0, 120, 7):
        assert sum(start <= at < start + 60 for at in let_in) <= 600 * 1.05
    assert len(let_in) >= 3 * 600 * 0.95
    assert refused
    quotas.tokens("a", 5000)
    with pytest.raises(Refused, match="5000 tokens a minute"):
        quotas.tokens("a", 1)
    quotas.tokens("b", 5000)


def test_bad_addresses_do_not_fill_the_memory():
    quotas = Quotas(0, 0)
    for number in range(10_000):
        quotas.bad_key(str(number))
    assert len(quotas._bad) <= 4096
    assert Minute().seconds_left() == 0.0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 200),
    ],
)
def test_pages_of_other_sites_get_nothing(client, headers, status):
    """Bar S15: neither by another name for this address (DNS rebinding) nor from another origin; and no header lets them read."""
    found = client("GET", "/v1/branches", headers=headers)
    assert found[0] == status
    assert not [name for name in found[1] if name.startswith("access-control-")]


def test_a_get_changes_nothing():
    assert {path for method, path in routes() if method == "GET"} == {
        "/", "/openapi.json", "/livez", "/readyz", "/startupz", "/metrics", "/v1/branches", "/v1/models", "/v1/models/{name}",
    }  # fmt: skip


def test_no_text_of_a_user_is_in_a_log_a_label_or_an_error(server, keys, caplog, capfd):
    """Bar S17 and S18: in bodies, headers, queries and paths, of good requests and of bad ones."""
    caplog.set_level(logging.DEBUG)
    errors = []
    with server("mood", keys=str(keys[0])) as client:
        admin, infer = bearer(keys[1]["admin"]), bearer(keys[1]["infer"])
        for at, canary in enumerate(CANARIES):
            replies = [
                client("POST", "/v1/predict", {"inputs": canary}, {**infer, "X-Text": canary}),
                client("POST", f"/v1/batch?branches={canary}", b"{}", infer),
                client("GET", f"/v1/branches/{canary}?x={canary}", None, infer),
                client("POST", "/v1/predict", f'{{"inputs": "{canary}"'.encode(), infer),
                client("POST", "/v1/predict", {"inputs": [canary] * 40}, infer),
                client("POST", "/v1/predict", {"inputs": canary, "user": canary, canary: 1}, infer),
                client("PUT", f"/v1/branches/{canary}", {"folder": canary}, admin),
            ]
            errors += [reply[2] for reply in replies[3:5]]
            if at < 3:
                client("POST", "/v1/predict", {"inputs": "a"}, bearer(canary))
        pages = [client("GET", "/metrics", headers=admin)[2].decode(), json.dumps(errors)]
    captured = capfd.readouterr()
    pages += [captured.out, captured.err, "\n".join(record.getMessage() for record in caplog.records)]
    assert "request" in pages[-1]
    assert not [canary for canary in CANARIES for page in pages if canary in page]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", pages[-1].replace("\n", ""))
    assert not any(word in pages[1] for word in ("Traceback", "/trunkline/", ".py", "site-packages"))

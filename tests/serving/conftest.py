"""Saved branches, and a real server on a free port of this machine, made once for all tests of a file that only ask."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serving import samples
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings


class Client:
    """Asks one server; each call on a connection of its own unless `keep`."""

    def __init__(self, address: str) -> None:
        self.address, self.host = address, urlsplit(address).netloc

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers with small letters, and the body, JSON where it is."""
        connection = http.client.HTTPConnection(self.host, timeout=300)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        own = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, {**own, **(headers or {})})
            reply = connection.getresponse()
            text, found = reply.read(), {name.lower(): value for name, value in reply.getheaders()}
        finally:
            connection.close()
        return reply.status, found, json.loads(text) if found.get("content-type", "").startswith("application/json") else text

    def predict(self, inputs: Any, **told: Any) -> tuple[int, dict[str, str], Any]:
        return self("POST", "/v1/predict", {"inputs": inputs, **told})


@pytest.fixture(scope="session")
def folders(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved branches by name: two heads, one of depth 1, one that tags, and another state of the first."""
    root = tmp_path_factory.mktemp("branches")
    backbone = samples.load_backbone(tiny_folder("bert"))
    made = {
        "intent": samples.branch(backbone, depth=1, seed=1),
        "mood": samples.branch(backbone, depth=0, seed=2),
        "things": samples.branch(backbone, "tag", depth=1, seed=3),
        "intent-2": samples.branch(backbone, depth=1, seed=4),
    }
    return {name: branch.save(root / name) for name, branch in made.items()}


@pytest.fixture
def server(folders: dict[str, Path]) -> Callable[..., Any]:
    """`with server("intent", per_minute=5) as client:` a server of these branches with these settings."""
    from contextlib import contextmanager

    @contextmanager
    def run(*names: str, store: Any = None, processes: bool = False, **told: Any) -> Iterator[Client]:
        settings = ServeSettings(**{"port": 0, "runtime": "torch", "drain_seconds": 5.0, "threads": 1, **told})
        with serving([folders[name] for name in names], settings, store=store, processes=processes) as address:
            yield Client(address)

    return run


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[Client]:
    """A server of three branches that tests of a file share."""
    names = ("intent", "mood", "things")
    with serving([folders[name] for name in names], ServeSettings(port=0, runtime="torch", drain_seconds=5.0)) as address:
        yield Client(address)

"""Everything that `serve` can be told, each with its default: flags, docs and limits come from here. Light: read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trunkline.choices import between, one_of
from trunkline.errors import OptionError

RUNTIMES = ("auto", "torch", "onnx")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServeSettings:
    """How to serve. Every limit is per request unless its help says otherwise."""

    host: str = _say("127.0.0.1", "address to listen on; another than loopback needs --keys")
    port: int = _say(8000, "port to listen on; 0: any free one, which is printed")
    keys: str | None = _say(None, "file of API keys, made by `trunkline keys`; none: no key is asked for, on loopback only")
    hosts: str = _say("", "names that a request may call this server by, with commas between them, beside loopback's")
    root: str | None = _say(None, "folder that branches may be added from while serving; none: none may")
    feedback: str | None = _say(None, "where feedback is kept: a file or a database URL; none: feedback is refused")
    workers: int = _say(0, "processes that compute; 0: one for each four cores")
    threads: int = _say(0, "threads of each of them; 0: the cores, divided among the workers")
    runtime: str = _say("auto", f"what computes: one of {', '.join(RUNTIMES)}; auto: what is fastest here and gives equal states")
    cache_mb: int = _say(64, "megabytes of states of texts that were seen before, each worker; 0: none")
    max_queue: int = _say(512, "requests that may wait or be computed at once, of all clients")
    max_queue_tokens: int = _say(131072, "tokens that may wait or be computed at once, of all clients")
    max_wait: float = _say(0.5, "seconds that a request may expect to wait; where it would be more it is refused at once")
    deadline: float = _say(10.0, "seconds in which a request is answered or given up")
    max_inputs: int = _say(32, "texts")
    max_cost: int = _say(131072, "tokens, each counted for every branch that is asked")
    max_characters: int = _say(100000, "characters of one text")
    max_body: int = _say(2 << 20, "bytes of a body")
    max_batch_rows: int = _say(100000, "rows of a batch file")
    header_seconds: float = _say(10.0, "seconds in which the head of a request has to arrive")
    body_seconds: float = _say(30.0, "seconds in which a body has to arrive; and a client has to take what is sent to it")
    max_connections: int = _say(2048, "connections at once, of all clients")
    per_minute: int = _say(0, "requests a minute of one key; 0: no limit")
    tokens_per_minute: int = _say(0, "tokens a minute of one key; 0: no limit")
    stuck_seconds: float = _say(20.0, "a worker whose batch takes longer is replaced")
    drain_seconds: float = _say(30.0, "seconds that requests have to end in after SIGTERM")

    def __post_init__(self) -> None:
        one_of("runtime", self.runtime, RUNTIMES)
        for name, low, high in (("port", 0, 65535), ("workers", 0, 256), ("threads", 0, 1024), ("cache_mb", 0, 1 << 20), ("max_queue", 1, 1 << 20),
                                ("max_queue_tokens", 256, 1 << 30), ("max_wait", 0.01, 3600), ("deadline", 0.05, 3600), ("max_inputs", 1, 4096),
                                ("max_cost", 4, 1 << 30), ("max_characters", 1, 1 << 26), ("max_body", 1024, 1 << 30), ("max_batch_rows", 1, 1 << 26),
                                ("header_seconds", 0.1, 600), ("body_seconds", 0.1, 3600), ("max_connections", 1, 1 << 20), ("per_minute", 0, 1 << 30),
                                ("tokens_per_minute", 0, 1 << 40), ("stuck_seconds", 0.1, 3600), ("drain_seconds", 0, 3600)):  # fmt: skip
            between(name, getattr(self, name), low, high)
        if self.host not in LOOPBACK and not self.keys:
            raise OptionError(
                f"host={self.host!r}: others could reach this server, and there is no API key. Make some and give their file: "
                "trunkline keys keys.json --name app; trunkline serve ... --keys keys.json"
            )

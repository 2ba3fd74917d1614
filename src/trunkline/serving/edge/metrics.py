"""What is counted, for Prometheus. Labels are routes, branches, codes and reasons: never anything that a user wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_MOST_NAMES = 64
"""Branches with a series of their own; more share one, so that their number stays bounded whatever is added."""


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "trunkline"}
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **own)  # type: ignore[arg-type]
        self.answers = Counter("answers", "Texts answered, by branch and version", ["branch", "version"], **own)  # type: ignore[arg-type]
        self.refused = Counter("refused", "Requests refused, by reason", ["reason"], **own)  # type: ignore[arg-type]
        self.tokens = Counter("tokens", "Tokens computed, each text once", **own)  # type: ignore[arg-type]
        self.seconds = Histogram("request_seconds", "From the head of a request to its answer", ["route"], buckets=_SECONDS, **own)  # type: ignore[arg-type]
        self.waited = Histogram("queue_seconds", "In the queue of a worker", buckets=_SECONDS, **own)  # type: ignore[arg-type]
        self.computed = Histogram("batch_seconds", "Computing a batch", buckets=_SECONDS, **own)  # type: ignore[arg-type]
        self.batch = Histogram("batch_requests", "Requests in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **own)  # type: ignore[arg-type]
        self.queue = Gauge("queue", "Requests let in and not yet answered", **own)  # type: ignore[arg-type]
        self.queue_tokens = Gauge("queue_tokens", "Their tokens, as estimated", **own)  # type: ignore[arg-type]
        self.changes = Gauge("branch_changes", "How often the branches that are served were changed", **own)  # type: ignore[arg-type]
        self.restarts = Gauge("worker_restarts", "How often a worker was started again", **own)  # type: ignore[arg-type]
        self._names: set[str] = set()

    def name(self, branch: str) -> str:
        """The label of a branch."""
        if branch not in self._names and len(self._names) >= _MOST_NAMES:
            return "other"
        self._names.add(branch)
        return branch

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

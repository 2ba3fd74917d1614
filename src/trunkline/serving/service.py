"""What the routes share: settings, the branches that are served, what computes, who is let in, what is counted, the feedback store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from trunkline.serving.compute.pool import Compute
from trunkline.serving.deployments import Deployments
from trunkline.serving.edge.gate import Gate, Quotas
from trunkline.serving.edge.metrics import Metrics
from trunkline.serving.settings import ServeSettings
from trunkline.serving.store import Store


@dataclass
class Service:
    """writers: the branches that write texts, by name, for routes that stream them; they are not among those that /v1/predict asks.

    first: the branches that are loaded at the start, by name; model: the backbone, where it is not found under the name it was tuned with
    """

    settings: ServeSettings
    compute: Compute
    first: dict[str, Path] = field(default_factory=dict)
    writers: dict[str, Path] = field(default_factory=dict)
    store: Store | None = None
    model: str | None = None
    draining: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.branches, self.gate, self.metrics = Deployments(self.compute), Gate(self.settings), Metrics()
        self.quotas = Quotas(self.settings.per_minute, self.settings.tokens_per_minute)
        self.started = False

    async def start(self) -> None:
        """Load everything. Raises: ArtefactError where a branch cannot be served; then nothing is."""
        await self.compute.start()
        for name, folder in self.first.items():
            await self.branches.put(name, folder, self.model)
        self.started = True

    async def stop(self) -> None:
        """After the last request."""
        await self.compute.close()
        if self.store is not None:
            self.store.close()

    def is_ready(self) -> bool:
        """Whether every branch is loaded, and requests are taken."""
        return self.started and not self.draining and self.compute.is_ready()

"""What the routes share: settings, the branches that are served, what computes, the feedback store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trunkline.serving.settings import ServeSettings
from trunkline.serving.store import Store


@dataclass
class Service:
    """writers: the branches that write texts, by name, for routes that stream them; they are not among those that /v1/predict asks."""

    settings: ServeSettings
    store: Store | None = None
    writers: dict[str, Path] = field(default_factory=dict)
    draining: bool = False

    async def start(self) -> None:
        """Before the first request."""

    async def stop(self) -> None:
        """After the last one."""
        if self.store is not None:
            self.store.close()
